//! The container engine: whether it can be used, and asking it. Every client is bounded by
//! `timeout -k`: one whose container hangs does not die of SIGTERM.

use std::process::{Command, Stdio};

use crate::harness::{Ran, output};

/// What the tests start.
pub(crate) const IMAGE: &str = "nigh:local";
/// Seconds that a client may take, and that it has to end then. The harness waits a little longer.
const LIMIT: &str = "80";
const KILL_AFTER: &str = "5";
/// Seconds that it may take when it only asks.
const ASK_LIMIT: &str = "20";

/// The compose that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compose {
    /// `docker compose`.
    Plugin,
    /// `docker-compose`, version 1.
    Program,
}

impl Compose {
    /// What there is; the plugin first, as most have it.
    pub(crate) fn find() -> Result<Self, String> {
        for compose in [Self::Plugin, Self::Program] {
            if asks(&mut compose.command(ASK_LIMIT, &["version"])).is_ok() {
                return Ok(compose);
            }
        }
        Err("there is neither `docker compose` nor docker-compose".to_owned())
    }

    /// A command of it.
    pub(crate) fn command(self, limit: &str, args: &[&str]) -> Command {
        let mut command = match self {
            Self::Plugin => bounded(limit, "docker"),
            Self::Program => bounded(limit, "docker-compose"),
        };
        if self == Self::Plugin {
            command.arg("compose");
        }
        command.args(args);
        command
    }

    /// Runs a command of it to its end, with these variables.
    pub(crate) async fn run(self, env: &[String], args: &[&str]) -> Ran {
        // By `env`, since the harness takes away what a developer has set.
        let mut command = Command::new("env");
        let compose = self.command(LIMIT, args);
        command.args(env).arg(compose.get_program()).args(compose.get_args());
        output(command).await
    }
}

/// Names a file that is to hold why nothing was tried, for whoever sums up.
const NOT_RUN: &str = "COMPOSE_NOT_RUN";

/// The compose to start clusters of containers with; without one, says what is missing.
pub(crate) fn found() -> Option<Compose> {
    let why = match find() {
        Ok(compose) => return Some(compose),
        Err(why) => why,
    };
    eprintln!("skipped: {why}");
    if let Some(file) = std::env::var_os(NOT_RUN) {
        std::fs::write(file, why).unwrap();
    }
    None
}

/// Whether clusters of containers can be started here.
///
/// # Errors
/// What is missing, and how one gets it.
fn find() -> Result<Compose, String> {
    asks(bounded(ASK_LIMIT, "docker").args(["version", "--format", "{{.Server.Version}}"]))
        .map_err(|why| format!("no Docker engine answers ({why})"))?;
    let compose = Compose::find()?;
    let label = "{{index .Config.Labels \"org.opencontainers.image.version\"}}";
    let image = asks(bounded(ASK_LIMIT, "docker").args(["inspect", "--format", label, IMAGE]))
        .map_err(|_| format!("there is no image {IMAGE}: `cargo xtask image` makes it"))?;
    let own = asks(Command::new(env!("CARGO_BIN_EXE_nigh")).arg("--version"))?;
    if image != own {
        return Err(format!(
            "the image {IMAGE} is of another build ({image}, this is {own}): \
             `cargo xtask image` makes it anew"
        ));
    }
    Ok(compose)
}

/// Asks the engine; it must answer.
pub(crate) async fn docker(args: &[&str]) -> String {
    try_docker(args).await.succeeded().stdout.trim().to_owned()
}

/// Asks the engine.
pub(crate) async fn try_docker(args: &[&str]) -> Ran {
    let mut command = bounded(LIMIT, "docker");
    command.args(args);
    output(command).await
}

/// Asks the engine without a runtime, for when a test ends; what it printed, if all went well.
pub(crate) fn docker_now(args: &[&str]) -> Result<String, String> {
    asks(bounded(LIMIT, "docker").args(args))
}

fn bounded(limit: &str, program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", KILL_AFTER, limit, program]);
    command
}

/// Runs a command to its end; what it printed, or what it said.
pub(crate) fn asks(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
