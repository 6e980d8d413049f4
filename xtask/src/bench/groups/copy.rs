//! A first call that waits for another node's compiled artifact.
//!
//! Mostly none does: a node that lacks a function sends its calls on and copies meanwhile. But one that
//! should have it and finds its file gone has it copied from the nearest node that has one, and the call
//! waits for that. So two nodes compile once, the second one's files are taken away, and it is called.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::bench::compare::{number, percentile};
use crate::bench::component::large;
use crate::bench::fill::fill;
use crate::bench::http::Connection;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

use super::{KIB, MIB, app};

/// On both nodes; unloaded soon after a call.
const SETTINGS: &str = "scale = { idle = \"1s\" }\nplacement = { replicas = 2 }";
const COPIES: &str = "nigh_agent_copies_total{result=\"ok\"}";
const COPIED_BYTES: &str = "nigh_agent_copied_bytes_total";
const COMPILATIONS: &str = "nigh_agent_compilations_total";
/// Compiled artifacts.
const EXTENSION: &str = "cwasm";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let nodes = Nigh::cluster(bench, place, &["eu-west-1"; 2])?;
    let small = bench.component("greet-c");
    let mut paths =
        fill(&nodes[0], &small, place, bench.effort.copies, |_, _| SETTINGS.to_owned())?;
    let hello = std::fs::read(bench.component("hello"))?;
    let large = large(&hello, bench.effort.large_bytes);
    nodes[0].deploy(&app(place, "large", &large, SETTINGS)?, "/large")?;
    paths.push("/large".to_owned());
    let all = paths.len() as f64;
    for node in &nodes {
        node.reaches("nigh_agent_ready", |ready| ready >= all)?;
    }
    let (mut small_ms, mut large_ms) = (Vec::new(), Vec::new());
    let (mut small_copies, mut large_copies) = ((0.0, 0.0), (0.0, 0.0));
    for _ in 0..bench.effort.rounds {
        for node in &nodes {
            node.reaches("nigh_agent_warm", |warm| warm == 0.0)?;
        }
        lose(&nodes[1].compiled())?;
        let (last, others) = (&paths[paths.len() - 1..], &paths[..paths.len() - 1]);
        let (ms, copies) = first_calls(&nodes[1], others)?;
        small_ms.push(ms);
        small_copies = copies;
        let (ms, copies) = first_calls(&nodes[1], last)?;
        large_ms.push(ms);
        large_copies = copies;
    }
    let of = |copies: f64, bytes: f64| {
        format!("artifact of {:.0} KiB, {copies:.1} copies a call", bytes / copies / KIB)
    };
    let made_of = |bytes: usize, calls: f64, (copies, copied): (f64, f64)| {
        format!("{:.1} MiB; {}", bytes as f64 / MIB, of(copies / calls, copied / calls))
    };
    let small_bytes = std::fs::metadata(&small)?.len() as usize;
    Ok(vec![
        ("copy", number(&small_ms, made_of(small_bytes, all - 1.0, small_copies))),
        ("copy large", number(&large_ms, made_of(large.len(), 1.0, large_copies))),
    ])
}

/// Takes away all compiled artifacts below a folder.
fn lose(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            lose(&path)?;
        } else if path.extension().is_some_and(|extension| extension == EXTENSION) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The median of what the first call of each took beyond the median of the second ones, in ms; how many
/// artifacts and bytes were copied.
fn first_calls(node: &Nigh, paths: &[String]) -> Result<(f64, (f64, f64))> {
    let before = (node.metric(COPIES)?, node.metric(COPIED_BYTES)?, node.metric(COMPILATIONS)?);
    let mut connection = Connection::open(node.http)?;
    let mut time = |path: &String| -> Result<f64> {
        let began = Instant::now();
        let answer = connection.get(path)?;
        ensure!(answer.status == 200, "{path} answered {}: {}", answer.status, answer.body);
        Ok(began.elapsed().as_secs_f64() * 1e3)
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for path in paths {
        first.push(time(path)?);
        second.push(time(path)?);
    }
    let copies = node.metric(COPIES)? - before.0;
    ensure!(copies >= paths.len() as f64, "{copies} copies for {} calls", paths.len());
    ensure!(node.metric(COMPILATIONS)? == before.2, "something was compiled anew");
    let warm = percentile(second, 50);
    Ok((percentile(first, 50) - warm, (copies, node.metric(COPIED_BYTES)? - before.1)))
}
