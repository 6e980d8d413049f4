//! Many guests at once that do nothing but wait.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::bench::Bench;
use crate::bench::compare::number;
use crate::bench::http::Connection;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

use super::KIB;

/// They sleep; memory is looked at while all of them do.
const PATH: &str = "/sleepers?wait_ms=3000";
const SLEEP: Duration = Duration::from_secs(3);
/// Between two that fall asleep: more at once are more than a node takes on in time.
const APART: Duration = Duration::from_millis(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Descriptors besides one for each connection.
const DESCRIPTORS_SPARE: u64 = 64;

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let sleepers = bench.effort.sleepers;
    let descriptors = sleepers as u64 + DESCRIPTORS_SPARE;
    let allowed = rlimit::increase_nofile_limit(descriptors)?;
    ensure!(allowed >= descriptors, "only {allowed} descriptors may be open, see `ulimit -n`");
    let folder = tempfile::tempdir()?;
    let app = folder.path().join("app");
    std::fs::create_dir(&app)?;
    let component = bench.component("work");
    std::fs::write(
        app.join("nigh.toml"),
        format!(
            "[app]\nname = \"sleepers\"\n[function.sleepers]\ncomponent = {component:?}\n\
             limits = {{ concurrency = {sleepers} }}\n"
        ),
    )?;
    let node = Nigh::start(bench, folder.path(), "n1", "eu-west-1", None)?;
    node.deploy(&app, "/sleepers")?;

    let before = node.server.rss_bytes()?;
    let mut connections = Vec::new();
    for _ in 0..sleepers {
        connections.push(Connection::open(node.http)?);
    }
    let began = Instant::now();
    for connection in &mut connections {
        connection.ask(PATH)?;
        std::thread::sleep(APART);
    }
    let (mut most, mut running): (u64, f64) = (0, 0.0);
    while began.elapsed() < SLEEP {
        most = most.max(node.server.rss_bytes()?);
        running = running.max(node.metric("nigh_runtime_running")?);
        std::thread::sleep(LOOK_INTERVAL);
    }
    for (at, connection) in connections.iter_mut().enumerate() {
        let answer = connection.answer().with_context(|| format!("sleeper {at}"))?;
        ensure!(answer.status == 200, "sleeper {at}: {} {}", answer.status, answer.body);
    }
    let grown = most.saturating_sub(before) as f64 / KIB;
    let made_of = format!("{grown:.0} KiB, {running} guests seen at once");
    Ok(vec![("sleepers", number(&[grown / sleepers as f64], made_of))])
}
