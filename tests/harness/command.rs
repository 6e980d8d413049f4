//! Running `nigh` as a user does.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use super::leash;

/// No verb that a test waits for takes longer.
const LIMIT: Duration = Duration::from_secs(90);

/// How a command ended.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// Its exit status; none when a signal ended it.
    pub(crate) exit: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it said.
    pub(crate) stderr: String,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Ran {
    /// Its output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        self.succeeded();
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON: {error}\n{}", self.stdout))
    }

    /// It must have done what was asked.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &Self {
        assert_eq!(self.exit, Some(0), "exit status; stderr:\n{}", self.stderr);
        self
    }

    /// It must have ended with this status and said all of these things.
    #[track_caller]
    pub(crate) fn refused(&self, exit: i32, said: &[&str]) -> &Self {
        assert_eq!(self.exit, Some(exit), "exit status; stderr:\n{}", self.stderr);
        for text in said {
            assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        }
        self
    }
}

/// The binary that is tested.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_nigh")
}

/// A command without anything from the environment that would change what nigh does.
pub(crate) fn clean(command: &mut std::process::Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NIGH_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
}

/// Runs `nigh` to its end.
pub(crate) async fn nigh<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let mut command = std::process::Command::new(program());
    command.args(args);
    output(command).await
}

/// Runs a command to its end; it must come within the limit. It does not outlive the test.
pub(crate) async fn output(mut command: std::process::Command) -> Ran {
    clean(&mut command);
    let shown = format!("{command:?}");
    let began = Instant::now();
    let child = Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{shown} does not start: {error}"));
    let pid = child.id().expect("it was just started");
    leash::hold(pid);
    let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    leash::free(pid);
    let output = ended.unwrap_or_else(|_| panic!("{shown} did not end within {LIMIT:?}"));
    let output = output.expect("its pipes can be read");
    Ran {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: began.elapsed(),
    }
}
