//! `nigh up` as a process that stays.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::command::{clean, program};
use super::log::Expected;
use super::turn::is_failing;
use super::wait::{Seen, wait_until};
use super::{leash, log, node};

/// A local cluster serves by then.
const READY_LIMIT: Duration = Duration::from_secs(40);
/// It has ended by then, and a moment later.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// A running `nigh up`.
pub(crate) struct Up {
    child: Option<Child>,
    folder: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Up {
    /// Starts it with these flags; what it prints goes into files in `folder`.
    pub(crate) fn start(folder: &Path, args: &[&str]) -> Self {
        let (stdout, stderr) = (folder.join("up.out"), folder.join("up.err"));
        let create = |path| std::fs::File::create(path).expect("the test's folder is writable");
        let mut command = Command::new(program());
        clean(&mut command);
        let child = command
            .arg("up")
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(create(&stdout))
            .stderr(create(&stderr))
            .spawn()
            .expect("the binary starts");
        leash::hold(child.id());
        Self { child: Some(child), folder: folder.to_owned(), stdout, stderr }
    }

    /// What it printed so far.
    pub(crate) fn printed(&self) -> String {
        log::lines(&self.stdout).join("\n")
    }

    /// Waits until it says that it serves.
    pub(crate) async fn serves(&self) {
        wait_until("nigh up says that it serves", READY_LIMIT, || async {
            let printed = self.printed();
            Seen::when(printed.contains("serve after"), (printed, log::lines(&self.stderr)))
        })
        .await;
    }

    /// SIGTERM; how it ended and how long that took. Its nodes must have logged nothing unexpected.
    pub(crate) async fn stop(mut self) -> (ExitStatus, Duration) {
        let mut child = self.child.take().expect("it runs");
        let began = Instant::now();
        node::signal("TERM", child.id());
        let ended = wait_until("nigh up ends after SIGTERM", STOP_LIMIT, || {
            let ended = child.try_wait().expect("it is our child");
            std::future::ready(ended.map_or(Seen::NotYet("it still runs"), Seen::Yes))
        });
        let status = ended.await;
        let took = began.elapsed();
        leash::free(child.id());
        assert_log_expected(&self.folder);
        (status, took)
    }
}

/// Fails when the nodes of a `nigh up` that ran in `folder` logged what nobody expected.
pub(crate) fn assert_log_expected(folder: &Path) {
    let path = log_of(folder);
    assert!(!log::lines(&path).is_empty(), "there is no log at {}", path.display());
    let raft = Expected::new("openraft::", "nodes start and stop at their own times");
    let unexpected = log::unexpected(&path, &[raft], usize::MAX);
    assert!(unexpected.is_empty(), "unexpected in nigh.log:\n{}", unexpected.join("\n"));
}

/// The log of all nodes, in the data folder that `nigh up` makes unless told otherwise.
fn log_of(folder: &Path) -> PathBuf {
    folder.join(".nigh").join("nigh.log")
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // There is nobody left to tell of a failure.
            let _ = child.kill();
            let _ = child.wait();
            leash::free(child.id());
        }
        if is_failing() {
            log::print_tail("nigh up, stdout", &self.stdout);
            log::print_tail("nigh up, stderr", &self.stderr);
            log::print_tail("nigh up, nigh.log", &log_of(&self.folder));
        }
    }
}
