//! Many functions committed by many clients, and what a node is afterwards.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::compare::number;
use crate::bench::component::variant;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

use super::{MIB, sample_of};

/// Who commits, and what: this many clients, and components that the functions share.
const CLIENTS: usize = 16;
const COMPONENTS: usize = 20;
/// All rollouts have ended by then; if not, the page says how many have not.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let nodes = Nigh::cluster(bench, place, &["eu-west-1"; 3])?;
    let bytes = std::fs::read(bench.component("hello"))?;
    let mut command = bench.example("clients");
    command.arg("apps").arg(&nodes[0].credentials).arg(nodes[0].api.to_string());
    command.args([CLIENTS.to_string(), bench.effort.many.to_string()]);
    for n in 0..COMPONENTS {
        let component = place.join(format!("c{n}.wasm"));
        std::fs::write(&component, variant(&bytes, n))?;
        command.arg(component);
    }
    let sample = sample_of(command)?;
    let seconds = sample.calls / sample.calls_per_s;
    for node in &nodes {
        node.reaches("nigh_state_apps", |apps| apps >= sample.calls)?;
    }
    // What they hold while they bring and compile is more than what they hold for good.
    let rolling = nodes[0].last("nigh_state_rollouts", SETTLE_LIMIT, |now| now == 0.0);
    let mut largest: f64 = 0.0;
    for node in &nodes {
        largest = largest.max(node.server.rss_bytes()? as f64 / MIB);
    }
    let functions = sample.calls;
    let made_of = format!("{functions} functions, p50 {:.1} ms each", sample.p50_us / 1e3);
    let after = format!("{functions} functions, {rolling} of them still rolled out");
    Ok(vec![("commit", number(&[seconds], made_of)), ("many", number(&[largest], after))])
}
