//! Calls at given times, whatever comes of those before: an open loop.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::call::Caller;

/// Calls under way at once; more means that answers do not come any more.
const PENDING_MAX: usize = 2_000;
/// The longest that any load goes on.
const DURATION_MAX: Duration = Duration::from_secs(120);

/// How a call ended.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// When it was to begin, from the start of the load.
    pub(crate) at: Duration,
    /// Where it entered, by index into the ports.
    pub(crate) entry: usize,
    /// How it asked.
    pub(crate) method: Method,
    /// Its status, or how far it came.
    pub(crate) result: Result<u16, String>,
    /// The node that ran it, where the answer says so.
    pub(crate) node: Option<String>,
    /// The revision that ran it, where the answer says so.
    pub(crate) revision: Option<String>,
    /// The body of an answer that was not 200.
    pub(crate) said: String,
    /// From the time it was to begin.
    pub(crate) took: Duration,
}

impl Call {
    /// Whether it was answered with 200.
    pub(crate) fn is_good(&self) -> bool {
        self.result == Ok(200)
    }
}

/// Load that is being sent.
pub(crate) struct Load {
    stop: CancellationToken,
    task: JoinHandle<Vec<Call>>,
    began: Instant,
}

impl Load {
    /// Begins to GET a path, `rate` times a second, entering at these ports in turn.
    pub(crate) fn start(ports: Vec<u16>, path: &str, rate: u32) -> Self {
        Self::of(ports, &[(Method::GET, path)], rate)
    }

    /// The same with several requests in turn, each at every port.
    pub(crate) fn of(ports: Vec<u16>, requests: &[(Method, &str)], rate: u32) -> Self {
        let stop = CancellationToken::new();
        let began = Instant::now();
        let requests = requests.iter().map(|(method, path)| (method.clone(), (*path).to_owned()));
        let sending = send(ports, requests.collect(), rate, stop.clone(), began);
        Self { stop, task: tokio::spawn(sending), began }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets it go on until it has gone on for so long.
    pub(crate) async fn until(&self, elapsed: Duration) {
        sleep_until(self.began + elapsed).await;
    }

    /// Ends it and waits for the answers that are still to come.
    pub(crate) async fn end(self) -> Vec<Call> {
        self.stop.cancel();
        let mut calls = self.task.await.expect("sending does not panic");
        calls.sort_by_key(|call| call.at);
        calls
    }
}

async fn send(
    ports: Vec<u16>,
    requests: Vec<(Method, String)>,
    rate: u32,
    stop: CancellationToken,
    began: Instant,
) -> Vec<Call> {
    let callers: Vec<Caller> = ports.into_iter().map(Caller::new).collect();
    let room = Arc::new(Semaphore::new(PENDING_MAX));
    let mut calls = Vec::new();
    let mut pending = JoinSet::new();
    for n in 0_u32.. {
        let at = Duration::from_secs(1) * n / rate;
        if at > DURATION_MAX {
            break;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(began + at) => {}
        }
        let entry = n as usize % callers.len();
        let (method, path) = &requests[n as usize / callers.len() % requests.len()];
        let mut call = Call {
            at,
            entry,
            method: method.clone(),
            result: Err("not sent: too many are under way".to_owned()),
            node: None,
            revision: None,
            said: String::new(),
            took: Duration::ZERO,
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            calls.push(call);
            continue;
        };
        let caller = callers[entry].clone();
        let request = caller.request(method.clone(), path).body(Bytes::new()).expect("a good path");
        pending.spawn(async move {
            let answer = caller.send(request).await;
            call.took = began.elapsed().saturating_sub(at);
            match answer {
                Ok(answer) => {
                    let header = |name| Some(answer.headers.get(name)?.to_str().ok()?.to_owned());
                    call.node = header("nigh-node");
                    call.revision = header("nigh-revision");
                    if answer.status != 200 {
                        call.said = answer.text();
                    }
                    call.result = Ok(answer.status);
                }
                Err(why) => call.result = Err(why),
            }
            drop(place);
            call
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
