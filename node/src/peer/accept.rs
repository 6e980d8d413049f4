//! Takes connections at the peer port: TLS first, then whose they are.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use nigh_model::NodeId;
use nigh_runtime::{Gathered, Mover};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::connect::ROUND_BYTES;
use super::farewell::Farewell;
use super::gate::is_member;
use super::strangers::{Strangers, Turned};
use crate::decided::Decided;
use crate::identity::{Leaf, Tls};

/// A handshake that is not done by then will not be.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at once: five lanes from each of a few hundred nodes, with room for those who
/// only knock.
const CONNECTIONS_MAX: usize = 4_096;
/// Connections through their handshake that wait to be served.
const QUEUE: usize = 64;
/// Between two looks at who is no longer a member.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Wait after a failure to accept, so that a lasting one does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// The node that its certificate names; none when it showed none.
    pub(crate) node: Option<NodeId>,
}

/// A connection from another node, or from one that wants to become one.
pub(crate) struct PeerStream {
    stream: TlsStream<Gathered>,
    caller: Caller,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _room: OwnedSemaphorePermit,
}

/// The connections of each node, to be cut when it is removed.
#[derive(Clone, Default)]
struct Cuts {
    nodes: Arc<Mutex<HashMap<NodeId, CancellationToken>>>,
}

impl Cuts {
    fn of(&self, node: NodeId) -> CancellationToken {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.entry(node).or_default().clone()
    }

    /// Cuts the connections of all nodes that are no longer members.
    fn cut(&self, is_member: impl Fn(NodeId) -> bool) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|node, token| {
            let stays = is_member(*node);
            if !stays {
                token.cancel();
            }
            stays
        });
    }
}

/// Takes connections until cancelled.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Arc<Tls>,
    decided: Decided,
    strangers: Arc<Strangers>,
    farewell: Farewell,
    stop: CancellationToken,
) -> ReceiverStream<PeerStream> {
    let (taken, stream) = mpsc::channel(QUEUE);
    let cuts = Cuts::default();
    tokio::spawn(keep_cutting(cuts.clone(), decided, farewell, stop.clone()));
    let door =
        Door { tls, strangers, cuts, taken, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => door.clone().open(stream, from),
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    });
    ReceiverStream::new(stream)
}

/// Cuts the connections of a node a moment after this one knows that it was removed.
async fn keep_cutting(cuts: Cuts, decided: Decided, farewell: Farewell, stop: CancellationToken) {
    let mut changes = decided.changes();
    let mut before = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        let state = decided.state();
        farewell.observe(&before, &state);
        before = state.nodes.keys().copied().collect();
        cuts.cut(|node| is_member(&state, node) || farewell.lasts(node));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

#[derive(Clone)]
struct Door {
    tls: Arc<Tls>,
    strangers: Arc<Strangers>,
    cuts: Cuts,
    taken: mpsc::Sender<PeerStream>,
    room: Arc<Semaphore>,
}

impl Door {
    fn open(self, stream: TcpStream, from: SocketAddr) {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            self.strangers.turned(Turned::TooMany);
            return;
        };
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake(stream)).await;
            match shaken {
                Ok(Ok((stream, caller, cut))) => {
                    let cut = Box::pin(cut.cancelled_owned());
                    let stream = PeerStream { stream, caller, cut, _room: room };
                    // Nobody waits for it any more when the server stops.
                    let _ = self.taken.send(stream).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%from, %error, "a handshake at the peer port failed");
                    self.strangers.turned(Turned::Handshake);
                }
                Err(_) => self.strangers.turned(Turned::Handshake),
            }
        });
    }

    async fn shake(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<Gathered>, Caller, CancellationToken)> {
        stream.set_nodelay(true)?;
        let acceptor = TlsAcceptor::from(self.tls.peer_server());
        let stream = acceptor.accept(Gathered::with_room(stream, ROUND_BYTES)).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let Some(shown) = shown else {
            let caller = Caller { node: None };
            return Ok((stream, caller, CancellationToken::new()));
        };
        // The handshake has verified that an authority of this cluster signed it.
        let leaf = Leaf::read(shown).map_err(io::Error::other)?;
        if leaf.cluster != *self.tls.cluster() {
            return Err(io::Error::other("the certificate is of another cluster"));
        }
        let caller = Caller { node: Some(leaf.node) };
        Ok((stream, caller, self.cuts.of(leaf.node)))
    }
}

impl PeerStream {
    /// Who is at the other end.
    pub(super) fn caller(&self) -> Caller {
        self.caller
    }

    /// What moves it to another scheduler.
    pub(super) fn mover(&self) -> Mover {
        self.stream.get_ref().0.mover()
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
