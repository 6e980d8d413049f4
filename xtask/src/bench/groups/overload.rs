//! A node that is asked for many times what it can do, by a client that keeps asking.
//!
//! The function is `hello` whose instances first take a fixed number of steps of arithmetic: client and
//! node share the cores, and beside a call of some milliseconds the client's part is small. It is said.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::bench::compare::number;
use crate::bench::component::burning;
use crate::bench::load::{Load, Phase};
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

use super::{CONNECTIONS, MIB, app};

/// Times what the node can do, and the row of it.
const TIMES: [(f64, &str); 3] =
    [(2.0, "overload 2×"), (5.0, "overload 5×"), (10.0, "overload 10×")];
/// Connections of the open loop: at the tenfold rate some 300 calls wait for an answer.
const CALLERS: usize = 1_000;
/// Part of the peak that is normal: what calls take before and after is compared at it.
const NORMAL: f64 = 0.3;
/// As before: within so many times the median of before.
const BACK_TIMES: f64 = 1.5;
/// What a call takes, in steps of a few cycles: some 5 ms.
const STEPS: u32 = 2_500_000;

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let node = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    node.deploy(&burning_app(bench, place, "burning", "")?, "/burning")?;
    let url = format!("http://{}/burning", node.http);
    let before = node.server.rss_bytes()? as f64;
    let (mut found, mut most): (Found, f64) = (Vec::new(), before);
    let (mut refused_ms, mut back_s, mut refusals) = (Vec::new(), Vec::new(), 0.0);
    for (times, row) in TIMES {
        let peak = bench.tools.get(&url, CONNECTIONS, bench.effort.each)?.calls_per_s;
        let normal = (NORMAL * peak, bench.effort.probe);
        let phases = [normal, (times * peak, bench.effort.flood), normal];
        let load = Load {
            address: node.http,
            path: "/burning",
            connections: CALLERS,
            used: false,
            phases: &phases,
        };
        let [before, flood, after] = offer(bench, &load)?;
        most = most.max(node.server.rss_bytes()? as f64);
        // Never is longer than any time that was looked at.
        let back = after.back_at(BACK_TIMES * before.p50_ms);
        back_s.push(back.unwrap_or(f64::INFINITY));
        refused_ms.push(flood.refused_p99_ms);
        refusals += flood.refused;
        found.push((row, number(&[flood.goodput() / peak], made_of(&flood, peak))));
    }
    let worst = |values: &[f64]| values.iter().copied().fold(f64::NAN, f64::max);
    let each = |values: &[f64]| values.iter().map(|v| format!("{v:.1}")).collect::<Vec<_>>();
    found.extend([
        ("refusals", {
            let made_of =
                format!("{refusals} refusals, by overload: {}", each(&refused_ms).join(", "));
            number(&[worst(&refused_ms)], made_of)
        }),
        ("recovery", {
            let made_of = format!("by overload: {}", each(&back_s).join(", "));
            number(&[worst(&back_s)], made_of)
        }),
        ("overload RSS", {
            let made_of = format!("{:.0} MiB before, {CALLERS} connections", before / MIB);
            number(&[(most - before) / MIB], made_of)
        }),
    ]);
    Ok(found)
}

/// The folder of an app with one function of the same name that takes some milliseconds.
pub(super) fn burning_app(
    bench: &Bench,
    folder: &Path,
    name: &str,
    settings: &str,
) -> Result<PathBuf> {
    let hello = std::fs::read(bench.component("hello"))?;
    app(folder, name, &burning(&hello, STEPS)?, settings)
}

fn offer(bench: &Bench, load: &Load<'_>) -> Result<[Phase; 3]> {
    let phases = bench.offer(load)?.end()?;
    phases.try_into().ok().context("there are three phases")
}

fn made_of(flood: &Phase, peak: f64) -> String {
    format!(
        "{:.0} ÷ {peak:.0} calls/s, {:.0} offered; p99 {:.0} ms; client: {:.2} cores, {:.0} ms late{}",
        flood.goodput(),
        flood.calls / flood.seconds,
        flood.p99_ms,
        flood.client_cores(),
        flood.lag_p99_ms,
        flood.losses()
    )
}
