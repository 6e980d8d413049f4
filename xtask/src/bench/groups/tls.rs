//! First calls over TLS, whose handshake has said which function is about to be called.
//!
//! Each function has a host of its own, and nothing else is loaded. A call is timed from when its
//! handshake has ended; the handshake itself is not part of it, cold or warm.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::bench::Bench;
use crate::bench::compare::{number, percentile};
use crate::bench::fill::fill;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;
use crate::bench::server::free_address;

/// Unloaded soon after a call, so that every round finds all of them cold.
const SETTINGS: &str = "scale = { idle = \"1s\" }";
const PRELOADS: &str = "nigh_https_preloads_total";
const MET: &str = "nigh_https_preloads_met_total";
const COLD: &str = "nigh_gateway_cold_total";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let https = free_address()?.to_string();
    let flags = ["--https", &https, "--https-self-signed"];
    let node = Nigh::start_with(bench, place, "n1", "eu-west-1", None, &flags)?;
    let functions = bench.effort.functions;
    let hello = bench.component("hello");
    let all = fill(&node, &hello, place, functions, |n, path| {
        format!("{SETTINGS}\nroutes = [{path:?}, \"{}/...\"]", host(n))
    })?;
    node.reaches("nigh_agent_ready", |ready| ready >= all.len() as f64)?;
    let hosts = place.join("hosts");
    std::fs::write(&hosts, (0..functions).map(|n| host(n) + "\n").collect::<String>())?;
    let counts = || -> Result<[f64; 3]> {
        Ok([node.metric(PRELOADS)?, node.metric(MET)?, node.metric(COLD)?])
    };
    let (mut cold, mut warm, mut counted) = (Vec::new(), Vec::new(), [0.0; 3]);
    for _ in 0..bench.effort.rounds {
        node.reaches("nigh_agent_warm", |warm| warm == 0.0)?;
        let before = counts()?;
        let round = first_calls(bench.example("clients"), &https, &hosts)?;
        for (counted, (after, before)) in counted.iter_mut().zip(counts()?.iter().zip(before)) {
            *counted += after - before;
        }
        let warm_p50 = percentile(round.warm_us.clone(), 50);
        cold.push(percentile(round.cold_us, 99) - warm_p50);
        warm.push(percentile(round.warm_us, 99) - warm_p50);
    }
    let [preloads, met, waited] = counted;
    let warm_us = percentile(warm, 50);
    let calls = functions * bench.effort.rounds;
    Ok(vec![(
        "tls cold",
        number(
            &cold,
            format!(
                "warm p99 − p50 {warm_us:.0} µs; {calls} first calls: {preloads} loads begun by the \
                 handshake, {met} met by the call, {waited} calls waited"
            ),
        ),
    )])
}

fn host(n: usize) -> String {
    format!("f{n}.bench.test")
}

/// What the first answers of new connections took, in µs.
struct Round {
    /// The function was not loaded when the handshake began.
    cold_us: Vec<f64>,
    /// It had just been called.
    warm_us: Vec<f64>,
}

fn first_calls(mut client: Command, address: &str, hosts: &PathBuf) -> Result<Round> {
    client.args(["tls", address]).arg(hosts);
    let output = client.output().with_context(|| format!("cannot start {client:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{client:?} ended with {}: {said}", output.status);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let values = |name: &str| -> Result<Vec<f64>> {
        let all = said[name].as_array().with_context(|| format!("{name} is missing"))?;
        all.iter().map(|value| value.as_f64().context("it is no number")).collect()
    };
    Ok(Round { cold_us: values("cold_us")?, warm_us: values("warm_us")? })
}
