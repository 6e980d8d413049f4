//! The smallest function over HTTP/2: plain, and as gRPC.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::compare::{RATE, ratio};
use crate::bench::load::H2;
use crate::bench::node::Nigh;
use crate::bench::rows::{Found, Outcome};

use super::{CONNECTIONS, baseline, turns};

pub(super) fn h2(bench: &Bench) -> Result<Found> {
    if let Some(why) = bench.tools.lacks_h2load() {
        return Ok(vec![("h2", Outcome::Skipped(why))]);
    }
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let hyper = baseline(bench, place, "http")?;
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/hello"), "/hello")?;
    let (bare, ours) =
        (format!("http://{}/", hyper.address), format!("http://{}/hello", nigh.http));
    let rounds = turns(
        bench,
        &[
            bench.h2(&hyper.server, H2::get(bare), place, CONNECTIONS),
            bench.h2(&nigh.server, H2::get(ours), place, CONNECTIONS),
        ],
    )?;
    Ok(vec![("h2", ratio(&rounds[1], &rounds[0], RATE))])
}

pub(super) fn grpc(bench: &Bench) -> Result<Found> {
    if let Some(why) = bench.tools.lacks_h2load() {
        return Ok(vec![("grpc", Outcome::Skipped(why))]);
    }
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let tonic = baseline(bench, place, "grpc")?;
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/hello"), "/hello")?;
    let echo = invoke_hello("http", tonic.address, place)?;
    let ours = invoke_hello("https", nigh.api, place)?;
    let rounds = turns(
        bench,
        &[
            bench.h2(&tonic.server, echo, place, CONNECTIONS),
            bench.h2(&nigh.server, ours, place, CONNECTIONS),
        ],
    )?;
    Ok(vec![("grpc", ratio(&rounds[1], &rounds[0], RATE))])
}

/// A call of `Invoke`, and in its file what goes over the wire: not compressed, its length, and
/// `InvokeRequest { function }`.
pub(super) fn invoke_hello(scheme: &str, address: SocketAddr, folder: &Path) -> Result<H2> {
    let function = b"hello";
    let message = [&[0x0a, function.len() as u8], &function[..]].concat();
    let body = folder.join("invoke.bin");
    std::fs::write(&body, [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat())?;
    Ok(H2 {
        url: format!("{scheme}://{address}/nigh.v1.Invoker/Invoke"),
        headers: &["content-type: application/grpc", "te: trailers"],
        body: Some(body),
        over_http1: false,
    })
}
