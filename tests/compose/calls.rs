//! Idempotent calls from the host at a fixed rate, whatever comes of those before. A call that fails
//! is tried once more at the next node, as a careful client does; both are counted, by what was
//! being done to the cluster when the call began.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::harness::Caller;

/// Calls a second.
const RATE: u32 = 200;
/// Calls under way at once; more means that answers do not come any more.
const PENDING_MAX: usize = 2_000;
/// The longest that calls go on.
const DURATION_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a client waits at one node before it goes to another.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// Failures of a phase that are shown in words.
const SHOWN_MAX: usize = 5;

/// How one call went.
struct Call {
    phase: usize,
    /// Why the first try failed, if it did.
    first: Option<String>,
    /// Why the second one failed too.
    second: Option<String>,
    took: Duration,
}

/// What may change while calls go on.
struct Shared {
    /// HTTP ports of the nodes to be called in turn.
    ports: Mutex<Vec<u16>>,
    /// What is being done to the cluster.
    phases: Mutex<Vec<String>>,
}

/// Calls that go on.
pub(crate) struct Calls {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<Vec<Call>>,
}

/// What came of the calls of a phase.
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) calls: usize,
    pub(crate) failed_once: usize,
    pub(crate) failed_twice: usize,
}

impl Calls {
    /// Begins to call a path at these nodes in turn.
    pub(crate) fn start(ports: Vec<u16>, path: &'static str) -> Self {
        let phases = Mutex::new(vec!["nothing".to_owned()]);
        let shared = Arc::new(Shared { ports: Mutex::new(ports), phases });
        let stop = CancellationToken::new();
        let task = tokio::spawn(send(shared.clone(), path, stop.clone()));
        Self { shared, stop, task }
    }

    /// Says what is done from now on.
    pub(crate) fn phase(&self, name: impl Into<String>) {
        let name = name.into();
        eprintln!("== {name}");
        self.shared.phases.lock().unwrap().push(name);
    }

    /// Calls these nodes from now on.
    pub(crate) fn call(&self, ports: Vec<u16>) {
        *self.shared.ports.lock().unwrap() = ports;
    }

    /// Ends, and says how it went: one line a phase.
    pub(crate) async fn end(self) -> Vec<Phase> {
        self.stop.cancel();
        let calls = self.task.await.expect("sending does not panic");
        let names = self.shared.phases.lock().unwrap().clone();
        let phases = names.into_iter().enumerate().map(|(phase, name)| {
            let calls: Vec<&Call> = calls.iter().filter(|call| call.phase == phase).collect();
            tell(&name, &calls);
            Phase {
                name,
                calls: calls.len(),
                failed_once: calls.iter().filter(|call| call.first.is_some()).count(),
                failed_twice: calls.iter().filter(|call| call.second.is_some()).count(),
            }
        });
        phases.collect()
    }
}

fn tell(name: &str, calls: &[&Call]) {
    let mut took: Vec<Duration> = calls.iter().map(|call| call.took).collect();
    took.sort();
    let at = |share: f64| {
        let index = (took.len() as f64 * share) as usize;
        took.get(index.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    let raw: Vec<&String> = calls.iter().filter_map(|call| call.first.as_ref()).collect();
    let lost: Vec<&String> = calls.iter().filter_map(|call| call.second.as_ref()).collect();
    eprintln!(
        "{name:<40} {:>6} calls {:>5} failed {:>3} after the retry  p50 {:.1?} p99 {:.1?} max {:.1?}",
        calls.len(),
        raw.len(),
        lost.len(),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    for (words, failures) in [("failed", raw), ("failed again", lost)] {
        let mut counted: Vec<(String, usize)> = Vec::new();
        for failure in failures {
            match counted.iter_mut().find(|(known, _)| known == failure) {
                Some((_, count)) => *count += 1,
                None => counted.push((failure.clone(), 1)),
            }
        }
        counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (failure, count) in counted.iter().take(SHOWN_MAX) {
            eprintln!("    {count} {words}: {failure}");
        }
    }
}

async fn send(shared: Arc<Shared>, path: &'static str, stop: CancellationToken) -> Vec<Call> {
    let began = Instant::now();
    let room = Arc::new(Semaphore::new(PENDING_MAX));
    let mut callers: Vec<(u16, Caller)> = Vec::new();
    let mut calls = Vec::new();
    let mut pending = JoinSet::new();
    for n in 0_u32.. {
        let at = Duration::from_secs(1) * n / RATE;
        assert!(at < DURATION_MAX, "calls went on for {DURATION_MAX:?}");
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(began + at) => {}
        }
        let phase = shared.phases.lock().unwrap().len() - 1;
        let ports = shared.ports.lock().unwrap().clone();
        let mut of = |nth: usize| {
            let port = ports[nth % ports.len()];
            if !callers.iter().any(|(known, _)| *known == port) {
                callers.push((port, Caller::new(port)));
            }
            callers.iter().find(|(known, _)| *known == port).unwrap().1.clone()
        };
        let tries = [of(n as usize), of(n as usize + 1)];
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            let full = Some("not sent: too many are under way".to_owned());
            calls.push(Call { phase, first: full.clone(), second: full, took: Duration::ZERO });
            continue;
        };
        pending.spawn(async move {
            let first = once(&tries[0], path).await.err();
            let second = match first {
                Some(_) => once(&tries[1], path).await.err(),
                None => None,
            };
            drop(place);
            let took = began.elapsed().saturating_sub(at);
            Call { phase, first, second, took }
        });
        while let Some(done) = pending.try_join_next() {
            calls.push(done.expect("a call does not panic"));
        }
    }
    while let Some(done) = pending.join_next().await {
        calls.push(done.expect("a call does not panic"));
    }
    calls
}

/// One try at one node.
async fn once(caller: &Caller, path: &str) -> Result<(), String> {
    let request = caller.request(Method::GET, path).body(Bytes::new()).expect("a good path");
    match timeout(TRY_LIMIT, caller.send(request)).await {
        Err(_) => Err(format!("no answer within {TRY_LIMIT:?}")),
        Ok(Err(why)) => Err(why),
        Ok(Ok(answer)) if answer.status == 200 => Ok(()),
        Ok(Ok(answer)) => Err(format!("{}: {}", answer.status, reason(&answer.text()))),
    }
}

/// The stable word in an answer of the platform, or its beginning.
fn reason(text: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let reason = problem.as_ref().and_then(|problem| problem["reason"].as_str());
    reason.map_or_else(|| text.chars().take(80).collect(), str::to_owned)
}
