//! The HTTP listener: HTTP/1.1 and HTTP/2 on one port, bounded connections, orderly stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use nigh_model::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Gateway;
use super::socket::Socket;
use crate::stopping::Stopping;

/// Most connections at once; one more is closed at once. An idle one costs some 10 KiB.
const CONNECTIONS_MAX: usize = 16_384;
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

/// Answers callers until the node closes; then lets running calls end, however long they take: who
/// stops the node drops this when it has waited long enough.
pub(crate) async fn serve_http(listener: TcpListener, gateway: Gateway, stopping: Stopping) {
    let builder = Arc::new(http_server());
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    // Cuts them off when this is dropped.
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let take = |stream: TcpStream, from: SocketAddr| {
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            gateway.core().metrics.connection_refused();
            return;
        };
        stopping.came();
        let (builder, gateway) = (Arc::clone(&builder), gateway.clone());
        let (stopping, cut) = (stopping.clone(), cut.clone());
        // On the threads of the guests: a call that runs here runs where its connection is.
        let seat = gateway.core().engine.threads().seat();
        let threads = seat.handle().clone();
        let Ok(stream) = stream.into_std() else { return };
        connections.spawn_on(
            async move {
                let _seat = seat;
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                let served = serve(&builder, stream, from, gateway, stopping, place);
                tokio::select! {
                    () = served => {}
                    () = cut.cancelled() => {}
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

/// Serves one connection to its end.
async fn serve(
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    from: SocketAddr,
    gateway: Gateway,
    stopping: Stopping,
    _place: OwnedSemaphorePermit,
) {
    // Without it small answers wait for the caller's delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let open = gateway.core().metrics.connections().clone();
    open.inc();
    // Set by the first call over HTTP/2: such a connection is told by GOAWAY that it ends, and
    // loses nothing. One over HTTP/1.1 is told with its next answer.
    let is_h2 = CancellationToken::new();
    let (seen, asked) = (is_h2.clone(), stopping.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let gateway = gateway.clone();
        let stopping = asked.clone();
        stopping.came();
        let is_h1 = request.version() < http::Version::HTTP_2;
        if !is_h1 {
            seen.cancel();
        }
        async move {
            let mut response = gateway.http(request, from).await;
            // Other calls that have come to this thread run first: answers are then written one after
            // the other, and a caller with many of them wakes up once.
            tokio::task::yield_now().await;
            if is_h1 && stopping.leaving.is_cancelled() {
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
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Socket::new(stream)), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    open.dec();
    if let Err(error) = ended {
        // A caller that goes, or sends what is no HTTP, is nothing to look into.
        tracing::debug!(%from, %error, "connection ended");
    }
}
