//! What a node has on disk and not in memory: a restart, and the first call of each function.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::bench::compare::{number, percentile};
use crate::bench::fill::fill;
use crate::bench::http::Connection;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

/// Unloaded soon after a call, so that every round finds all of them cold.
const SETTINGS: &str = "scale = { idle = \"1s\" }";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let mut node = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    let functions = bench.effort.functions;
    let paths =
        fill(&node, &bench.component("hello"), place, functions, |_, _| SETTINGS.to_owned())?;
    let all = functions as f64;
    node.reaches("nigh_agent_ready", |ready| ready >= all)?;
    let mut restarts = Vec::new();
    for _ in 0..bench.effort.rounds {
        restarts.push(node.restart(&paths[0])?.as_secs_f64() * 1e3);
    }
    let (mut p50, mut p99, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let round = first_calls(&node, &paths)?;
        p50.push(percentile(round.beyond_us.clone(), 50));
        p99.push(percentile(round.beyond_us, 99));
        warm.push(round.warm_us);
    }
    let made_of =
        || format!("{functions} functions, warm p50 {:.0} µs", percentile(warm.clone(), 50));
    Ok(vec![
        ("cold p50", number(&p50, made_of())),
        ("cold p99", number(&p99, made_of())),
        ("restart", number(&restarts, format!("{functions} functions, after a kill"))),
    ])
}

/// A first call of every function.
struct Round {
    /// What each took beyond the median of the second calls, in µs.
    beyond_us: Vec<f64>,
    warm_us: f64,
}

fn first_calls(node: &Nigh, paths: &[String]) -> Result<Round> {
    const COLD: &str = "nigh_gateway_cold_total";
    node.reaches("nigh_agent_warm", |warm| warm == 0.0)?;
    let before = node.metric(COLD)?;
    let mut connection = Connection::open(node.http)?;
    let mut time = |path: &String| -> Result<f64> {
        let began = Instant::now();
        let answer = connection.get(path)?;
        let took_us = began.elapsed().as_secs_f64() * 1e6;
        ensure!(answer.status == 200, "{path} answered {}: {}", answer.status, answer.body);
        Ok(took_us)
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for path in paths {
        first.push(time(path)?);
        second.push(time(path)?);
    }
    let cold = node.metric(COLD)? - before;
    ensure!(cold == paths.len() as f64, "{cold} of {} first calls were cold", paths.len());
    let warm_us = percentile(second, 50);
    Ok(Round { beyond_us: first.iter().map(|took_us| took_us - warm_us).collect(), warm_us })
}
