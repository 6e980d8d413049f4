//! Very many connections on which nothing happens: what they take of memory, and of others' calls.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::compare::{Measured, RATE, number, ratio};
use crate::bench::node::Nigh;
use crate::bench::rows::Found;
use crate::bench::server::Server;

use super::{CONNECTIONS, MIB, WARM_UP};

/// By then the node has given memory of idle connections back to the system.
const GIVEN_BACK: std::time::Duration = std::time::Duration::from_secs(8);
/// What their client says when all of them are there.
const HELD: &str = "held";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let callers = bench.effort.callers;
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let node = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    node.deploy(&bench.root.join("examples/hello"), "/hello")?;
    let url = format!("http://{}/hello", node.http);
    let load = |lasts| -> Result<Measured> {
        let sample = bench.tools.get(&url, CONNECTIONS, lasts)?;
        Ok(Measured { sample, ..Measured::default() })
    };
    load(WARM_UP)?;
    let before = node.server.rss_bytes()? as f64;
    let (mut alone, mut beside, mut grown) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        alone.push(load(bench.effort.each)?);
        let mut client = bench.example("openloop");
        client.args(["hold", &node.http.to_string(), "/hello", &callers.to_string()]);
        let held = Server::spawn("held", client, place)?;
        held.says(HELD)?;
        // What nothing happens on gives back its buffers after some seconds; what was freed, the node some
        // seconds later.
        node.reaches("nigh_gateway_connections_parked", |parked| parked >= callers as f64)?;
        std::thread::sleep(GIVEN_BACK);
        grown.push((node.server.rss_bytes()? as f64 - before) / MIB);
        beside.push(load(bench.effort.each)?);
        drop(held);
        node.reaches("nigh_gateway_connections", |open| open < callers as f64)?;
    }
    let made_of =
        format!("{callers} connections that served a call each, {:.0} MiB before", before / MIB);
    Ok(vec![("idle RSS", number(&grown, made_of)), ("idle", ratio(&beside, &alone, RATE))])
}
