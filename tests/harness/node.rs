//! One node: a process, its folder and its log.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::command::{clean, program};
use super::leash;
use super::wait::{Seen, wait_until};

/// Nodes log what they do, and which calls they ran.
/// As by default, and each call; what the database says of what it cut off in a crash is left out.
const LOG_FILTER: &str = "warn,nigh=info,nigh::call=debug,sled::pagecache::blob_io=error";
/// A node that is asked to stop and has no long call has ended by then.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Guests compile in a debug build, on a machine that does other things: one at a time.
const COMPILE_THREADS: &str = "1";

/// How a node comes to its cluster.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    /// Begins one.
    Bootstrap,
    /// Joins that of the node with this peer port.
    Join(u16),
    /// Comes back to its own.
    Resume,
}

/// A node, running or not.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    region: String,
    first_port: u16,
    data: PathBuf,
    log: PathBuf,
    join_token: PathBuf,
    args: Vec<String>,
    /// Which build it runs; none: the one that is tested.
    program: Option<PathBuf>,
    child: Option<Child>,
}

impl Node {
    /// A node that does not run yet; its folder and log lie in `folder`.
    pub(crate) fn new(name: &str, region: &str, first_port: u16, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            first_port,
            data: folder.join(name),
            log: folder.join(format!("{name}.log")),
            join_token: folder.join("join-token"),
            args: Vec::new(),
            program: None,
            child: None,
        }
    }

    /// Adds flags.
    pub(crate) fn with(mut self, args: &[String]) -> Self {
        self.args.extend_from_slice(args);
        self
    }

    /// The same node, to be admitted by the token of another one's cluster.
    pub(crate) fn admitted_like(mut self, other: &Self) -> Self {
        self.join_token = other.join_token.clone();
        self
    }

    /// From now on it is admitted by the token in this file.
    pub(crate) fn admit_by(&mut self, token: &Path) {
        self.join_token = token.to_owned();
    }

    /// The same node with another data folder.
    pub(crate) fn with_data(mut self, data: &Path) -> Self {
        self.data = data.to_owned();
        self
    }

    /// Runs this build from the next start on; none: the one that is tested.
    pub(crate) fn set_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    pub(crate) fn http(&self) -> u16 {
        self.first_port
    }

    pub(crate) fn api(&self) -> u16 {
        self.first_port + 1
    }

    pub(crate) fn peer(&self) -> u16 {
        self.first_port + 2
    }

    pub(crate) fn gossip(&self) -> u16 {
        self.first_port + 3
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The same folder while it runs, where it may lie on a disk that only it sees.
    pub(crate) fn data_as_it_sees_it(&self) -> PathBuf {
        let pid = self.child.as_ref().expect("it runs").id();
        let own = self.data.strip_prefix("/").expect("the test's folder has an absolute path");
        Path::new("/proc").join(pid.to_string()).join("root").join(own)
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it is a process now.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Where the node that begins a cluster leaves the token by which the others join it: beside
    /// their logs.
    pub(crate) fn join_token(&self) -> &Path {
        &self.join_token
    }

    /// The command that starts it.
    pub(crate) fn command(&self, start: &Start) -> Command {
        let tested = || PathBuf::from(program());
        let mut command = Command::new(self.program.clone().unwrap_or_else(tested));
        clean(&mut command);
        command.env("NIGH_LOG", LOG_FILTER).env("RUST_BACKTRACE", "1");
        command.arg("node");
        command.args(["--name", &self.name, "--region", &self.region]);
        command.arg("--data").arg(&self.data);
        for (flag, port) in [
            ("--http", self.http()),
            ("--api", self.api()),
            ("--peer", self.peer()),
            ("--gossip", self.gossip()),
        ] {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        command.args(["--compile-threads", COMPILE_THREADS]);
        match start {
            Start::Bootstrap => {
                command.arg("--bootstrap").arg("--write-join-token").arg(self.join_token());
            }
            Start::Join(peer) => {
                command.arg("--join").arg(format!("127.0.0.1:{peer}"));
                command.arg("--join-token").arg(format!("@{}", self.join_token().display()));
            }
            Start::Resume => {}
        }
        command.args(&self.args);
        command
    }

    /// Starts it; what it says is added to its log.
    pub(crate) fn start(&mut self, start: &Start) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.expect("the test's folder is writable");
        let child = self
            .command(start)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        leash::hold(child.id());
        self.child = Some(child);
    }

    /// Ends it as a power cut of its process would: SIGKILL.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
            leash::free(child.id());
        }
    }

    /// Asks it to stop (SIGTERM) and waits until it has; how it ended and how long that took.
    pub(crate) async fn stop(&mut self) -> (ExitStatus, Duration) {
        self.stop_within(STOP_LIMIT).await
    }

    /// The same for a node that may take longer.
    pub(crate) async fn stop_within(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        self.signal("TERM");
        self.ends(limit).await
    }

    /// Waits until it has ended; how, and how long that took.
    pub(crate) async fn ends(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let mut child = self.child.take().expect("it runs");
        let began = Instant::now();
        let name = format!("{} ends", self.name);
        let ended = wait_until(&name, limit, || {
            let ended = child.try_wait().expect("it is our child");
            std::future::ready(ended.map_or(Seen::NotYet("it still runs"), Seen::Yes))
        });
        let status = ended.await;
        leash::free(child.id());
        (status, began.elapsed())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.child.as_ref().expect("it runs").id());
    }

    /// Stops it in its tracks; its sockets stay open and nothing answers.
    pub(crate) fn pause(&self) {
        signal("STOP", self.child.as_ref().expect("it runs").id());
    }

    /// Lets it go on.
    pub(crate) fn unpause(&self) {
        signal("CONT", self.child.as_ref().expect("it runs").id());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // There is nobody left to tell of a failure.
            let _ = child.kill();
            let _ = child.wait();
            leash::free(child.id());
        }
    }
}

/// Sends a signal by way of the shell, which needs neither unsafe code nor another crate.
pub(crate) fn signal(name: &str, pid: u32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status();
    assert!(sent.is_ok_and(|status| status.success()), "cannot send {name} to {pid}");
}
