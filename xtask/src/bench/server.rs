//! A process that is measured: started, waited for, watched through `/proc`, and ended.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// It listens by then.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Short beside what a start takes, since starts are measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Ticks of `/proc/PID/stat` in a second: the same on every Linux.
const TICKS_A_SECOND: f64 = 100.0;
const CONNECT_LIMIT: Duration = Duration::from_millis(20);
const KIB: u64 = 1_024;

/// A running server. It ends with its value.
pub(super) struct Server {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Server {
    /// Starts it and waits until something listens at this address.
    ///
    /// # Errors
    /// It does not start; says what it logged.
    pub(super) fn start(
        name: &str,
        command: Command,
        folder: &Path,
        address: SocketAddr,
    ) -> Result<Self> {
        let mut server = Self::spawn(name, command, folder)?;
        server.listens(address)?;
        Ok(server)
    }

    /// Starts it only.
    ///
    /// # Errors
    /// There is no such program.
    pub(super) fn spawn(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Waits until something listens at this address.
    ///
    /// # Errors
    /// Nothing does, or it has ended; says what it logged.
    pub(super) fn listens(&mut self, address: SocketAddr) -> Result<()> {
        let began = Instant::now();
        while TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_err() {
            if self.child.try_wait()?.is_some() || began.elapsed() > START_LIMIT {
                bail!("{} does not come up: {}", self.name, self.logged());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Waits until it has said this.
    ///
    /// # Errors
    /// It does not; says what it said instead.
    pub(super) fn says(&self, words: &str) -> Result<()> {
        let began = Instant::now();
        while !self.logged().contains(words) {
            let log = || self.logged();
            ensure!(began.elapsed() < START_LIMIT, "{} never said `{words}`: {}", self.name, log());
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// What it said.
    pub(super) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// CPU time that it has used, in seconds.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn cpu_s(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // After the name, which may hold anything, in parentheses: state is field 3, utime 14.
        let (_, fields) = stat.rsplit_once(')').context("no process name in its stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |field: usize| -> Result<f64> {
            Ok(fields.get(field - 3).context("its stat is short")?.parse::<f64>()?)
        };
        Ok((ticks(14)? + ticks(15)?) / TICKS_A_SECOND)
    }

    /// Memory that it holds now, in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn rss_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        ensure!(kib.is_some(), "{} has no memory: has it ended? {}", self.name, self.logged());
        Ok(kib.unwrap_or_default() * KIB)
    }

    /// Kills it, as a crash would.
    pub(super) fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// An address on loopback that nobody listens at.
///
/// # Errors
/// There is none.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
