//! The listeners of HTTP and HTTPS: HTTP/1.1 and HTTP/2 on one port, bounded connections, orderly stop.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use nigh_runtime::Gathered;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::serve;
use super::http::Connection;
use super::servers::Servers;
use super::tls::{Handshakes, Preload};
use super::{Gateway, headers};
use crate::stopping::Stopping;

/// Most connections at once; one more is closed at once. One in use costs some 30 KiB, an idle one 11, and one
/// over TLS its buffers besides.
pub(crate) const CONNECTIONS_MAX: usize = 16_384;
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
    let servers = Arc::new(Servers::new(None));
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
        let (servers, gateway) = (Arc::clone(&servers), gateway.clone());
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
                // Pinned: moved into what waits for it, it would be there twice.
                let served = pin!(begin(&servers, stream, from, transport, gateway, stopping));
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

/// Agrees on what is spoken, and serves.
async fn begin(
    servers: &Servers,
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
            serve(servers, Gathered::new(stream), connection, gateway, stopping).await;
        }
        Transport::Tls(handshakes) => {
            let agreed = handshakes.agree(stream, |host| gateway.preload(host));
            let Some((stream, preload)) = Box::pin(agreed).await else { return };
            // Calls look at it only where there is something.
            let preload = preload.filter(Preload::has_begun);
            let connection = Connection { from: address, is_tls: true, redirect: None, preload };
            Box::pin(serve(servers, stream, connection, gateway, stopping)).await;
        }
    }
}

/// What is waited for beside a connection: looked at when it has something to say, and not whenever a
/// call comes.
pub(crate) fn aside<F: Future<Output = ()>>(event: F) -> FuturesUnordered<F> {
    FuturesUnordered::from_iter([event])
}
