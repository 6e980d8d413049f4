//! Callers that keep their connection as long as the node keeps it, and then go to the next node:
//! what a load balancer or a client's pool does. Their calls may not be repeated.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// No call takes longer.
const LIMIT: Duration = Duration::from_secs(20);
/// Nodes tried in a row before a caller gives up: each is down for a moment.
const TRIES_MAX: usize = 50;
/// The longest that any load goes on.
const DURATION_MAX: Duration = Duration::from_secs(240);

/// What came of all calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Answered with 200.
    pub(crate) good: usize,
    /// Everything else, with when it began.
    pub(crate) bad: Vec<(Duration, String)>,
    /// Connections made.
    pub(crate) connections: usize,
    /// Calls of which no byte was sent, as the connection had ended: sent on another.
    pub(crate) unsent: usize,
    /// The slowest good one.
    pub(crate) slowest: Duration,
}

impl Told {
    /// Every call was answered; prints how it went.
    #[track_caller]
    pub(crate) fn assert_none_failed(&self) {
        let Self { good, bad, connections, unsent, slowest } = self;
        eprintln!(
            "{good} calls answered, {} failed; {connections} connections, {unsent} calls sent on \
             another as not a byte had left; the slowest took {slowest:?}",
            bad.len(),
        );
        assert!(bad.is_empty(), "{:#?}", &bad[..bad.len().min(10)]);
    }
}

/// Load that is being sent.
pub(crate) struct Sticky {
    stop: CancellationToken,
    callers: JoinSet<Told>,
    began: Instant,
}

impl Sticky {
    /// So many callers POST to this path, together `rate` times a second.
    pub(crate) fn start(ports: &[u16], path: &str, callers: usize, rate: u32) -> Self {
        let stop = CancellationToken::new();
        let began = Instant::now();
        let every = Duration::from_secs(1) * callers as u32 / rate;
        let mut running = JoinSet::new();
        for n in 0..callers {
            let offset = every * n as u32 / callers as u32;
            let caller = Caller {
                ports: ports.to_vec(),
                at: n,
                path: path.to_owned(),
                sender: None,
                told: Told::default(),
            };
            running.spawn(caller.run(began, offset, every, stop.clone()));
        }
        Self { stop, callers: running, began }
    }

    /// Lets it go on until it has gone on for so long.
    pub(crate) async fn until(&self, elapsed: Duration) {
        sleep_until(self.began + elapsed).await;
    }

    /// Ends it and waits for the answers that are still to come.
    pub(crate) async fn end(mut self) -> Told {
        self.stop.cancel();
        let mut all = Told::default();
        while let Some(told) = self.callers.join_next().await {
            let told = told.expect("a caller does not panic");
            all.good += told.good;
            all.bad.extend(told.bad);
            all.connections += told.connections;
            all.unsent += told.unsent;
            all.slowest = all.slowest.max(told.slowest);
        }
        all.bad.sort();
        all
    }
}

struct Caller {
    ports: Vec<u16>,
    /// The node called, by index into the ports, as often as it takes.
    at: usize,
    path: String,
    sender: Option<SendRequest<Full<Bytes>>>,
    told: Told,
}

impl Caller {
    async fn run(
        mut self,
        began: Instant,
        offset: Duration,
        every: Duration,
        stop: CancellationToken,
    ) -> Told {
        for n in 0_u32.. {
            let at = offset + every * n;
            if at > DURATION_MAX {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(began + at) => {}
            }
            let sent = Instant::now();
            let entry = self.ports[self.at % self.ports.len()];
            match timeout(LIMIT, self.call()).await {
                Ok(Ok(200)) => {
                    self.told.good += 1;
                    self.told.slowest = self.told.slowest.max(sent.elapsed());
                }
                Ok(Ok(status)) => self.fail(began, sent, format!("{entry}: status {status}")),
                Ok(Err(why)) => self.fail(began, sent, format!("{entry}: {why}")),
                Err(_) => self.fail(began, sent, format!("{entry}: no whole answer in {LIMIT:?}")),
            }
        }
        self.told
    }

    fn fail(&mut self, began: Instant, sent: Instant, why: String) {
        self.sender = None;
        self.told.bad.push((sent - began, why));
    }

    /// Calls once; on another connection only when no byte of it was sent on the one before.
    async fn call(&mut self) -> Result<u16, String> {
        for _ in 0..TRIES_MAX {
            let mut sender = self.connected().await?;
            let request = Request::builder()
                .method(Method::POST)
                .uri(&self.path)
                .header("host", "127.0.0.1")
                .body(Full::<Bytes>::default())
                .expect("a good path");
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let closes = response.headers().get("connection").is_some();
                    let body = response.into_body().collect().await;
                    let body = body.map_err(|error| format!("{status} broke off: {error}"))?;
                    if closes {
                        self.at += 1;
                    } else {
                        self.sender = Some(sender);
                    }
                    if status != 200 {
                        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                        return Err(format!("{status}: {text}"));
                    }
                    return Ok(status);
                }
                Err(mut error) => {
                    self.at += 1;
                    if error.take_message().is_none() {
                        return Err(format!("sent, and no answer: {}", error.into_error()));
                    }
                    self.told.unsent += 1;
                }
            }
        }
        Err("no node takes the call".to_owned())
    }

    /// The connection that there is, or one to the next node that accepts one.
    async fn connected(&mut self) -> Result<SendRequest<Full<Bytes>>, String> {
        if let Some(mut sender) = self.sender.take() {
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Ok(sender);
            }
            self.at += 1;
        }
        let mut last = String::new();
        for _ in 0..TRIES_MAX {
            let port = self.ports[self.at % self.ports.len()];
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(|error| error.to_string())?;
                    let made = handshake(TokioIo::new(stream)).await;
                    let (sender, connection) = made.map_err(|error| error.to_string())?;
                    tokio::spawn(connection);
                    self.told.connections += 1;
                    return Ok(sender);
                }
                Err(error) => {
                    last = format!("{port}: {error}");
                    self.at += 1;
                }
            }
        }
        Err(format!("no node accepts a connection; {last}"))
    }
}
