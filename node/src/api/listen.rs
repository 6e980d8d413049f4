//! The API's connections: TLS, bounded, each with the certificate of the moment.
//!
//! It decides nothing about who may ask what: that is `authorize`. What is no TLS gets a hint
//! from `plain`.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpConnectInfo;
use tower::ServiceExt as _;

use super::plain;
use crate::gateway::{Socket, http_server};
use crate::telemetry::{ApiRefusal, Metrics};

/// Most connections at once; one more is closed at once. An idle one costs some 40 KiB with its
/// TLS buffers. People, scripts and probes hold few; clients that invoke share one for many calls.
const CONNECTIONS_MAX: usize = 4_096;
/// TLS must be agreed on by then: a few round trips, with a guess for slow links.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// What running requests get to end in after a stop.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// After a failed accept, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The first byte of a TLS handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// What two sides that speak HTTP/2 agree on.
const ALPN_H2: &[u8] = b"h2";

/// Says what to serve TLS with; asked for each connection, as certificates renew.
pub(crate) type ServerTls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// What the connections have in common.
struct Server {
    tls: ServerTls,
    http1: Builder<TokioExecutor>,
    http2: Builder<TokioExecutor>,
    router: Router,
    metrics: Metrics,
    stop: CancellationToken,
}

/// Answers over TLS until it is stopped; then lets running requests end, for a grace.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    router: Router,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let server = Arc::new(Server {
        tls,
        http1: http_server().http1_only(),
        http2: http_server().http2_only(),
        router,
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

impl Server {
    /// Serves one connection to its end.
    async fn connection(&self, stream: TcpStream, from: SocketAddr) {
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
    async fn begin(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            // A probe that only connects.
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        if first[0] != TLS_HANDSHAKE {
            self.metrics.api_refused(ApiRefusal::NoTls);
            plain::refuse(stream).await;
            return None;
        }
        match TlsAcceptor::from((self.tls)()).accept(stream).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                // Strangers are nothing to look into; the metric says how many there are.
                tracing::debug!(%error, "no TLS with a caller of the API");
                self.metrics.api_refused(ApiRefusal::NoHandshake);
                None
            }
        }
    }

    async fn http(&self, stream: TlsStream<TcpStream>, from: SocketAddr) {
        let (tcp, tls) = stream.get_ref();
        // What has not said that it speaks HTTP/2 is waited for as HTTP/1.1.
        let is_h2 = tls.alpn_protocol() == Some(ALPN_H2);
        let builder = if is_h2 { &self.http2 } else { &self.http1 };
        let at = TcpConnectInfo { local_addr: tcp.local_addr().ok(), remote_addr: Some(from) };
        let service =
            self.router.clone().map_request(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(at.clone());
                request
            });
        let service = TowerToHyperService::new(service);
        let io = TokioIo::new(Socket::new(stream));
        let mut connection = pin!(builder.serve_connection(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%from, %error, "connection to the API ended");
        }
    }
}
