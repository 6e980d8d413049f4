//! A process that is measured: started, waited for, watched through `/proc`, and ended.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// It answers by then.
const START_LIMIT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Ticks of `/proc/PID/stat` in a second: the same on every Linux.
const TICKS_A_SECOND: f64 = 100.0;
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
        mut command: Command,
        folder: &Path,
        address: SocketAddr,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut server = Self { child, name: name.to_owned(), log };
        let began = Instant::now();
        while TcpStream::connect_timeout(&address, LOOK_INTERVAL).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || began.elapsed() > START_LIMIT {
                bail!("{name} does not come up: {}", server.logged());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(server)
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
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address on loopback that nobody listens at.
///
/// # Errors
/// There is none.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
