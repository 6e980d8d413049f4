//! Cutting a node off from its peers, by rules in the network of its container: the host still
//! reaches it, so that it can be asked, and called, meanwhile. Needs root.

use std::process::Command;

use crate::engine::{asks, docker};
use crate::harness::{Ran, output};
use crate::project::Project;

/// Whether nodes can be cut off here.
///
/// # Errors
/// Why not.
pub(crate) fn can_cut() -> Result<(), String> {
    let own = asks(Command::new("id").arg("-u"))?;
    if own != "0" {
        return Err("cutting a node off needs root".to_owned());
    }
    for (program, args) in [("nsenter", "--version"), ("iptables", "--version")] {
        asks(Command::new(program).arg(args)).map_err(|why| format!("no {program}: {why}"))?;
    }
    Ok(())
}

/// Rules in the network of one container.
pub(crate) struct Cut {
    process: String,
}

impl Cut {
    /// Drops what goes between a node and these others, both ways.
    pub(crate) async fn between(project: &Project, node: usize, others: &[usize]) -> Self {
        let own = project.container(node).await;
        let process = docker(&["inspect", "--format", "{{.State.Pid}}", &own]).await;
        let cut = Self { process };
        for other in others {
            let address = project.address(*other).await;
            for (chain, side) in [("INPUT", "--source"), ("OUTPUT", "--destination")] {
                let rule = ["--append", chain, side, &address, "--jump", "DROP"];
                cut.iptables(&rule).await.succeeded();
            }
        }
        cut
    }

    /// Takes the rules away. They go with the container too.
    pub(crate) async fn heal(self) {
        self.iptables(&["--flush"]).await.succeeded();
    }

    async fn iptables(&self, rule: &[&str]) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "20", "nsenter", "--target", &self.process, "--net"]);
        command.args(["iptables", "--wait"]).args(rule);
        output(command).await
    }
}
