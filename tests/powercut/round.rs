//! One cut: a writer, stopped at some moment; a copy of its disk; a look at the copy.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::device::Device;
use super::part::Part;
use super::writer;

/// A writer that acknowledges nothing for this long is broken.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(60);
/// Least and most acknowledgements before the cut.
const ACKNOWLEDGED: (u64, u64) = (5, 120);

/// What came of a round.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The device was written to while it was copied.
    Dropped,
    /// All that was acknowledged is there.
    Held {
        /// How many acknowledgements.
        acknowledged: u64,
        /// A cache was not usable and was made again.
        rebuilt: bool,
    },
    /// It is not, or the disk does not open.
    Lost(String),
}

/// Rounds of one part.
pub(crate) struct Rounds {
    name: String,
    tried: u64,
    counted: u64,
    acknowledged: u64,
    rebuilt: u64,
    lost: u64,
}

impl Rounds {
    pub(crate) const HEAD: &'static str =
        "part                         tried  counted  acknowledged  rebuilt  lost";

    pub(crate) fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, tried: 0, counted: 0, acknowledged: 0, rebuilt: 0, lost: 0 }
    }

    pub(crate) fn note(&mut self, outcome: &Outcome) {
        self.tried += 1;
        match outcome {
            Outcome::Dropped => return,
            Outcome::Held { acknowledged, rebuilt } => {
                self.acknowledged += acknowledged;
                self.rebuilt += u64::from(*rebuilt);
            }
            Outcome::Lost(_) => self.lost += 1,
        }
        self.counted += 1;
    }

    pub(crate) fn tried(&self) -> u64 {
        self.tried
    }

    pub(crate) fn counted(&self) -> u64 {
        self.counted
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, tried, counted, acknowledged, rebuilt, lost } = self;
        write!(f, "{name:28} {tried:>5} {counted:>8} {acknowledged:>13} {rebuilt:>8} {lost:>5}")
    }
}

/// A writer process; killed when dropped.
struct Writer(Child);

impl Writer {
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success(), "kill -s {name}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a writer of this part run, cuts, and looks. `without` names syncs that are left out.
pub(crate) fn run(part: Part, without: Option<&str>, seed: u64) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::new(&folder.path().join("writer"));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["writer", "--exact", "--nocapture"])
        .env(writer::PART, part.name())
        .env(writer::FOLDER, device.mounted.join("data"))
        .env(writer::SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let Some(without) = without {
        command.env(writer::WITHOUT, without);
    }
    let mut writer = Writer(command.spawn().unwrap());
    let out = BufReader::new(writer.0.stdout.take().unwrap());
    let (heard, lines) = channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if let Some(said) = line.strip_prefix(writer::HELD) {
                let _ = heard.send(said.to_owned());
            }
        }
    });
    let span = ACKNOWLEDGED.1 - ACKNOWLEDGED.0;
    let wanted = ACKNOWLEDGED.0 + seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % span;
    let mut acknowledged = Vec::new();
    while (acknowledged.len() as u64) < wanted {
        match lines.recv_timeout(ACKNOWLEDGE_LIMIT) {
            Ok(said) => acknowledged.push(said),
            Err(RecvTimeoutError::Timeout) => panic!("{}: the writer hangs", part.name()),
            Err(RecvTimeoutError::Disconnected) => panic!("{}: the writer ended", part.name()),
        }
    }
    writer.signal("STOP");
    wait_until_stopped(writer.0.id());
    // What was said before it stopped counts too.
    acknowledged.extend(lines.try_iter());
    let Some(copy) = device.copy(&folder.path().join("copy")) else { return Outcome::Dropped };
    drop(writer);
    drop(device);
    match part.look(&copy.mounted.join("data"), &acknowledged) {
        Ok(rebuilt) => Outcome::Held { acknowledged: acknowledged.len() as u64, rebuilt },
        Err(why) => Outcome::Lost(why),
    }
}

/// Every thread of a process has stopped.
fn wait_until_stopped(pid: u32) {
    let began = Instant::now();
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stopped = threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        });
        if stopped {
            return;
        }
        assert!(began.elapsed() < ACKNOWLEDGE_LIMIT, "the writer does not stop");
        std::thread::yield_now();
    }
}
