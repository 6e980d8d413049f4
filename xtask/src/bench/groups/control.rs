//! Writes to the control plane, beside the disk alone and beside etcd.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::bench::compare::{Measured, P50, RATE, ratio};
use crate::bench::node::Nigh;
use crate::bench::rows::{Found, Outcome};
use crate::bench::server::{Server, free_address};
use crate::bench::{Bench, said};

use super::sample_of;

const CLIENTS: usize = 64;
/// Members of etcd and voters of ours.
const VOTERS: usize = 3;

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let nodes = Nigh::cluster(bench, place, &["eu-west-1"; VOTERS])?;
    let etcd = Etcd::start(place)?;
    let component = bench.component("hello");
    let ours = |what: &str, clients: usize, writes: usize| {
        let mut command = bench.example("clients");
        command.arg(what).arg(&nodes[0].credentials).arg(nodes[0].api.to_string());
        command.args([clients.to_string(), writes.to_string()]);
        command
    };
    let deploys = |clients: usize, writes: usize| {
        let mut command = ours("revisions", clients, writes);
        command.arg(&component);
        command
    };
    let bare = |writes: usize| {
        let mut command = bench.example("baseline");
        command.arg("append").arg(place.join("bare")).arg(writes.to_string());
        command
    };
    let writes = bench.effort.writes;
    let (mut alone, mut disk, mut crowd, mut puts) = (vec![], vec![], vec![], vec![]);
    let (mut deploy_alone, mut deploy_crowd, mut put_alone) = (vec![], vec![], vec![]);
    for _ in 0..bench.effort.rounds {
        disk.push(measured(bare(writes))?);
        alone.push(measured(ours("tokens", 1, writes / 4))?);
        deploy_alone.push(measured(deploys(1, writes / 4))?);
        deploy_crowd.push(measured(deploys(CLIENTS, writes))?);
        crowd.push(measured(ours("tokens", CLIENTS, writes))?);
        if let Some(etcd) = &etcd {
            put_alone.push(measured(etcd.puts(bench, 1, writes / 4))?);
            puts.push(measured(etcd.puts(bench, CLIENTS, writes))?);
        }
    }
    let with_etcd = |above: &[Measured], below: &[Measured], value| match &etcd {
        Some(_) => ratio(above, below, value),
        None => Outcome::Skipped("etcd is not installed (Debian: etcd-server)".to_owned()),
    };
    Ok(vec![
        ("write", ratio(&alone, &disk, P50)),
        ("deploy", ratio(&deploy_alone, &disk, P50)),
        ("etcd write", with_etcd(&put_alone, &disk, P50)),
        ("writes ÷ etcd", with_etcd(&crowd, &puts, RATE)),
        ("deploys ÷ etcd", with_etcd(&deploy_crowd, &puts, RATE)),
    ])
}

fn measured(command: Command) -> Result<Measured> {
    Ok(Measured { sample: sample_of(command)?, ..Measured::default() })
}

/// A cluster of etcd on this machine.
struct Etcd {
    client: String,
    _members: Vec<Server>,
}

impl Etcd {
    /// Starts it, when it is installed.
    fn start(folder: &Path) -> Result<Option<Self>> {
        if said("etcd", &["--version"]).is_none() {
            return Ok(None);
        }
        let mut addresses = Vec::new();
        for _ in 0..VOTERS {
            addresses.push((free_address()?, free_address()?));
        }
        let peers = addresses.iter().enumerate();
        let all: Vec<String> =
            peers.map(|(at, (_, peer))| format!("e{at}=http://{peer}")).collect();
        let mut members = Vec::new();
        for (at, (client, peer)) in addresses.iter().enumerate() {
            let name = format!("e{at}");
            let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
            let mut command = Command::new("etcd");
            command.args(["--name", &name, "--initial-cluster", &all.join(",")]);
            command.arg("--data-dir").arg(folder.join(&name));
            for (flag, url) in [
                ("--listen-client-urls", &client_url),
                ("--advertise-client-urls", &client_url),
                ("--listen-peer-urls", &peer_url),
                ("--initial-advertise-peer-urls", &peer_url),
            ] {
                command.args([flag, url]);
            }
            members.push(Server::spawn(&name, command, folder)?);
        }
        // A member listens to clients when it has a leader: all have to be there first.
        for (member, (client, _)) in members.iter_mut().zip(&addresses) {
            member.listens(*client)?;
        }
        Ok(Some(Self { client: addresses[0].0.to_string(), _members: members }))
    }

    fn puts(&self, bench: &Bench, clients: usize, writes: usize) -> Command {
        let mut command = bench.example("clients");
        command.args(["etcd", &self.client, &clients.to_string(), &writes.to_string()]);
        command
    }
}
