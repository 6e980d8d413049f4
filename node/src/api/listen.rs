//! The API's connections: TLS, bounded, each with the certificate of the moment.
//!
//! One that calls functions moves to a thread of guests (`moving.rs`). What else is asked over it runs on the
//! control plane's threads all the same.
//!
//! It decides nothing about who may ask what: that is `authorize`. What is no TLS gets a hint
//! from `gateway/tls/plain.rs`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::{Request, Response};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nigh_proto::v1::invoker_server::{Invoker, InvokerServer};
use nigh_runtime::{Gathered, Threads};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::server::TcpConnectInfo;
use tower::{Service as _, ServiceExt as _};

use super::authorize::Door;
use crate::gateway::{Servers, Socket, TLS_HANDSHAKE, refuse_plain};
use crate::moving::{self, Called, Control};
use crate::telemetry::{ApiRefusal, Metrics};

/// Most connections at once; one more is closed at once. An idle one costs some 40 KiB with its
/// TLS buffers. People, scripts and probes hold few; clients that invoke share one for many calls.
const CONNECTIONS_MAX: usize = 4_096;
/// TLS must be agreed on by then: a few round trips, with a guess for slow links.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// A request's head must be there by then, and an idle connection over HTTP/1.1 is closed after it.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(60);
/// What running requests get to end in after a stop.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// After a failed accept, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is asked to call a function.
const CALLS: [&str; 2] = ["/nigh.v1.Invoker/Invoke", "/nigh.v1.Invoker/InvokeStream"];
/// What two sides that speak HTTP/2 agree on.
const ALPN_H2: &[u8] = b"h2";

/// Says what to serve TLS with; asked for each connection, as certificates renew.
pub(crate) type ServerTls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// What calls functions, and where.
pub(crate) struct Calls<I: Invoker> {
    /// Lets callers in.
    pub(crate) door: Arc<Door>,
    /// Calls.
    pub(crate) invoker: InvokerServer<I>,
    /// The threads of guests.
    pub(crate) threads: Threads,
}

/// What the connections have in common.
struct Server<I: Invoker> {
    tls: ServerTls,
    servers: Servers,
    router: Router,
    calls: Calls<I>,
    control: Control,
    metrics: Metrics,
    stop: CancellationToken,
}

/// An answer: of a call, or of anything else.
type Answer = Response<Either<tonic::body::Body, axum::body::Body>>;

/// Answers over TLS until it is stopped; then lets running requests end, for a grace.
pub(crate) async fn serve<I: Invoker>(
    listener: TcpListener,
    tls: ServerTls,
    router: Router,
    calls: Calls<I>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let server = Arc::new(Server {
        tls,
        servers: Servers::new(Some(HEAD_WAIT_MAX)),
        router,
        control: Control::here(calls.threads.clone()),
        calls,
        metrics,
        stop: stop.clone(),
    });
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    // Cuts off those that are still there after the grace, or when this is no longer awaited.
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            server.metrics.api_refused(ApiRefusal::Full);
            continue;
        };
        let (server, cut) = (Arc::clone(&server), cut.clone());
        connections.spawn(async move {
            tokio::select! {
                () = server.connection(stream, from) => {}
                () = cut.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(STOP_GRACE, connections.wait()).await.is_err() {
        tracing::debug!(open = connections.len(), "connections to the API are cut off");
        cut.cancel();
        connections.wait().await;
    }
}

impl<I: Invoker> Server<I> {
    /// Serves one connection to its end.
    async fn connection(self: &Arc<Self>, stream: TcpStream, from: SocketAddr) {
        // Without it each call waits for a delayed acknowledgement: 41 ms.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let began = tokio::select! {
            began = tokio::time::timeout(HANDSHAKE_WAIT_MAX, self.begin(stream)) => began,
            () = self.stop.cancelled() => return,
        };
        match began {
            Ok(Some(stream)) => self.http(stream, from).await,
            Ok(None) => {}
            Err(_) => self.metrics.api_refused(ApiRefusal::NoHandshake),
        }
    }

    /// Agrees on TLS, or says what is wrong.
    async fn begin(&self, stream: TcpStream) -> Option<TlsStream<Gathered>> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            // A probe that only connects.
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        if first[0] != TLS_HANDSHAKE {
            self.metrics.api_refused(ApiRefusal::NoTls);
            refuse_plain(stream).await;
            return None;
        }
        match TlsAcceptor::from((self.tls)()).accept(Gathered::new(stream)).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                // Strangers are nothing to look into; the metric says how many there are.
                tracing::debug!(%error, "no TLS with a caller of the API");
                self.metrics.api_refused(ApiRefusal::NoHandshake);
                None
            }
        }
    }

    async fn http(self: &Arc<Self>, stream: TlsStream<Gathered>, from: SocketAddr) {
        let (tcp, tls) = stream.get_ref();
        // What has not said that it speaks HTTP/2 is waited for as HTTP/1.1.
        let is_h2 = tls.alpn_protocol() == Some(ALPN_H2);
        let at = TcpConnectInfo { local_addr: tcp.local_addr().ok(), remote_addr: Some(from) };
        let mover = tcp.mover();
        let called = Called::default();
        let (server, now_called) = (Arc::clone(self), called.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(at.clone());
            let server = Arc::clone(&server);
            let is_call = CALLS.contains(&request.uri().path());
            if is_call {
                now_called.set();
            }
            async move {
                let answer = match is_call {
                    true => server.call(request).await,
                    false => server.ask(request).await,
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let io = TokioIo::new(Socket::new(stream));
        let (threads, stop) = (&self.calls.threads, self.stop.clone());
        let ended = if is_h2 {
            let connection = self.servers.http2.serve_connection(io, service);
            moving::serve(connection, called, mover, threads, stop).await
        } else {
            let connection = self.servers.http1.serve_connection(io, service);
            moving::serve(connection, called, mover, threads, stop).await
        };
        if let Err(error) = ended {
            tracing::debug!(%from, %error, "connection to the API ended");
        }
    }

    /// Calls a function, here.
    async fn call(&self, mut request: Request<Incoming>) -> Answer {
        if let Err(refusal) = self.calls.door.open(&mut request) {
            return refusal.map(Either::Right);
        }
        let Ok(answer) = self.calls.invoker.clone().call(request).await;
        answer.map(Either::Left)
    }

    /// Answers anything else, on a thread of the control plane.
    async fn ask(&self, request: Request<Incoming>) -> Answer {
        match self.control.run(self.router.clone().oneshot(request)).await {
            Some(Ok(answer)) => answer.map(Either::Right),
            None => {
                let why = Status::internal("the request broke off in the node");
                why.into_http::<axum::body::Body>().map(Either::Right)
            }
        }
    }
}
