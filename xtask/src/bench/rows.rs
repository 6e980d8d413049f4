//! What is measured against what, and which numbers are asked for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::compare::{CPU, Measured, P50, P99, RATE, RSS, Target, Value, median};
use super::load::{Post, Sample};
use super::server::{Server, free_address};

/// Connections at once, unless a row says otherwise.
const CONNECTIONS: usize = 16;
/// The same where the slowest calls are looked at.
const CONNECTIONS_CROWD: usize = 64;
/// A body that is streamed through a guest, in bytes, and how many at once.
const STREAMED_BYTES: usize = 10 << 20;
const STREAMED_AT_ONCE: usize = 4;
/// Before the first round, so that code and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);
/// A deployed function answers by then.
const DEPLOY_LIMIT: Duration = Duration::from_secs(30);
/// The wasmtime to compare with.
const WASMTIME: &str = "48.0.8";
const MIB: f64 = (1 << 20) as f64;

/// Rows that are measured together.
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) measure: fn(&Bench) -> Result<Vec<Row>>,
}

/// A number, what was asked of it, and what it is made of.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) what: String,
    pub(super) value: f64,
    pub(super) target: Option<Target>,
    pub(super) made_of: String,
}

/// All of them.
pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "hello", measure: hello },
        Group { name: "crowd", measure: crowd },
        Group { name: "h2", measure: h2 },
        Group { name: "grpc", measure: grpc },
        Group { name: "forward", measure: forward },
        Group { name: "stream", measure: stream },
    ]
}

fn hello(bench: &Bench) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let hyper = baseline(bench, place, "http")?;
    let address = free_address()?;
    let mut embedding = Command::new(bench.programs.join("examples/embedding"));
    embedding.arg(address.to_string()).arg(component(bench, "hello"));
    let embedding =
        Served { server: Server::start("embedding", embedding, place, address)?, address };
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/hello"), "/hello")?;
    let wasmtime = wasmtime(bench, place)?;

    let mut subjects = vec![
        bench.get(&hyper.server, format!("http://{}/", hyper.address), CONNECTIONS),
        bench.get(&embedding.server, format!("http://{}/", embedding.address), CONNECTIONS),
        bench.get(&nigh.server, format!("http://{}/hello", nigh.http), CONNECTIONS),
    ];
    if let Some(wasmtime) = &wasmtime {
        let url = format!("http://{}/", wasmtime.address);
        subjects.push(bench.get(&wasmtime.server, url, CONNECTIONS));
    }
    let rounds = turns(bench, &subjects)?;
    let [hyper, embedding, nigh] = [&rounds[0], &rounds[1], &rounds[2]];
    let at_least = |floor, goal| Some(Target::AtLeast { floor, goal });
    let mut rows = vec![
        ratio(
            "hello",
            "fresh instance per call ÷ bare hyper",
            nigh,
            hyper,
            RATE,
            at_least(0.40, 0.55),
        ),
        ratio(
            "hello ÷ embedding",
            "the same ÷ the tuned embedding",
            nigh,
            embedding,
            RATE,
            at_least(1.2, 1.7),
        ),
        ratio(
            "hello CPU",
            "server CPU per call ÷ bare hyper's",
            nigh,
            hyper,
            CPU,
            Some(Target::AtMost { floor: 3.5, goal: 2.4 }),
        ),
        ratio("embedding", "the tuned embedding ÷ bare hyper", embedding, hyper, RATE, None),
    ];
    if let Some(wasmtime) = rounds.get(3) {
        let what = "the same ÷ `wasmtime serve`";
        rows.push(ratio("hello ÷ wasmtime", what, nigh, wasmtime, RATE, at_least(3.0, 4.5)));
    }
    Ok(rows)
}

fn crowd(bench: &Bench) -> Result<Vec<Row>> {
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
    let target = Some(Target::AtMost { floor: 1.5, goal: 1.1 });
    let what = "p99 with 64 connections ÷ bare hyper's";
    Ok(vec![ratio("crowd", what, &rounds[1], &rounds[0], P99, target)])
}

fn h2(bench: &Bench) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let hyper = baseline(bench, place, "http")?;
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/hello"), "/hello")?;
    let get = |url| H2 { url, headers: &[], body: None, over_http1: false };
    let rounds = turns(
        bench,
        &[
            bench.h2(&hyper.server, get(format!("http://{}/", hyper.address)), place, CONNECTIONS),
            bench.h2(&nigh.server, get(format!("http://{}/hello", nigh.http)), place, CONNECTIONS),
        ],
    )?;
    let target = Some(Target::AtLeast { floor: 0.40, goal: 0.55 });
    let what = "HTTP/2 without TLS, fresh instance ÷ hyper's h2";
    Ok(vec![ratio("h2", what, &rounds[1], &rounds[0], RATE, target)])
}

/// A call of `Invoke`, and in its file what goes over the wire: not compressed, its length, and
/// `InvokeRequest { function }`.
fn invoke_hello(scheme: &str, address: SocketAddr, folder: &Path) -> Result<H2> {
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

fn grpc(bench: &Bench) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let tonic = baseline(bench, place, "grpc")?;
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/hello"), "/hello")?;
    let rounds = turns(
        bench,
        &[
            bench.h2(
                &tonic.server,
                invoke_hello("http", tonic.address, place)?,
                place,
                CONNECTIONS,
            ),
            bench.h2(&nigh.server, invoke_hello("https", nigh.api, place)?, place, CONNECTIONS),
        ],
    )?;
    let target = Some(Target::AtLeast { floor: 0.45, goal: 0.60 });
    let what = "gRPC `Invoke` over TLS ÷ tonic echo without";
    Ok(vec![ratio("grpc", what, &rounds[1], &rounds[0], RATE, target)])
}

fn forward(bench: &Bench) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let tonic = baseline(bench, place, "grpc")?;
    let entry = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    let far = Nigh::start(bench, place, "n2", "us-east-1", Some(&entry))?;
    let app = place.join("app");
    std::fs::create_dir(&app)?;
    let component = component(bench, "hello");
    std::fs::write(
        app.join("nigh.toml"),
        format!(
            "[app]\nname = \"far\"\n[function.far]\ncomponent = {component:?}\n\
             placement = {{ regions = [\"us-east-1\"] }}\n"
        ),
    )?;
    entry.deploy(&app, "/far")?;
    far.answers("/far")?;
    let echo = invoke_hello("http", tonic.address, place)?;
    let rounds = turns(
        bench,
        &[
            bench.h2(&tonic.server, echo, place, CONNECTIONS),
            bench.get(&far.server, format!("http://{}/far", far.http), CONNECTIONS),
            bench.get(&entry.server, format!("http://{}/far", entry.http), CONNECTIONS),
        ],
    )?;
    let [tonic, local, forwarded] = [&rounds[0], &rounds[1], &rounds[2]];
    let (echo, here, there) = (median(tonic, P50), median(local, P50), median(forwarded, P50));
    let rates = Some(Target::AtLeast { floor: 0.40, goal: 0.55 });
    Ok(vec![
        Row {
            name: "forward p50",
            what: "forwarded call, p50 ÷ (tonic echo p50 + local call p50)".to_owned(),
            value: there / (echo + here),
            target: Some(Target::AtMost { floor: 1.6, goal: 1.3 }),
            made_of: format!("{there:.0} µs ÷ ({echo:.0} + {here:.0} µs)"),
        },
        ratio("forward", "forwarded calls/s ÷ local calls/s", forwarded, local, RATE, rates),
    ])
}

fn stream(bench: &Bench) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let hyper = baseline(bench, place, "http")?;
    let nigh = Nigh::start(bench, place, "n1", "eu-west-1", None)?;
    nigh.deploy(&bench.root.join("examples/echo"), "/echo")?;
    let before = nigh.server.rss_bytes()? as f64;
    let body = place.join("body.bin");
    std::fs::write(&body, vec![b'n'; STREAMED_BYTES])?;
    let post = |address| H2 {
        url: format!("http://{address}/echo"),
        headers: &["content-type: application/octet-stream"],
        body: Some(body.clone()),
        over_http1: true,
    };
    let rounds = turns(
        bench,
        &[
            bench.h2(&hyper.server, post(hyper.address), place, STREAMED_AT_ONCE),
            bench.h2(&nigh.server, post(nigh.http), place, STREAMED_AT_ONCE),
        ],
    )?;
    let grown = (median(&rounds[1], RSS) - before) / MIB;
    let rates = Some(Target::AtLeast { floor: 0.35, goal: 0.6 });
    let what = "10 MiB through a guest (echo), throughput ÷ hyper echo";
    Ok(vec![
        ratio("stream", what, &rounds[1], &rounds[0], RATE, rates),
        Row {
            name: "stream RSS",
            what: format!("the same: memory more than before, {STREAMED_AT_ONCE} at once, in MiB"),
            value: grown,
            target: Some(Target::AtMost { floor: 16.0, goal: 16.0 }),
            made_of: format!("{:.0} MiB before", before / MIB),
        },
    ])
}

/// A row that is one median through another.
fn ratio(
    name: &'static str,
    what: &str,
    subject: &[Measured],
    baseline: &[Measured],
    value: Value,
    target: Option<Target>,
) -> Row {
    let (subject, baseline) = (median(subject, value), median(baseline, value));
    let made_of = format!("{subject:.1} ÷ {baseline:.1}");
    Row { name, what: what.to_owned(), value: subject / baseline, target, made_of }
}

/// A server and the load on it.
struct Subject<'a> {
    server: &'a Server,
    load: Box<dyn Fn(Duration) -> Result<Sample> + 'a>,
}

/// What h2load shall send.
struct H2 {
    url: String,
    headers: &'static [&'static str],
    body: Option<PathBuf>,
    over_http1: bool,
}

impl Bench {
    fn get<'a>(&self, server: &'a Server, url: String, connections: usize) -> Subject<'a> {
        let tools = self.tools;
        Subject { server, load: Box::new(move |lasts| tools.get(&url, connections, lasts)) }
    }

    fn h2<'a>(
        &self,
        server: &'a Server,
        call: H2,
        folder: &'a Path,
        connections: usize,
    ) -> Subject<'a> {
        let tools = self.tools;
        let load = move |lasts| {
            let H2 { url, headers, body, over_http1 } = &call;
            let (body, over_http1) = (body.clone(), *over_http1);
            tools.h2(&Post { url, headers, body, over_http1, folder }, connections, lasts)
        };
        Subject { server, load: Box::new(load) }
    }
}

/// Measures all in turn, round after round; for each what its rounds gave.
fn turns(bench: &Bench, subjects: &[Subject<'_>]) -> Result<Vec<Vec<Measured>>> {
    for subject in subjects {
        (subject.load)(WARM_UP)?;
    }
    let mut all = vec![Vec::new(); subjects.len()];
    for _ in 0..bench.effort.rounds {
        for (subject, rounds) in subjects.iter().zip(&mut all) {
            let before = subject.server.cpu_s()?;
            let sample = (subject.load)(bench.effort.each)?;
            let cpu_us = (subject.server.cpu_s()? - before) * 1e6 / sample.calls;
            let rss_bytes = subject.server.rss_bytes()? as f64;
            rounds.push(Measured { sample, cpu_us, rss_bytes });
        }
    }
    Ok(all)
}

/// A server that listens at one address.
struct Served {
    server: Server,
    address: SocketAddr,
}

fn baseline(bench: &Bench, folder: &Path, kind: &'static str) -> Result<Served> {
    let address = free_address()?;
    let mut command = Command::new(bench.programs.join("examples/baseline"));
    command.args([kind, &address.to_string()]);
    Ok(Served { server: Server::start(kind, command, folder, address)?, address })
}

/// `wasmtime serve` as it is, when that version is installed.
fn wasmtime(bench: &Bench, folder: &Path) -> Result<Option<Served>> {
    let version = super::said("wasmtime", &["--version"]).unwrap_or_default();
    if !version.contains(WASMTIME) {
        println!("no wasmtime {WASMTIME} is installed: `wasmtime serve` is not measured");
        return Ok(None);
    }
    let address = free_address()?;
    let mut command = Command::new("wasmtime");
    command.args(["serve", "--addr", &address.to_string()]).arg(component(bench, "hello"));
    Ok(Some(Served { server: Server::start("wasmtime", command, folder, address)?, address }))
}

fn component(bench: &Bench, example: &str) -> PathBuf {
    bench.root.join("examples").join(example).join(format!("{example}.wasm"))
}

/// A node of its own process.
struct Nigh {
    server: Server,
    program: PathBuf,
    credentials: PathBuf,
    token: PathBuf,
    http: SocketAddr,
    api: SocketAddr,
    peer: SocketAddr,
}

impl Nigh {
    fn start(
        bench: &Bench,
        folder: &Path,
        name: &str,
        region: &str,
        joins: Option<&Self>,
    ) -> Result<Self> {
        let program = bench.programs.join("nigh");
        let (http, api, peer, gossip) =
            (free_address()?, free_address()?, free_address()?, free_address()?);
        let data = folder.join(name);
        let token = folder.join("join-token");
        let mut command = Command::new(&program);
        command.args(["node", "--name", name, "--region", region, "--data"]).arg(&data);
        for (flag, address) in
            [("--http", http), ("--api", api), ("--peer", peer), ("--gossip", gossip)]
        {
            command.args([flag, &address.to_string()]);
        }
        match joins {
            None => command.arg("--bootstrap").arg("--write-join-token").arg(&token),
            Some(first) => {
                let token = format!("@{}", first.token.display());
                command.args(["--join", &first.peer.to_string(), "--join-token", &token])
            }
        };
        let server = Server::start(name, command, folder, http)?;
        // It listens first, and belongs to a cluster a moment later.
        let began = Instant::now();
        while !data.join("identity/node.pem").exists() {
            ensure!(began.elapsed() < DEPLOY_LIMIT, "{name} has no cluster: {}", server.logged());
            std::thread::sleep(Duration::from_millis(20));
        }
        let credentials =
            joins.map_or_else(|| data.join("admin.toml"), |first| first.credentials.clone());
        Ok(Self { server, program, credentials, token, http, api, peer })
    }

    /// Deploys an app, once the nodes that it is for are seen, and waits until this node answers a
    /// path.
    fn deploy(&self, app: &Path, path: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut command = Command::new(&self.program);
            command.arg("--credentials").arg(&self.credentials);
            command.args(["--api", &format!("https://{}", self.api), "deploy"]).arg(app);
            let output = command.output()?;
            if output.status.success() {
                return self.answers(path);
            }
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                began.elapsed() < DEPLOY_LIMIT,
                "nigh deploy: {said}; {}",
                self.server.logged()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn answers(&self, path: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let answer = status(self.http, path);
            if matches!(answer, Ok(200)) {
                return Ok(());
            }
            ensure!(began.elapsed() < DEPLOY_LIMIT, "{path} is not answered: {answer:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The status of an answer to GET.
fn status(address: SocketAddr, path: &str) -> Result<u16> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEPLOY_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).context("no status")?.parse()?)
}
