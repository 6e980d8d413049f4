//! Load on a server: by wrk and h2load where they are installed. Their threads are fixed: with another
//! number of them every ratio is another.

mod h2load;
mod open;
mod schedule;
mod wrk;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

pub(super) use h2load::H2;
pub(super) use schedule::{Load, Offering, Phase};

/// Threads of the client.
const THREADS: &str = "2";

/// The programs that send load.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    wrk: bool,
    h2load: bool,
    /// Sends what wrk would.
    nigh: PathBuf,
}

/// What came of one run of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Calls answered as they should be, in a second.
    pub(super) calls_per_s: f64,
    /// All of them.
    pub(super) calls: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Tools {
    /// Those that are installed, and this `nigh` for where wrk is not.
    pub(super) fn find(nigh: PathBuf) -> Self {
        let there = |program| super::said(program, &["--version"]).is_some();
        Self { wrk: there("wrk"), h2load: there("h2load"), nigh }
    }

    /// Why latencies cannot be measured over HTTP/1.1, if they cannot: those of an open loop that is
    /// full are its client's.
    pub(super) fn lacks_wrk(&self) -> Option<String> {
        (!self.wrk).then(|| "wrk is not installed (Debian: wrk)".to_owned())
    }

    /// Why h2load cannot send, if it cannot; nothing else here speaks HTTP/2.
    pub(super) fn lacks_h2load(&self) -> Option<String> {
        (!self.h2load).then(|| "h2load is not installed (Debian: nghttp2-client)".to_owned())
    }

    /// What they are, for the page.
    pub(super) fn versions(&self) -> String {
        let first = |program: &str| {
            let said = super::said(program, &["--version"]).unwrap_or_default();
            let line = said.lines().next().unwrap_or_default();
            line.split(" [").next().unwrap_or_default().to_owned()
        };
        let http1 = match self.wrk {
            true => format!("{} -t{THREADS}", first("wrk")),
            false => "`nigh load`, as wrk is not installed (Debian: wrk)".to_owned(),
        };
        match self.lacks_h2load() {
            None => format!("{http1}; {} -t {THREADS}", first("h2load")),
            Some(why) => format!("{http1}; {why}"),
        }
    }

    /// GET over HTTP/1.1, on so many kept connections at once.
    ///
    /// # Errors
    /// It does not run, or a call failed.
    pub(super) fn get(&self, url: &str, connections: usize, lasts: Duration) -> Result<Sample> {
        match self.wrk {
            true => wrk::get(url, connections, lasts),
            false => open::get(&self.nigh, url, connections, lasts),
        }
    }

    /// The same over HTTP/2, or a POST of a file's bytes.
    ///
    /// # Errors
    /// It does not run, or a call failed.
    pub(super) fn h2(
        &self,
        call: &H2,
        folder: &Path,
        connections: usize,
        lasts: Duration,
    ) -> Result<Sample> {
        h2load::send(call, folder, connections, lasts)
    }
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {text}{said}", output.status);
    Ok(text)
}
