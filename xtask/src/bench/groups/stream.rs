//! A large body through a guest and back.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::compare::{RATE, RSS, number, ratio};
use crate::bench::load::H2;
use crate::bench::node::Nigh;
use crate::bench::rows::{Found, Outcome};

use super::{MIB, baseline, turns};

/// Bodies at once.
const AT_ONCE: usize = 4;

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    if let Some(why) = bench.tools.lacks_h2load() {
        let skipped = || Outcome::Skipped(why.clone());
        return Ok(vec![("stream", skipped()), ("stream RSS", skipped())]);
    }
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let hyper = baseline(bench, place, "http")?;
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/echo"), "/echo")?;
    let before = nigh.server.rss_bytes()? as f64;
    let body = place.join("body.bin");
    std::fs::write(&body, vec![b'n'; bench.effort.body_bytes])?;
    let post = |address| H2 {
        url: format!("http://{address}/echo"),
        headers: &["content-type: application/octet-stream"],
        body: Some(body.clone()),
        over_http1: true,
    };
    let rounds = turns(
        bench,
        &[
            bench.h2(&hyper.server, post(hyper.address), place, AT_ONCE),
            bench.h2(&nigh.server, post(nigh.http), place, AT_ONCE),
        ],
    )?;
    let grown: Vec<f64> = rounds[1].iter().map(|round| (RSS(round) - before) / MIB).collect();
    Ok(vec![
        ("stream", ratio(&rounds[1], &rounds[0], RATE)),
        ("stream RSS", number(&grown, format!("{:.0} MiB before", before / MIB))),
    ])
}
