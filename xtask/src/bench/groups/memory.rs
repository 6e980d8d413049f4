//! What a function takes of a node's memory, loaded and not.
//!
//! Two nodes of which one may run the functions. The other one's growth is what being deployed
//! costs, the difference between the two what being loaded does. Each is looked at after a start of
//! its own: a node that has compiled keeps memory which has nothing to do with either.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::compare::number;
use crate::bench::fill::fill;
use crate::bench::node::Nigh;
use crate::bench::rows::Found;

use super::KIB;

const SETTINGS: &str = "placement = { regions = [\"us-east-1\"] }";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    // None is unloaded to make room for others.
    let room = ["--loaded-memory", "4GiB"];
    let mut entry = Nigh::start_with(bench, place, "n1", "eu-west-1", None, &room)?;
    let mut far = Nigh::start_with(bench, place, "n2", "us-east-1", Some(&entry), &room)?;
    entry.deploy(&bench.root.join("examples/hello"), "/hello")?;
    far.answers("/hello")?;
    let began = (rested(&mut entry, "/hello", 1.0)?, rested(&mut far, "/hello", 1.0)?);
    let functions = bench.effort.functions as f64;
    fill(&far, &bench.component("hello"), place, bench.effort.functions, |_, _| {
        SETTINGS.to_owned()
    })?;
    let (here, there) =
        (rested(&mut entry, "/hello", 1.0)?, rested(&mut far, "/hello", functions + 1.0)?);
    let (here, there) = (here - began.0, there - began.1);
    let made_of = |bytes: f64| format!("{:.0} KiB ÷ {functions}", bytes / KIB);
    Ok(vec![
        ("loaded", number(&[(there - here) / functions / KIB], made_of(there - here))),
        ("not loaded", number(&[here / functions / KIB], made_of(here))),
    ])
}

/// The memory of a node that was started again and has loaded so many functions, in bytes.
fn rested(node: &mut Nigh, path: &str, loaded: f64) -> Result<f64> {
    node.restart(path)?;
    node.reaches("nigh_agent_warm", |warm| warm >= loaded)?;
    Ok(node.server.rss_bytes()? as f64)
}
