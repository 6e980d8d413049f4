//! What is measured together, and what the groups share.

mod cold;
mod commit;
mod control;
mod copy;
mod forward;
mod hello;
mod herd;
mod http2;
mod idle;
mod memory;
mod neighbours;
mod overload;
mod sleepers;
mod spread;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::compare::Measured;
use super::load::{H2, Load, Offering, Sample};
use super::rows::Found;
use super::server::{Server, free_address};

/// Connections at once, unless a row says otherwise.
const CONNECTIONS: usize = 16;
/// Before the first round, so that code and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);
const KIB: f64 = 1_024.0;
const MIB: f64 = (1 << 20) as f64;

/// Rows that are measured together.
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) measure: fn(&Bench) -> Result<Found>,
}

/// All of them.
pub(super) fn all() -> Vec<Group> {
    vec![
        Group { name: "hello", measure: hello::hello },
        Group { name: "crowd", measure: hello::crowd },
        Group { name: "h2", measure: http2::h2 },
        Group { name: "grpc", measure: http2::grpc },
        Group { name: "forward", measure: forward::measure },
        Group { name: "stream", measure: stream::measure },
        Group { name: "cold", measure: cold::measure },
        Group { name: "tls", measure: tls::measure },
        Group { name: "copy", measure: copy::measure },
        Group { name: "spread", measure: spread::measure },
        Group { name: "memory", measure: memory::measure },
        Group { name: "commit", measure: commit::measure },
        Group { name: "control", measure: control::measure },
        Group { name: "sleepers", measure: sleepers::measure },
        Group { name: "overload", measure: overload::measure },
        Group { name: "neighbours", measure: neighbours::measure },
        Group { name: "herd", measure: herd::measure },
        Group { name: "idle", measure: idle::measure },
    ]
}

/// A server and the load on it.
struct Subject<'a> {
    server: &'a Server,
    load: Box<dyn Fn(Duration) -> Result<Sample> + 'a>,
}

impl Bench {
    fn get<'a>(&'a self, server: &'a Server, url: String, connections: usize) -> Subject<'a> {
        Subject { server, load: Box::new(move |lasts| self.tools.get(&url, connections, lasts)) }
    }

    fn h2<'a>(
        &'a self,
        server: &'a Server,
        call: H2,
        folder: &'a Path,
        connections: usize,
    ) -> Subject<'a> {
        let load = move |lasts| self.tools.h2(&call, folder, connections, lasts);
        Subject { server, load: Box::new(load) }
    }

    /// Begins an open loop.
    fn offer(&self, load: &Load<'_>) -> Result<Offering> {
        Offering::begin(self.example("openloop"), load)
    }

    fn component(&self, example: &str) -> PathBuf {
        self.root.join("examples").join(example).join(format!("{example}.wasm"))
    }

    fn example(&self, name: &str) -> Command {
        Command::new(self.programs.join("examples").join(name))
    }
}

/// Measures all in turn, round after round; for each what its rounds gave.
fn turns(bench: &Bench, subjects: &[Subject<'_>]) -> Result<Vec<Vec<Measured>>> {
    for subject in subjects {
        (subject.load)(WARM_UP)?;
    }
    let mut all = vec![Vec::new(); subjects.len()];
    for _ in 0..bench.effort.rounds {
        for (subject, rounds) in subjects.iter().zip(&mut all) {
            let before = subject.server.cpu_s()?;
            let sample = (subject.load)(bench.effort.each)?;
            let cpu_us = (subject.server.cpu_s()? - before) * 1e6 / sample.calls;
            let rss_bytes = subject.server.rss_bytes()? as f64;
            rounds.push(Measured { sample, cpu_us, rss_bytes });
        }
    }
    Ok(all)
}

/// A server that listens at one address.
struct Served {
    server: Server,
    address: SocketAddr,
}

fn baseline(bench: &Bench, folder: &Path, kind: &'static str) -> Result<Served> {
    let address = free_address()?;
    let mut command = bench.example("baseline");
    command.args([kind, &address.to_string()]);
    Ok(Served { server: Server::start(kind, command, folder, address)?, address })
}

/// The folder of an app with one function of the same name, with further keys of it in the manifest.
fn app(folder: &Path, name: &str, component: &[u8], settings: &str) -> Result<PathBuf> {
    let app = folder.join(name);
    std::fs::create_dir(&app)?;
    std::fs::write(app.join("it.wasm"), component)?;
    let manifest =
        format!("[app]\nname = {name:?}\n[function.{name}]\ncomponent = \"it.wasm\"\n{settings}\n");
    std::fs::write(app.join("nigh.toml"), manifest)?;
    Ok(app)
}

/// What a program of ours measured itself and printed: a line of JSON.
fn sample_of(mut command: Command) -> Result<Sample> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| said[name].as_f64().with_context(|| format!("{name} is missing"));
    let (calls, seconds) = (number("calls")?, number("seconds")?);
    ensure!(calls > 0.0 && seconds > 0.0, "nothing was measured: {said}");
    Ok(Sample {
        calls_per_s: calls / seconds,
        calls,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
    })
}
