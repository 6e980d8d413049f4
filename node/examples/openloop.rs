//! A client that keeps its schedule whatever comes back (an open loop), for measuring what a node does
//! when it is asked for too much, or by very many.
//!
//! `openloop send ADDRESS PATH CONNECTIONS RATE:SECONDS…`: asks for the path, phase after phase, so many
//! times a second each. The connections are open before the first call and take turns; a call for which
//! none is free is not sent, and counted. Prints a JSON array with what each phase gave.
//!
//! `openloop probe …`: the same, after each connection has served a call that is not counted.
//!
//! `openloop hold ADDRESS PATH CONNECTIONS`: makes one call on each connection, says `held`, and keeps
//! them open until it is ended.
//!
//! What a call takes is counted from when it was really sent; how far that was behind the schedule is
//! said beside it. One thread: the servers that are measured need the others.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Whatever is measured takes no longer.
const LIMIT: Duration = Duration::from_secs(600);
/// An answer is there by then, or its call has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Connections that are opened at the same time: far fewer than the kernel holds for a listener.
const OPENED_AT_ONCE: usize = 128;
/// Calls at the same time where their answers are not what is measured: any node takes on so few.
const CALLED_AT_ONCE: usize = 8;
/// Descriptors besides one for each connection.
const DESCRIPTORS_SPARE: u64 = 64;
/// Answers are also looked at by when their call was sent, in windows as long as this.
const WINDOW: Duration = Duration::from_millis(250);
/// Ticks of `/proc/PID/stat` in a second: the same on every Linux.
const TICKS_A_SECOND: f64 = 100.0;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let work = async {
        match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [how @ ("send" | "probe"), address, path, connections, phases @ ..]
                if !phases.is_empty() =>
            {
                let target = Target::open(address, path, connections.parse().unwrap()).await;
                if *how == "probe" {
                    target.call_on_each().await;
                }
                let phases: Vec<Phase> = phases.iter().map(|text| Phase::parse(text)).collect();
                println!("{}", send(&target, &phases).await);
            }
            ["hold", address, path, connections] => {
                let target = Target::open(address, path, connections.parse().unwrap()).await;
                let all_good = target.call_on_each().await;
                assert!(all_good, "a call was not answered well");
                println!("held");
                sleep(LIMIT).await;
            }
            _ => println!(
                "usage: openloop send|probe ADDRESS PATH CONNECTIONS RATE:SECONDS… | hold ADDRESS \
                 PATH CONNECTIONS"
            ),
        }
    };
    // What is held ends with whoever measures, and at last by itself.
    let _ = timeout(LIMIT, work).await;
}

/// So many calls a second for so long.
struct Phase {
    rate: f64,
    lasts: Duration,
}

impl Phase {
    fn parse(text: &str) -> Self {
        let (rate, seconds) = text.split_once(':').expect("RATE:SECONDS");
        let lasts = Duration::from_secs_f64(seconds.parse().unwrap());
        Self { rate: rate.parse().unwrap(), lasts }
    }

    fn calls(&self) -> usize {
        (self.rate * self.lasts.as_secs_f64()).round() as usize
    }
}

type Sender = SendRequest<Empty<Bytes>>;

/// What is asked for, and the connections that nobody waits on.
struct Target {
    address: SocketAddr,
    path: String,
    idle: Mutex<VecDeque<Sender>>,
}

impl Target {
    async fn open(address: &str, path: &str, connections: usize) -> Arc<Self> {
        let descriptors = connections as u64 + DESCRIPTORS_SPARE;
        assert!(rlimit::increase_nofile_limit(descriptors).unwrap() >= descriptors, "ulimit -n");
        let address = address.parse().unwrap();
        let made = futures::stream::iter(0..connections).map(|_| connect(address));
        let made: Vec<Sender> =
            made.buffer_unordered(OPENED_AT_ONCE).map(Result::unwrap).collect().await;
        Arc::new(Self { address, path: path.to_owned(), idle: Mutex::new(made.into()) })
    }

    /// Every connection has served a call afterwards; whether all answers were good ones.
    async fn call_on_each(&self) -> bool {
        let all: Vec<Sender> = self.idle.lock().unwrap().drain(..).collect();
        let calls = futures::stream::iter(all).map(|sender| self.call(sender));
        let answers: Vec<_> = calls.buffer_unordered(CALLED_AT_ONCE).collect().await;
        let all_good = answers.iter().all(|(answer, _)| *answer == Ok(StatusCode::OK));
        self.idle.lock().unwrap().extend(answers.into_iter().filter_map(|(_, sender)| sender));
        all_good
    }

    /// The status of the answer, and the connection when it can be used again.
    async fn call(&self, sender: Sender) -> (Result<StatusCode, String>, Option<Sender>) {
        match timeout(ANSWER_LIMIT, self.ask(sender)).await {
            Ok(Ok((status, sender))) => (Ok(status), Some(sender)),
            Ok(Err(error)) => (Err(error), None),
            Err(_) => (Err("no answer".to_owned()), None),
        }
    }

    async fn ask(&self, mut sender: Sender) -> Result<(StatusCode, Sender), String> {
        let said = |error: &dyn std::error::Error| error.to_string();
        if sender.ready().await.is_err() {
            // The server closed it while it was idle.
            sender = connect(self.address).await.map_err(|error| said(&error))?;
        }
        let request = Request::get(&self.path).header(header::HOST, "bench");
        let request = request.body(Empty::new()).map_err(|error| said(&error))?;
        let response = sender.send_request(request).await.map_err(|error| said(&error))?;
        let status = response.status();
        response.into_body().collect().await.map_err(|error| said(&error))?;
        Ok((status, sender))
    }
}

async fn connect(address: SocketAddr) -> std::io::Result<Sender> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    // Whoever is measured closes connections as it likes.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// What became of a call.
struct Done {
    phase: usize,
    /// When it was sent, since its phase began.
    sent: Duration,
    took: Duration,
    answer: Result<StatusCode, String>,
}

/// What a phase gave, beside its calls' ends.
#[derive(Default)]
struct Sent {
    lag_ms: Vec<f64>,
    unsent: usize,
    cpu_s: f64,
}

async fn send(target: &Arc<Target>, phases: &[Phase]) -> Value {
    let mut running = JoinSet::new();
    let (mut done, mut sent): (Vec<Done>, Vec<Sent>) = (Vec::new(), Vec::new());
    for (at, phase) in phases.iter().enumerate() {
        let (cpu_s, mut here) = (cpu_s(), Sent::default());
        let began = Instant::now();
        for n in 0..phase.calls() {
            let due = began + Duration::from_secs_f64(n as f64 / phase.rate);
            if due > Instant::now() {
                sleep_until(due).await;
            } else {
                // Who is late lets answers be read all the same.
                tokio::task::yield_now().await;
            }
            while let Some(ended) = running.try_join_next() {
                done.push(ended.unwrap());
            }
            let Some(sender) = target.idle.lock().unwrap().pop_front() else {
                here.unsent += 1;
                continue;
            };
            here.lag_ms.push(due.elapsed().as_secs_f64() * 1e3);
            running.spawn(one(Arc::clone(target), sender, at, began));
        }
        sleep_until(began + phase.lasts).await;
        here.cpu_s = self::cpu_s() - cpu_s;
        sent.push(here);
    }
    while let Some(ended) = running.join_next().await {
        done.push(ended.unwrap());
    }
    let of = |at: usize| done.iter().filter(|done| done.phase == at).collect::<Vec<_>>();
    phases
        .iter()
        .zip(sent)
        .enumerate()
        .map(|(at, (phase, sent))| told(phase, sent, &of(at)))
        .collect()
}

async fn one(target: Arc<Target>, sender: Sender, phase: usize, began: Instant) -> Done {
    let now = Instant::now();
    let (answer, sender) = target.call(sender).await;
    let took = now.elapsed();
    let sender = match sender {
        Some(sender) => Some(sender),
        None => connect(target.address).await.ok(),
    };
    target.idle.lock().unwrap().extend(sender);
    Done { phase, sent: now - began, took, answer }
}

fn told(phase: &Phase, mut sent: Sent, done: &[&Done]) -> Value {
    let is_good = |done: &&&Done| done.answer == Ok(StatusCode::OK);
    let is_refused = |done: &&&Done| {
        let refusals = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        done.answer.as_ref().is_ok_and(|status| refusals.contains(status))
    };
    let ms = |done: &&Done| done.took.as_secs_f64() * 1e3;
    let mut good: Vec<f64> = done.iter().filter(is_good).map(ms).collect();
    let mut refused: Vec<f64> = done.iter().filter(is_refused).map(ms).collect();
    let failed: Vec<_> = done.iter().filter(|done| !is_good(done) && !is_refused(done)).collect();
    let windows = phase.lasts.as_secs_f64() / WINDOW.as_secs_f64();
    let windows = (0..windows.ceil() as u32).map(|n| {
        let within = |done: &&&Done| (WINDOW * n..WINDOW * (n + 1)).contains(&done.sent);
        let mut all: Vec<f64> = done.iter().filter(within).filter(is_good).map(ms).collect();
        percentile(&mut all, 50)
    });
    json!({
        "windows_p50_ms": windows.collect::<Vec<_>>(),
        "calls": phase.calls(),
        "seconds": phase.lasts.as_secs_f64(),
        "good": good.len(),
        "refused": refused.len(),
        "failed": failed.len(),
        "why": failed.first().map(|done| format!("{:?}", done.answer)),
        "unsent": sent.unsent,
        "p50_ms": percentile(&mut good, 50),
        "p99_ms": percentile(&mut good, 99),
        "refused_p99_ms": percentile(&mut refused, 99),
        "lag_p99_ms": percentile(&mut sent.lag_ms, 99),
        "cpu_s": sent.cpu_s,
        "window_s": WINDOW.as_secs_f64(),
    })
}

/// None of nothing.
fn percentile(values: &mut [f64], hundredths: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * hundredths / 100).min(values.len().saturating_sub(1))).copied()
}

/// CPU time that this process has used.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name, in parentheses: state is field 3, utime 14.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<f64>().unwrap();
    (ticks(14) + ticks(15)) / TICKS_A_SECOND
}
