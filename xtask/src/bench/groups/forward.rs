//! Calls that enter at one node and run on another, both on this machine.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::compare::{Measured, P50, RATE, median, ratio};
use crate::bench::node::Nigh;
use crate::bench::rows::{Found, Number, Outcome};

use super::{CONNECTIONS, baseline, http2, turns};

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let tonic = baseline(bench, place, "grpc")?;
    let entry = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    let far = Nigh::start(bench, place, "n2", "us-east-1", Some(&entry))?;
    let app = place.join("app");
    std::fs::create_dir(&app)?;
    let component = bench.component("hello");
    std::fs::write(
        app.join("nigh.toml"),
        format!(
            "[app]\nname = \"far\"\n[function.far]\ncomponent = {component:?}\n\
             placement = {{ regions = [\"us-east-1\"] }}\n"
        ),
    )?;
    entry.deploy(&app, "/far")?;
    far.answers("/far")?;
    let mut subjects = vec![
        bench.get(&far.server, format!("http://{}/far", far.http), CONNECTIONS),
        bench.get(&entry.server, format!("http://{}/far", entry.http), CONNECTIONS),
    ];
    let lacking = bench.tools.lacks_h2load().or(bench.tools.lacks_wrk());
    if lacking.is_none() {
        let echo = http2::invoke_hello("http", tonic.address, place)?;
        subjects.push(bench.h2(&tonic.server, echo, place, CONNECTIONS));
    }
    let rounds = turns(bench, &subjects)?;
    let (local, forwarded) = (&rounds[0], &rounds[1]);
    let p50 = match (rounds.get(2), lacking) {
        (Some(echo), _) => beside_both(forwarded, echo, local),
        (None, why) => Outcome::Skipped(why.unwrap_or_default()),
    };
    Ok(vec![("forward p50", p50), ("forward", ratio(forwarded, local, RATE))])
}

/// What a forwarded call takes, through what its two halves take alone.
fn beside_both(forwarded: &[Measured], echo: &[Measured], local: &[Measured]) -> Outcome {
    let (there, echo, here) = (median(forwarded, P50), median(echo, P50), median(local, P50));
    Outcome::Measured(Number {
        value: there / (echo + here),
        spread: None,
        made_of: format!("{there:.0} µs ÷ ({echo:.0} + {here:.0} µs)"),
    })
}
