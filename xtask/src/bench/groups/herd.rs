//! Very many first calls at once, to a function that is not loaded.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::compare::number;
use crate::bench::load::Load;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

use super::app;

/// All calls come within this time, evenly, each on a connection of its own.
const WITHIN: Duration = Duration::from_secs(1);
const LOADS: &str = "nigh_agent_loads_total{result=\"ok\"}";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let callers = bench.effort.callers;
    let folder = tempfile::tempdir()?;
    let hello = std::fs::read(bench.component("hello"))?;
    let app = app(folder.path(), "herd", &hello, "scale = { idle = \"1s\" }")?;
    let node = Nigh::start(bench, folder.path(), "n1", "eu-west-1", None)?;
    node.deploy(&app, "/herd")?;
    let (mut p99_ms, mut loads, mut lost, mut cold) = (vec![], vec![], vec![], vec![]);
    let (mut lag_ms, mut losses): (f64, String) = (0.0, String::new());
    for _ in 0..bench.effort.rounds {
        node.reaches("nigh_agent_warm", |warm| warm == 0.0)?;
        let before = (node.metric(LOADS)?, node.metric("nigh_gateway_cold_total")?);
        let phases = [(callers as f64 / WITHIN.as_secs_f64(), WITHIN)];
        let load = Load {
            address: node.http,
            path: "/herd",
            connections: callers,
            used: false,
            phases: &phases,
        };
        let phases = bench.offer(&load)?.end()?;
        let phase = phases.first().context("there is one phase")?;
        loads.push(node.metric(LOADS)? - before.0);
        cold.push(node.metric("nigh_gateway_cold_total")? - before.1);
        lost.push(phase.calls - phase.good);
        p99_ms.push(phase.p99_ms);
        lag_ms = lag_ms.max(phase.lag_p99_ms);
        losses += &phase.losses();
    }
    let waited = format!("{callers} calls, {cold:?} of them waited for the load");
    Ok(vec![
        ("herd", number(&p99_ms, format!("{waited}; client {lag_ms:.0} ms late"))),
        ("herd lost", number(&lost, format!("{callers} calls{losses}"))),
        ("herd loads", number(&loads, waited)),
    ])
}
