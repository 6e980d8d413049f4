//! The smallest function over HTTP/1.1, beside bare hyper and other ways to run the same component.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::bench::compare::{CPU, P99, RATE, ratio};
use crate::bench::node::Nigh;
use crate::bench::rows::{Found, Outcome};
use crate::bench::server::{Server, free_address};
use crate::bench::{Bench, WASMTIME, said};

use super::{CONNECTIONS, Served, baseline, turns};

/// Connections where the slowest calls are looked at.
const CONNECTIONS_CROWD: usize = 64;

pub(super) fn hello(bench: &Bench) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let hyper = baseline(bench, place, "http")?;
    let address = free_address()?;
    let mut embedding = bench.example("embedding");
    embedding.arg(address.to_string()).arg(bench.component("hello"));
    let embedding =
        Served { server: Server::start("embedding", embedding, place, address)?, address };
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/hello"), "/hello")?;
    nigh.deploy(&reusing(bench, place)?, "/reusing")?;
    let wasmtime = wasmtime(bench, place)?;

    let mut subjects = vec![
        bench.get(&hyper.server, format!("http://{}/", hyper.address), CONNECTIONS),
        bench.get(&embedding.server, format!("http://{}/", embedding.address), CONNECTIONS),
        bench.get(&nigh.server, format!("http://{}/hello", nigh.http), CONNECTIONS),
        bench.get(&nigh.server, format!("http://{}/reusing", nigh.http), CONNECTIONS),
    ];
    if let Some(wasmtime) = &wasmtime {
        let url = format!("http://{}/", wasmtime.address);
        subjects.push(bench.get(&wasmtime.server, url, CONNECTIONS));
    }
    let rounds = turns(bench, &subjects)?;
    let [hyper, embedding, nigh, reusing] = [&rounds[0], &rounds[1], &rounds[2], &rounds[3]];
    let beside_wasmtime = match rounds.get(4) {
        Some(wasmtime) => ratio(nigh, wasmtime, RATE),
        None => Outcome::Skipped(format!("no wasmtime {WASMTIME} is installed")),
    };
    Ok(vec![
        ("hello", ratio(nigh, hyper, RATE)),
        ("hello ÷ embedding", ratio(nigh, embedding, RATE)),
        ("hello ÷ wasmtime", beside_wasmtime),
        ("hello CPU", ratio(nigh, hyper, CPU)),
        ("reuse", ratio(reusing, hyper, RATE)),
        ("embedding", ratio(embedding, hyper, RATE)),
    ])
}

/// An app of the same component whose instances serve one call after the other.
fn reusing(bench: &Bench, place: &Path) -> Result<PathBuf> {
    let app = place.join("reusing");
    std::fs::create_dir(&app)?;
    let component = bench.component("hello");
    let manifest = format!(
        "[app]\nname = \"reusing\"\n[function.reusing]\ncomponent = {component:?}\n\
         scale = {{ reuse = {{ uses = 100000, instances = {CONNECTIONS} }} }}\n"
    );
    std::fs::write(app.join("nigh.toml"), manifest)?;
    Ok(app)
}

pub(super) fn crowd(bench: &Bench) -> Result<Found> {
    if let Some(why) = bench.tools.lacks_wrk() {
        return Ok(vec![("crowd", Outcome::Skipped(why))]);
    }
    let folder = tempfile::tempdir()?;
    let hyper = baseline(bench, folder.path(), "http")?;
    let nigh = Nigh::start(bench, folder.path(), "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/hello"), "/hello")?;
    let rounds = turns(
        bench,
        &[
            bench.get(&hyper.server, format!("http://{}/", hyper.address), CONNECTIONS_CROWD),
            bench.get(&nigh.server, format!("http://{}/hello", nigh.http), CONNECTIONS_CROWD),
        ],
    )?;
    Ok(vec![("crowd", ratio(&rounds[1], &rounds[0], P99))])
}

/// `wasmtime serve` as it is, when that version is installed.
fn wasmtime(bench: &Bench, folder: &Path) -> Result<Option<Served>> {
    if !said("wasmtime", &["--version"]).unwrap_or_default().contains(WASMTIME) {
        return Ok(None);
    }
    let address = free_address()?;
    let mut command = Command::new("wasmtime");
    command.args(["serve", "--addr", &address.to_string()]).arg(bench.component("hello"));
    Ok(Some(Served { server: Server::start("wasmtime", command, folder, address)?, address }))
}
