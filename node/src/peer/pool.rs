//! Connections to other nodes: one per lane, made when first used, made anew when broken.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nigh_model::{Node, NodeId, Region};
use tonic::transport::{Channel, Endpoint};

use super::connect::Connector;
use super::dial::Way;
use super::health::Health;
use super::line::Line;
use super::link::Link;
use crate::count::Count;
use crate::decided::Decided;
use crate::identity::Tls;

/// An idle connection is asked for a sign of life this often …
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// … and given up when none has come by then.
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes on the way in one HTTP/2 stream and connection: long ways need wide windows.
pub(super) const WINDOW_BYTES: u32 = 4 << 20;

/// What a connection is for: nothing waits behind what is less urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Raft heartbeats and votes.
    Heartbeat,
    /// Raft log entries.
    Append,
    /// Raft snapshots, state streams, artifacts.
    Bulk,
    /// Everything small: proposals, pings, gossip that fits no datagram, logs.
    Control,
}

/// The connections of a node and what it knows of the health of its peers.
#[derive(Clone)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

/// Connections that are kept, by what they are for. One for calls is there once for each thread of guests: what is
/// called on a thread is awaited there.
type Pool<K, C> = Mutex<HashMap<(NodeId, K), Kept<C>>>;

/// A connection, and where it leads.
struct Kept<C> {
    way: Arc<Way>,
    connection: C,
    by: Option<Known>,
}

/// What was known of a node: as long as that is the same, so is the way to it.
struct Known {
    node: Arc<Node>,
    meetings: u64,
}

struct Inner {
    decided: Decided,
    link: Link,
    /// None only in tests of what goes through the connections.
    tls: Option<Arc<Tls>>,
    channels: Pool<Lane, Channel>,
    /// For calls.
    lines: Pool<Option<usize>, Line>,
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
    /// Connections that are kept, one for each lane in use and for the calls of each thread of guests.
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
            lines: Mutex::new(HashMap::new()),
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
        self.known(&self.inner.channels, (to, lane), |connector| connector.channel())
    }

    /// The connection for calls that come to this thread of guests, to be asked for there: it is served by
    /// the thread's own scheduler.
    pub(crate) fn line(&self, to: NodeId, thread: Option<usize>) -> Option<Line> {
        self.known(&self.inner.lines, (to, thread), Line::new)
    }

    /// A connection to a registered node: the one that is kept, unless the way is another by now.
    fn known<K: Copy + Eq + Hash, C: Clone>(
        &self,
        pool: &Pool<K, C>,
        key: (NodeId, K),
        make: impl FnOnce(Connector) -> C,
    ) -> Option<C> {
        let decision = self.inner.decided.now();
        let node = decision.state.nodes.get(&key.0)?;
        let meetings = self.inner.meetings.load(Relaxed);
        if let Some(Kept { connection, by: Some(by), .. }) = locked(pool).get(&key)
            && Arc::ptr_eq(&by.node, node)
            && by.meetings == meetings
        {
            return Some(connection.clone());
        }
        let mut addresses = node.addresses.peers();
        let met = locked(&self.inner.met).get(&key.0).cloned();
        // What the registry has learnt since is newer.
        if let Some(met) = met.filter(|met| met.registered == node.addresses.peer) {
            addresses.retain(|address| *address != met.address);
            addresses.insert(0, met.address);
        }
        let connector = self.connector(key.0, addresses, Some(&node.region));
        let by = Some(Known { node: Arc::clone(node), meetings });
        Some(kept(pool, key, connector, by, make))
    }

    /// The host by which a node was reached last, of those that the registry has of it; none
    /// where that is the main one, or not known.
    pub(crate) fn detour(&self, to: NodeId) -> Option<String> {
        let way = locked(&self.inner.ways).get(&to).cloned()?;
        let address = way.addresses().get(way.first())?;
        let decision = self.inner.decided.now();
        let also = &decision.state.nodes.get(&to)?.addresses.also;
        let (host, _) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        also.iter().find(|known| known.trim_matches(['[', ']']) == host).cloned()
    }

    /// A node has said who it is at this address: it is used until the registry names it too.
    pub(crate) fn met(&self, id: NodeId, address: &str) {
        let mut met = locked(&self.inner.met);
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
        let given = || {
            let connector = self.connector(to, vec![address.to_owned()], region);
            kept(&self.inner.channels, (to, lane), connector, None, |made| made.channel())
        };
        self.channel(to, lane).unwrap_or_else(given)
    }

    /// A connection that is not kept: to whichever node of the cluster is there.
    pub(crate) fn connect(&self, address: &str, region: Option<&Region>) -> Channel {
        self.by_way(None, Arc::new(Way::new(vec![address.to_owned()])), region).channel()
    }

    /// What connects to a node by a way that all its connections share; made anew when its addresses are others.
    fn connector(&self, to: NodeId, addresses: Vec<String>, region: Option<&Region>) -> Connector {
        let mut ways = locked(&self.inner.ways);
        let way = match ways.get(&to) {
            Some(known) if *known.addresses() == *addresses => known.clone(),
            _ => {
                let way = Arc::new(Way::new(addresses));
                ways.insert(to, way.clone());
                way
            }
        };
        drop(ways);
        self.by_way(Some(to), way, region)
    }

    fn by_way(&self, to: Option<NodeId>, way: Arc<Way>, region: Option<&Region>) -> Connector {
        let delay = region.map_or(Duration::ZERO, |region| self.inner.link.one_way(region));
        Connector { to, way, tls: self.inner.tls.clone(), delay }
    }

    /// What is known of a peer's health.
    pub(crate) fn health(&self, of: NodeId) -> Arc<Health> {
        let mut health = locked(&self.inner.health);
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
        let health = locked(&self.inner.health);
        let answering = health.values().filter(|health| !health.is_ejected());
        let mut rtts: Vec<Duration> = answering.filter_map(|health| health.rtt()).collect();
        rtts.sort_unstable();
        let ejected = health.values().filter(|health| health.is_ejected()).count();
        drop(health);
        let channels = locked(&self.inner.channels).len() + locked(&self.inner.lines).len();
        Figures { channels, ejected, ejections: self.inner.ejections.get(), rtts }
    }

    /// Forgets connections and health of nodes that are no longer registered.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        locked(&self.inner.channels).retain(|(id, _), _| keep(*id));
        locked(&self.inner.lines).retain(|(id, _), _| keep(*id));
        locked(&self.inner.ways).retain(|id, _| keep(*id));
        locked(&self.inner.health).retain(|id, _| keep(*id));
        locked(&self.inner.met).retain(|id, _| keep(*id));
    }
}

/// The connection that is kept by this way, or else a new one.
fn kept<K: Eq + Hash, C: Clone>(
    pool: &Pool<K, C>,
    key: (NodeId, K),
    connector: Connector,
    by: Option<Known>,
    make: impl FnOnce(Connector) -> C,
) -> C {
    let mut pool = locked(pool);
    let way = Arc::clone(&connector.way);
    let connection = match pool.get(&key) {
        Some(known) if Arc::ptr_eq(&known.way, &way) => known.connection.clone(),
        _ => make(connector),
    };
    pool.insert(key, Kept { way, connection: connection.clone(), by });
    connection
}

impl Connector {
    /// A connection for all but calls.
    fn channel(self) -> Channel {
        let address = self.way.addresses().first().map_or("", String::as_str);
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid:1"))
            .connect_timeout(self.time_limit())
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let connector = self.clone();
            async move { connector.connect().await.map(TokioIo::new) }
        }))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
