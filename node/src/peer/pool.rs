//! Connections to other nodes: one per lane, made when first used, made anew when broken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nigh_model::{Node, NodeId, Region};
use nigh_runtime::Gathered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::at_once::AtOnce;
use super::delay::Delayed;
use super::dial::Way;
use super::health::Health;
use super::link::Link;
use crate::count::Count;
use crate::decided::Decided;
use crate::identity::{Tls, server_name};

/// A connection that is not there by then will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An idle connection is asked for a sign of life this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// … and given up when none has come by then.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes on the way in one HTTP/2 stream and connection: long ways need wide windows.
pub(super) const WINDOW_BYTES: u32 = 4 << 20;

/// Bytes of calls and answers of one connection that are handed to the kernel at once.
pub(super) const ROUND_BYTES: usize = 32 << 10;

/// The bytes of a connection.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bytes for S {}
type Stream = Box<dyn Bytes>;

/// What a connection is for: nothing waits behind what is less urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Raft heartbeats and votes.
    Heartbeat,
    /// Raft log entries.
    Append,
    /// Raft snapshots, state streams, artifacts.
    Bulk,
    /// Forwarded calls.
    Invoke,
    /// Everything small: proposals, pings, gossip that fits no datagram, logs.
    Control,
}

/// The connections of a node and what it knows of the health of its peers.
#[derive(Clone)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

/// What a connection is kept by. One for calls is there once for each thread of guests: what is called on a
/// thread is awaited there.
type Key = (NodeId, Lane, Option<usize>);

/// A connection, and where it leads.
struct Kept {
    way: Arc<Way>,
    channel: Channel,
    /// By what was known of the node: as long as that is the same, so is the way.
    by: Option<(Arc<Node>, u64)>,
}

struct Inner {
    decided: Decided,
    link: Link,
    /// None only in tests of what goes through the connections.
    tls: Option<Arc<Tls>>,
    channels: Mutex<HashMap<Key, Kept>>,
    ways: Mutex<HashMap<NodeId, Arc<Way>>>,
    health: Mutex<HashMap<NodeId, Arc<Health>>>,
    /// Addresses at which nodes have said who they are; they may be newer than the registry's.
    met: Mutex<HashMap<NodeId, Met>>,
    /// How often `met` has changed.
    meetings: AtomicU64,
    ejections: Count,
}

/// What there is to say of all peers together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Connections that are kept, one for each lane in use.
    pub(crate) channels: usize,
    /// Peers that get no calls now.
    pub(crate) ejected: usize,
    /// How often one was taken out.
    pub(crate) ejections: u64,
    /// Mean round trips to those that answer, shortest first.
    pub(crate) rtts: Vec<Duration>,
}

/// Where a node was met, and what the registry said of it then.
#[derive(Clone, PartialEq, Eq)]
struct Met {
    address: String,
    registered: String,
}

impl Peers {
    /// No connection yet.
    pub(crate) fn new(decided: Decided, link: Link, tls: Arc<Tls>) -> Self {
        Self::with(decided, link, Some(tls))
    }

    /// Connections without TLS, for tests of what goes through them.
    #[cfg(test)]
    pub(crate) fn plain(decided: Decided, link: Link) -> Self {
        Self::with(decided, link, None)
    }

    fn with(decided: Decided, link: Link, tls: Option<Arc<Tls>>) -> Self {
        let inner = Inner {
            decided,
            link,
            tls,
            channels: Mutex::new(HashMap::new()),
            ways: Mutex::new(HashMap::new()),
            health: Mutex::new(HashMap::new()),
            met: Mutex::new(HashMap::new()),
            meetings: AtomicU64::new(0),
            ejections: Count::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The connection of this lane to a node; none when no such node is registered.
    pub(crate) fn channel(&self, to: NodeId, lane: Lane) -> Option<Channel> {
        self.channel_of(to, lane, None)
    }

    /// The connection for calls that come to this thread of guests, to be asked for there: it is served by
    /// the thread's own scheduler.
    pub(crate) fn channel_of_thread(&self, to: NodeId, thread: Option<usize>) -> Option<Channel> {
        self.channel_of(to, Lane::Invoke, thread)
    }

    fn channel_of(&self, to: NodeId, lane: Lane, thread: Option<usize>) -> Option<Channel> {
        let decision = self.inner.decided.now();
        let node = decision.state.nodes.get(&to)?;
        let (key, meetings) = ((to, lane, thread), self.inner.meetings.load(Relaxed));
        if let Some(Kept { channel, by: Some((known, then)), .. }) = self.channels().get(&key)
            && Arc::ptr_eq(known, node)
            && *then == meetings
        {
            return Some(channel.clone());
        }
        let mut addresses = node.addresses.peers();
        let met = self.inner.met.lock().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
        // What the registry has learnt since is newer.
        if let Some(met) = met.filter(|met| met.registered == node.addresses.peer) {
            addresses.retain(|address| *address != met.address);
            addresses.insert(0, met.address);
        }
        let by = Some((Arc::clone(node), meetings));
        Some(self.pooled(key, addresses, Some(&node.region), by))
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host by which a node was reached last, of those that the registry has of it; none
    /// where that is the main one, or not known.
    pub(crate) fn detour(&self, to: NodeId) -> Option<String> {
        let way =
            self.inner.ways.lock().unwrap_or_else(PoisonError::into_inner).get(&to).cloned()?;
        let address = way.addresses().get(way.first())?;
        let decision = self.inner.decided.now();
        let also = &decision.state.nodes.get(&to)?.addresses.also;
        let (host, _) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        also.iter().find(|known| known.trim_matches(['[', ']']) == host).cloned()
    }

    /// A node has said who it is at this address: it is used until the registry names it too.
    pub(crate) fn met(&self, id: NodeId, address: &str) {
        let mut met = self.inner.met.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.inner.decided.state();
        let Some(node) = state.nodes.get(&id) else { return };
        let registered = node.addresses.peer.clone();
        let now = Met { address: address.to_owned(), registered };
        let before = match now.registered == now.address {
            true => met.remove(&id),
            false => met.insert(id, now.clone()),
        };
        let is_known = before.map_or(now.registered == now.address, |before| before == now);
        if !is_known {
            self.inner.meetings.fetch_add(1, Relaxed);
        }
    }

    /// The same where the registry may not know the node yet: its address is given.
    pub(crate) fn channel_at(
        &self,
        to: NodeId,
        lane: Lane,
        address: &str,
        region: Option<&Region>,
    ) -> Channel {
        let given = || self.pooled((to, lane, None), vec![address.to_owned()], region, None);
        self.channel(to, lane).unwrap_or_else(given)
    }

    fn pooled(
        &self,
        key: Key,
        addresses: Vec<String>,
        region: Option<&Region>,
        by: Option<(Arc<Node>, u64)>,
    ) -> Channel {
        let to = key.0;
        let way = self.way(to, addresses);
        let mut channels = self.channels();
        let channel = match channels.get(&key) {
            Some(known) if Arc::ptr_eq(&known.way, &way) => known.channel.clone(),
            _ => self.connect_by(Some(to), way.clone(), region),
        };
        channels.insert(key, Kept { way, channel: channel.clone(), by });
        channel
    }

    /// What all lanes to a node share; made anew when its addresses are others.
    fn way(&self, to: NodeId, addresses: Vec<String>) -> Arc<Way> {
        let mut ways = self.inner.ways.lock().unwrap_or_else(PoisonError::into_inner);
        match ways.get(&to) {
            Some(known) if *known.addresses() == *addresses => known.clone(),
            _ => {
                let way = Arc::new(Way::new(addresses));
                ways.insert(to, way.clone());
                way
            }
        }
    }

    /// A connection that is not kept: to whichever node of the cluster is there.
    pub(crate) fn connect(&self, address: &str, region: Option<&Region>) -> Channel {
        self.connect_by(None, Arc::new(Way::new(vec![address.to_owned()])), region)
    }

    /// A connection to the node that is meant, or to any node of the cluster.
    fn connect_by(&self, to: Option<NodeId>, way: Arc<Way>, region: Option<&Region>) -> Channel {
        let address = way.addresses().first().map_or("", String::as_str);
        let delay = region.map_or(Duration::ZERO, |region| self.inner.link.one_way(region));
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid:1"))
            // TCP and TLS take a round trip each.
            .connect_timeout(CONNECT_TIMEOUT + 4 * delay)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let tls = self.inner.tls.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (way, tls) = (way.clone(), tls.clone());
            async move {
                let dialed = way.dial().await?;
                dialed.stream.set_nodelay(true)?;
                // A handshake takes a round trip as well.
                tokio::time::sleep(2 * delay).await;
                let stream = Gathered::with_room(dialed.stream, ROUND_BYTES);
                let stream: Stream = match delay.is_zero() {
                    true => Box::new(stream),
                    false => Box::new(Delayed::new(stream, delay)),
                };
                let Some(tls) = tls else {
                    way.worked(dialed.at);
                    return Ok::<_, std::io::Error>(TokioIo::new(AtOnce(stream)));
                };
                let name = server_name(to, tls.cluster());
                let connector = TlsConnector::from(tls.peer_client());
                match connector.connect(name, stream).await {
                    Ok(stream) => {
                        way.worked(dialed.at);
                        Ok(TokioIo::new(AtOnce(Box::new(stream) as Stream)))
                    }
                    Err(error) => {
                        // Another node may stand there, in another network.
                        way.failed(dialed.at);
                        Err(error)
                    }
                }
            }
        }))
    }

    /// What is known of a peer's health.
    pub(crate) fn health(&self, of: NodeId) -> Arc<Health> {
        let mut health = self.inner.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.entry(of).or_default().clone()
    }

    /// A connection to the peer failed: it gets no calls until it answers a ping.
    pub(crate) fn failed(&self, to: NodeId) {
        if self.health(to).eject() {
            self.inner.ejections.add();
            tracing::info!(peer = %to, "peer taken out: its connection failed");
        }
    }

    /// Whether calls should go elsewhere.
    pub(crate) fn is_ejected(&self, to: NodeId) -> bool {
        self.health(to).is_ejected()
    }

    /// The measured round trip in ms.
    pub(crate) fn rtt_ms(&self, to: NodeId) -> Option<f64> {
        Some(self.health(to).rtt()?.as_secs_f64() * 1_000.0)
    }

    /// All peers together.
    pub(crate) fn figures(&self) -> Figures {
        let health = self.inner.health.lock().unwrap_or_else(PoisonError::into_inner);
        let answering = health.values().filter(|health| !health.is_ejected());
        let mut rtts: Vec<Duration> = answering.filter_map(|health| health.rtt()).collect();
        rtts.sort_unstable();
        let ejected = health.values().filter(|health| health.is_ejected()).count();
        drop(health);
        let channels = self.channels().len();
        Figures { channels, ejected, ejections: self.inner.ejections.get(), rtts }
    }

    /// Forgets connections and health of nodes that are no longer registered.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        self.channels().retain(|(id, ..), _| keep(*id));
        self.inner.ways.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| keep(*id));
        self.inner.health.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| keep(*id));
        self.inner.met.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| keep(*id));
    }
}
