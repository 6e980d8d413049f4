//! The listeners of HTTP and HTTPS: HTTP/1.1 and HTTP/2 on one port, bounded connections, orderly stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use nigh_model::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use nigh_runtime::Gathered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::Connection;
use super::socket::Socket;
use super::tls::{Handshakes, Preload};
use super::{Gateway, headers};
use crate::stopping::Stopping;

/// Most connections at once; one more is closed at once. An idle one costs some 30 KiB, and one
/// over TLS its buffers besides.
pub(crate) const CONNECTIONS_MAX: usize = 16_384;
/// A request's head must be there by then, and an idle connection is closed after it.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(60);
/// Room for a request's head: its headers and its first line.
const HEAD_BYTES_MAX: usize = HEADER_BYTES_MAX + (16 << 10);
/// Calls at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Resets that wait to be seen by a handler before the connection is closed: bounds what rapid
/// resets (CVE-2023-44487) cost.
const RESETS_PENDING_MAX: usize = 20;
/// Bytes on the way of one HTTP/2 stream, and of a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of answers that wait on one HTTP/2 stream for the caller to take them.
const SEND_BUFFER_BYTES_MAX: usize = 256 << 10;
/// An HTTP/2 connection is asked for a sign of life this often, and closed without one.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that the kernel holds for a listener at most: tokio's backlog.
const WAITING_MAX: usize = 1_024;
/// After a failed accept, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is spoken below HTTP at a listener.
#[derive(Clone)]
pub(crate) enum Transport {
    /// Nothing.
    Plain {
        /// The port of HTTPS that callers are told to use instead.
        redirect: Option<u16>,
    },
    /// TLS.
    Tls(Arc<Handshakes>),
}

/// Answers callers until the node closes; then lets running calls end, however long they take: who
/// stops the node drops this when it has waited long enough.
pub(crate) async fn serve_http(
    listener: TcpListener,
    transport: Transport,
    gateway: Gateway,
    stopping: Stopping,
) {
    let builder = Arc::new(http_server());
    let connections = TaskTracker::new();
    // Cuts them off when this is dropped.
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let take = |stream: TcpStream, from: SocketAddr| {
        let room = Arc::clone(&gateway.core().connections);
        let Ok(place) = room.try_acquire_owned() else {
            gateway.core().metrics.connection_refused();
            return;
        };
        stopping.came();
        let (builder, gateway) = (Arc::clone(&builder), gateway.clone());
        let (stopping, cut) = (stopping.clone(), cut.clone());
        let transport = transport.clone();
        // On the threads of the guests: a call that runs here runs where its connection is.
        let seat = gateway.core().engine.threads().seat();
        let threads = seat.handle().clone();
        let Ok(stream) = stream.into_std() else { return };
        connections.spawn_on(
            async move {
                let (_seat, _place) = (seat, place);
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                let served = begin(&builder, stream, from, transport, gateway, stopping);
                let mut cut = aside(cut.cancelled());
                tokio::select! {
                    biased;
                    () = served => {}
                    _ = cut.next() => {}
                }
            },
            &threads,
        );
    };
    loop {
        let accepted = tokio::select! {
            () = stopping.closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => take(stream, from),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The kernel has connected callers that were not accepted yet: closing would reset them, and
    // they may have sent their call.
    for (stream, from) in waiting(listener) {
        take(stream, from);
    }
    connections.close();
    connections.wait().await;
}

/// The connections that wait to be accepted on a listener, which is closed right after.
pub(super) fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    // It does not block: accepting ends when nobody waits.
    let Ok(listener) = listener.into_std() else { return waiting };
    while waiting.len() < WAITING_MAX
        && let Ok((stream, from)) = listener.accept()
    {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        waiting.extend(stream.ok().map(|stream| (stream, from)));
    }
    waiting
}

/// A server of HTTP/1.1 and HTTP/2 whose connections and heads are bounded.
pub(crate) fn http_server() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Agrees on what is spoken, and serves.
async fn begin(
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    from: SocketAddr,
    transport: Transport,
    gateway: Gateway,
    stopping: Stopping,
) {
    // Without it small answers wait for the caller's delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let address = headers::address(from);
    match transport {
        Transport::Plain { redirect } => {
            let connection = Connection { from: address, is_tls: false, redirect, preload: None };
            serve(builder, Gathered::new(stream), connection, gateway, stopping).await;
        }
        Transport::Tls(handshakes) => {
            let agreed = handshakes.agree(stream, |host| gateway.preload(host));
            let Some((stream, preload)) = Box::pin(agreed).await else { return };
            // Calls look at it only where there is something.
            let preload = preload.filter(Preload::has_begun);
            let connection = Connection { from: address, is_tls: true, redirect: None, preload };
            Box::pin(serve(builder, stream, connection, gateway, stopping)).await;
        }
    }
}

/// What is waited for beside a connection: looked at when it has something to say, and not whenever a
/// call comes.
pub(crate) fn aside<F: Future<Output = ()>>(event: F) -> FuturesUnordered<F> {
    FuturesUnordered::from_iter([event])
}

/// Serves one connection to its end.
async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    builder: &Builder<TokioExecutor>,
    stream: S,
    connection: Connection,
    gateway: Gateway,
    stopping: Stopping,
) {
    let connection = Arc::new(connection);
    let caller = Arc::clone(&connection);
    let open = gateway.core().metrics.connections().clone();
    open.inc();
    // Set by the first call over HTTP/2: such a connection is told by GOAWAY that it ends, and
    // loses nothing. One over HTTP/1.1 is told with its next answer.
    let is_h2 = CancellationToken::new();
    // Shared with no other connection: a token has a lock inside, which all threads of guests would take.
    let leaving = Arc::new(stopping.leaving.child_token());
    let is_gathered = nigh_runtime::gathers();
    let (seen, asked) = (is_h2.clone(), stopping.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (gateway, connection) = (gateway.clone(), Arc::clone(&connection));
        let leaving = Arc::clone(&leaving);
        asked.came();
        let is_h1 = request.version() < http::Version::HTTP_2;
        if !is_h1 {
            seen.cancel();
        }
        async move {
            // Boxed: a connection without a call has no room for one.
            let mut response = Box::pin(gateway.http(request, &connection)).await;
            if !is_gathered || !is_h1 {
                // Other calls that have come to this thread run first: answers are then written one
                // after the other, and a caller with many of them wakes up once.
                tokio::task::yield_now().await;
            }
            if is_h1 && leaving.is_cancelled() {
                let close = http::HeaderValue::from_static("close");
                response.headers_mut().insert(http::header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let told = async {
        tokio::select! {
            () = stopping.closing.cancelled() => {}
            () = async { tokio::join!(stopping.leaving.cancelled(), is_h2.cancelled()); } => {}
        }
    };
    let mut told = aside(told);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Socket::new(stream)), service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = told.next() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    open.dec();
    if let Err(error) = ended {
        // A caller that goes, or sends what is no HTTP, is nothing to look into.
        tracing::debug!(from = ?caller.from, %error, "connection ended");
    }
}
