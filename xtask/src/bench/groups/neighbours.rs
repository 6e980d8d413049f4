//! What a function's callers see of others on the same node: of a flood, of loops without end, and of a
//! compilation.
//!
//! Others are asked by an open loop far below what the node can do, alone and beside each of these in
//! turn. The node is one of three voters; the other two only vote.

use std::path::Path;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::compare::{number, percentile};
use crate::bench::component::{large, variant};
use crate::bench::http::Connection;
use crate::bench::load::{Load, Phase};
use crate::bench::node::Nigh;
use crate::bench::rows::{Found, Outcome};
use crate::bench::server::Server;

use super::overload::burning_app;
use super::{MIB, app};

/// The first of them has all functions.
const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "us-east-1"];
const PLACEMENT: &str = "placement = { regions = [\"eu-west-1\"] }";
/// Calls of the short function, a second: some percent of a core.
const SHORT_RATE: f64 = 300.0;
/// Calls of the function that costs what the flood's does, as a part of the peak.
const ALIKE_PART: f64 = 0.25;
/// The flood, in times of the peak, and its connections.
const FLOOD_TIMES: f64 = 5.0;
const FLOOD_CONNECTIONS: usize = 1_000;
/// Connections by which the peak is found: of a function that takes most of a thread no more calls are
/// let in at any time.
const PEAK_CONNECTIONS: usize = 4;
/// An overload is one after 100 ms.
const FLOOD_LEAD: Duration = Duration::from_millis(500);
/// Loops without end on each core.
const LOOPS_PER_CORE: usize = 4;
/// Connections of others, kept since before: as many calls may wait at once.
const CONNECTIONS: usize = 64;
/// More calls without a good answer than this, and the slowest in a hundred is one of them.
const UNANSWERED_MAX: f64 = 0.01;
const ELECTIONS: &str = "nigh_raft_elections_total";
const COMPILATIONS: &str = "nigh_agent_compilations_total";
const COMPILING: &str = "nigh_agent_compiling";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let nodes = Nigh::cluster(bench, place, &REGIONS)?;
    for name in ["flood", "alike"] {
        let app = burning_app(bench, place, name, PLACEMENT)?;
        nodes[0].deploy(&app, &format!("/{name}"))?;
    }
    let hello = std::fs::read(bench.component("hello"))?;
    nodes[0].deploy(&app(place, "short", &hello, PLACEMENT)?, "/short")?;
    let neighbours = Neighbours { bench, node: &nodes[0] };
    let mut found = neighbours.flood()?;
    found.extend(neighbours.loops(place, &nodes)?);
    found.push(("compile", neighbours.compile(place, &hello)?));
    Ok(found)
}

struct Neighbours<'a> {
    bench: &'a Bench,
    node: &'a Nigh,
}

impl Neighbours<'_> {
    /// The slowest in a hundred calls of a function that is asked so often, in ms.
    fn p99_ms(&self, path: &str, rate: f64) -> Result<f64> {
        let phases = [(rate, self.bench.effort.probe)];
        let load = Load {
            address: self.node.http,
            path,
            connections: CONNECTIONS,
            used: true,
            phases: &phases,
        };
        let phases = self.bench.offer(&load)?.end()?;
        Ok(p99_ms(phases.first().context("there is one phase")?))
    }

    fn flood(&self) -> Result<Found> {
        let effort = &self.bench.effort;
        let url = format!("http://{}/flood", self.node.http);
        let peak = self.bench.tools.get(&url, PEAK_CONNECTIONS, effort.each)?.calls_per_s;
        let others = [("/alike", ALIKE_PART * peak), ("/short", SHORT_RATE)];
        let mut seen = [Beside::default(), Beside::default()];
        for _ in 0..effort.rounds {
            for (seen, (path, rate)) in seen.iter_mut().zip(others) {
                seen.alone.push(self.p99_ms(path, rate)?);
            }
            // Longer than what is done meanwhile, start of the clients included; then it is ended.
            let lasts = FLOOD_LEAD + 4 * effort.probe + Duration::from_secs(10);
            let phases = [(FLOOD_TIMES * peak, lasts)];
            let flood = self.bench.offer(&Load {
                address: self.node.http,
                path: "/flood",
                connections: FLOOD_CONNECTIONS,
                used: false,
                phases: &phases,
            })?;
            sleep(FLOOD_LEAD);
            for (seen, (path, rate)) in seen.iter_mut().zip(others) {
                seen.beside.push(self.p99_ms(path, rate)?);
            }
            drop(flood);
            self.node.reaches("nigh_runtime_running", |running| running == 0.0)?;
        }
        let [alike, short] = seen;
        let offered = format!("{:.0} calls/s offered, {peak:.0} possible", FLOOD_TIMES * peak);
        Ok(vec![("flood", alike.times(&offered)), ("flood, short", short.times(&offered))])
    }

    fn loops(&self, folder: &Path, nodes: &[Nigh]) -> Result<Found> {
        let settings = format!("{PLACEMENT}\nlimits = {{ cpu = \"120s\", timeout = \"120s\" }}");
        let guest = self.bench.root.join("tests/guests/endless-loop.wasm");
        let app = app(folder, "loop", &std::fs::read(guest)?, &settings)?;
        self.node.deploy_only(&app)?;
        let cores = available_parallelism().map_or(1, usize::from);
        let loops = LOOPS_PER_CORE * cores;
        let elections = || nodes.iter().map(|node| node.metric(ELECTIONS)).sum::<Result<f64>>();
        let (mut seen, before) = (Beside::default(), elections()?);
        for _ in 0..self.bench.effort.rounds {
            seen.alone.push(self.p99_ms("/short", SHORT_RATE)?);
            let mut busy = Vec::new();
            for _ in 0..loops {
                let mut connection = Connection::open(self.node.http)?;
                connection.ask("/loop")?;
                busy.push(connection);
            }
            self.node.reaches("nigh_runtime_running", |running| running >= loops as f64)?;
            seen.beside.push(self.p99_ms("/short", SHORT_RATE)?);
            // Nobody waits for them any more, so they are stopped.
            drop(busy);
            self.node.reaches("nigh_runtime_running", |running| running == 0.0)?;
        }
        let elections = elections()? - before;
        let made_of = format!("{loops} loops on {cores} cores");
        Ok(vec![
            ("loops", seen.more(&made_of)),
            ("loops elections", number(&[elections], format!("{} nodes, {made_of}", nodes.len()))),
        ])
    }

    fn compile(&self, folder: &Path, hello: &[u8]) -> Result<Outcome> {
        let effort = &self.bench.effort;
        let mut seen = Beside::default();
        let (component, mut to_the_end) = (large(hello, effort.large_bytes), 0);
        for round in 0..effort.rounds {
            seen.alone.push(self.p99_ms("/short", SHORT_RATE)?);
            let name = format!("large-{round}");
            let app = app(folder, &name, &variant(&component, round), PLACEMENT)?;
            let before = self.node.metric(COMPILATIONS)?;
            let _deploy = Server::spawn("deploy", self.node.deploying(&app), folder)?;
            self.node.until("compiles", || {
                let done = self.node.metric(COMPILATIONS)? > before;
                Ok(done || self.node.metric(COMPILING)? > 0.0)
            })?;
            seen.beside.push(self.p99_ms("/short", SHORT_RATE)?);
            to_the_end += usize::from(self.node.metric(COMPILING)? > 0.0);
            self.node.answers(&format!("/{name}"))?;
        }
        let mib = effort.large_bytes as f64 / MIB;
        let rounds = effort.rounds;
        Ok(seen
            .times(&format!("{mib} MiB, still compiling at the end in {to_the_end} of {rounds}")))
    }
}

/// The slowest in a hundred calls of a phase; what was refused or lost never ends.
fn p99_ms(phase: &Phase) -> f64 {
    let unanswered = phase.calls - phase.good;
    if unanswered > UNANSWERED_MAX * phase.calls { f64::INFINITY } else { phase.p99_ms }
}

/// What others' calls take in each round, in ms: alone, and beside something.
#[derive(Default)]
struct Beside {
    alone: Vec<f64>,
    beside: Vec<f64>,
}

impl Beside {
    /// How many times as long.
    fn times(&self, of: &str) -> Outcome {
        self.number(|alone, beside| beside / alone, "÷", of)
    }

    /// How much longer.
    fn more(&self, of: &str) -> Outcome {
        self.number(|alone, beside| beside - alone, "−", of)
    }

    fn number(&self, how: fn(f64, f64) -> f64, sign: &str, of: &str) -> Outcome {
        let rounds =
            self.alone.iter().zip(&self.beside).map(|(alone, beside)| how(*alone, *beside));
        let median = |values: &[f64]| percentile(values.to_vec(), 50);
        let (beside, alone) = (median(&self.beside), median(&self.alone));
        let made_of = format!("{beside:.2} {sign} {alone:.2} ms; {of}");
        number(&rounds.collect::<Vec<_>>(), made_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_waits_for_ever() {
        let phase = |good| Phase { calls: 200.0, good, p99_ms: 5.0, ..Phase::default() };
        assert_eq!((p99_ms(&phase(198.0)), p99_ms(&phase(197.0))), (5.0, f64::INFINITY));
    }

    #[test]
    fn rounds_are_compared_each_with_itself() {
        let seen = Beside { alone: vec![1.0, 2.0, 4.0], beside: vec![2.0, 2.0, 20.0] };
        let value = |outcome| match outcome {
            Outcome::Measured(number) => number.value,
            Outcome::Skipped(why) => panic!("{why}"),
        };
        assert_eq!((value(seen.times("")), value(seen.more(""))), (2.0, 1.0));
    }
}
