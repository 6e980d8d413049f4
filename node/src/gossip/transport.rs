//! How gossip messages travel: as datagrams, or over the peer connection when too large. Sealed
//! both ways: whoever sends, only what a key of the ring opens reaches chitchat.
//!
//! Delay between regions is emulated here for datagrams; the peer connection has its own.
//! Nothing that a stranger sends and nothing that the network does ends the transport.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use bytes::Bytes;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable as _, Serializable as _};
use nigh_proto::peer::v1::Message;
use nigh_proto::peer::v1::gossip_client::GossipClient;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::counters::Counters;
use super::delay::Parcel;
use super::directory::Directory;
use super::envelope::{Envelope, Refused};
use super::keystore::Keys;
use super::sessions::{Content, Heard, Sessions};
use super::ways::Detours;
use crate::clock;
use crate::peer::{Lane, Link, Peers};

/// A larger message might be cut into IP fragments on its way, and one lost fragment loses it
/// all: 1,280 bytes pass everywhere (RFC 8200 § 5), less the headers of IP and UDP.
const DATAGRAM_BYTES_MAX: usize = 1_200;
/// What UDP can carry at all over IPv4.
const UDP_BYTES_MAX: usize = 65_507;
/// Messages on their way over peer connections at once; gossip repeats what is lost.
const OVERFLOWING_MAX: usize = 16;
/// A delivery not answered by then failed.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Delivered messages waiting to be read.
const INBOX_MAX: usize = 64;
/// Wait after a failure to receive, so that a lasting one does not spin.
const RECEIVE_BACKOFF: Duration = Duration::from_millis(20);

/// Where messages that came over peer connections wait to be read.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    open: ArcSwapOption<mpsc::Sender<(SocketAddr, Bytes)>>,
}

impl Inbox {
    /// Puts a message in; false when it is full or nobody reads.
    pub(super) fn put(&self, from: SocketAddr, message: Bytes) -> bool {
        self.open.load().as_ref().is_some_and(|open| open.try_send((from, message)).is_ok())
    }

    fn reopen(&self) -> mpsc::Receiver<(SocketAddr, Bytes)> {
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        self.open.store(Some(Arc::new(sender)));
        receiver
    }
}

/// The transport of one node. Opening it again takes over from the socket opened before.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) udp: Arc<UdpSocket>,
    pub(super) advertise: SocketAddr,
    pub(super) envelope: Envelope,
    pub(super) keys: Keys,
    pub(super) sessions: Arc<Mutex<Sessions>>,
    pub(super) began: Instant,
    pub(super) link: Link,
    pub(super) peers: Peers,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) detours: Detours,
    pub(super) parcels: mpsc::Sender<Parcel>,
    pub(super) overflowing: Arc<Semaphore>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) counters: Arc<Counters>,
}

/// As many as may be on their way over peer connections.
pub(super) fn overflowing() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(OVERFLOWING_MAX))
}

#[async_trait]
impl Transport for Wire {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let delivered = self.inbox.reopen();
        Ok(Box::new(Line { wire: self.clone(), delivered, buffer: vec![0; UDP_BYTES_MAX] }))
    }
}

/// The transport as chitchat holds it.
struct Line {
    wire: Wire,
    delivered: mpsc::Receiver<(SocketAddr, Bytes)>,
    buffer: Vec<u8>,
}

#[async_trait]
impl Socket for Line {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let message = Content::Message(message.serialize_to_vec().into());
        if let Some(sealed) = self.wire.seal(message)
            && (sealed.len() <= DATAGRAM_BYTES_MAX || !self.wire.overflow(to, &sealed))
        {
            self.wire.datagram(to, sealed).await;
        }
        // An error would end the gossip: a lost message is no such thing.
        Ok(())
    }

    /// Nothing is lost when this is dropped while it waits.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (from, heard) = tokio::select! {
                received = self.wire.udp.recv_from(&mut self.buffer) => match received {
                    Ok((length, from)) => (from, self.wire.hear(from, &mut self.buffer[..length])),
                    Err(error) => {
                        tracing::debug!(%error, "a gossip datagram could not be received");
                        tokio::time::sleep(RECEIVE_BACKOFF).await;
                        continue;
                    }
                },
                delivered = self.delivered.recv() => {
                    let Some((from, message)) = delivered else {
                        anyhow::bail!("another socket has taken over");
                    };
                    (from, self.wire.hear(from, &mut Vec::from(message)))
                }
            };
            match heard {
                Heard::Message(from, message) => {
                    if let Some(message) = self.wire.decode(&message) {
                        return Ok((from, message));
                    }
                }
                Heard::Reply(content) => self.wire.reply(from, content).await,
                Heard::Replies(contents) => {
                    for content in contents {
                        self.wire.reply(from, content).await;
                    }
                }
                Heard::Stale => self.wire.counters.stale.add(),
                Heard::Done => {}
            }
        }
    }
}

impl Wire {
    /// Seals something to be sent now; none, and counted, without a key.
    fn seal(&self, content: Content) -> Option<Bytes> {
        let letter = self.sessions().letter(self.now_ms(), content);
        let ring = self.keys.ring();
        let Some(key) = ring.sending() else {
            self.counters.no_key.add();
            return None;
        };
        Some(self.envelope.seal(key, clock::random_bytes(), &letter))
    }

    /// Opens what came in; what does not open is counted.
    fn hear(&self, from: SocketAddr, datagram: &mut [u8]) -> Heard {
        match self.envelope.open(&self.keys.ring(), datagram) {
            Ok(letter) => {
                let now_ms = self.now_ms();
                return self.sessions().hear(now_ms, from, letter, clock::random());
            }
            Err(Refused::Format) => self.counters.not_ours.add(),
            Err(Refused::Key) => self.counters.unknown_key.add(),
            Err(Refused::Seal) => self.counters.forged.add(),
            Err(Refused::Content) => self.counters.undecodable.add(),
        }
        Heard::Done
    }

    /// The decoder checks every length before it reads; should it still panic, the keeper starts
    /// gossip again.
    fn decode(&self, mut message: &[u8]) -> Option<ChitchatMessage> {
        let decoded = ChitchatMessage::deserialize(&mut message).ok();
        match decoded {
            Some(_) => self.counters.received.add(),
            None => self.counters.undecodable.add(),
        }
        decoded
    }

    async fn reply(&self, to: SocketAddr, content: Content) {
        if matches!(content, Content::Question(_)) {
            self.counters.questions.add();
        }
        if let Some(sealed) = self.seal(content) {
            self.datagram(to, sealed).await;
        }
    }

    /// Since gossip began here: no clock is asked for the time of day.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn datagram(&self, to: SocketAddr, datagram: Bytes) {
        if datagram.len() > UDP_BYTES_MAX {
            return self.counters.too_large.add();
        }
        let directory = self.directory.load_full();
        let delay = directory.region(&to).map_or(Duration::ZERO, |to| self.link.one_way(to));
        let detour = directory.node(&to).and_then(|node| self.detours.load().get(&node).copied());
        let to = detour.unwrap_or(to);
        if delay.is_zero() {
            return match self.udp.send_to(&datagram, to).await {
                Ok(_) => self.counters.sent.add(),
                Err(_) => self.counters.send_dropped.add(),
            };
        }
        let parcel = Parcel { at: Instant::now() + delay, to, datagram };
        if self.parcels.try_send(parcel).is_err() {
            self.counters.send_dropped.add();
        }
    }

    /// Sends a message over the peer connection, if one leads there; false when none does.
    fn overflow(&self, to: SocketAddr, message: &Bytes) -> bool {
        let node = self.directory.load().node(&to);
        let channel = node.and_then(|node| self.peers.channel(node, Lane::Control));
        let Some(channel) = channel else { return false };
        let Ok(permit) = self.overflowing.clone().try_acquire_owned() else {
            self.counters.send_dropped.add();
            return true;
        };
        let message = Message { from: self.advertise.to_string(), data: message.clone() };
        self.counters.overflowed.add();
        let counters = self.counters.clone();
        tokio::spawn(async move {
            let mut client = GossipClient::new(channel);
            let answer = tokio::time::timeout(DELIVER_TIMEOUT, client.deliver(message)).await;
            if !matches!(answer, Ok(Ok(_))) {
                counters.overflow_failed.add();
            }
            drop(permit);
        });
        true
    }
}
