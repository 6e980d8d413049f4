//! What gossip is told at its start, and how it times itself.

use std::net::SocketAddr;
use std::time::Duration;

use chitchat::FailureDetectorConfig;
use nigh_model::{ClusterId, NodeId, NodeName, Region, Zone};

use super::keystore::Keys;
use crate::decided::Decided;
use crate::peer::{Link, Peers};
use crate::seen::Seen;

/// Heartbeat intervals that the failure detector remembers of each node. chitchat adds five
/// intervals of the initial length to them, so that with this many a node is given up after
/// 0.7 s at the earliest (phi · 5 · initial / (50 + 5)) and, with the 120 ms that heartbeats of
/// five nodes are apart, after 1.6 s. With chitchat's default of 1,000 that would sink within
/// minutes, and any stall of a busy machine would look like a death.
const SAMPLING_WINDOW: usize = 50;
/// A dead node is forgotten after this; the registry keeps its address. Each restart of a node
/// leaves one dead incarnation behind, and each takes room in every message until then.
const DEAD_NODE_GRACE: Duration = Duration::from_secs(120);

/// How often nodes gossip and when one is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GossipTiming {
    /// Between two rounds of gossip.
    pub(crate) interval: Duration,
    /// A node silent for this many mean heartbeat intervals is given up.
    pub(crate) phi: f64,
    /// The heartbeat interval assumed of a node that is new.
    pub(crate) initial: Duration,
    /// A longer heartbeat interval is an interruption and not counted in the mean.
    pub(crate) max: Duration,
}

impl Default for GossipTiming {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(200),
            phi: 8.0,
            initial: Duration::from_secs(1),
            max: Duration::from_secs(3),
        }
    }
}

impl GossipTiming {
    /// chitchat's words for it.
    pub(super) fn failure_detector(&self) -> FailureDetectorConfig {
        FailureDetectorConfig {
            phi_threshold: self.phi,
            sampling_window_size: SAMPLING_WINDOW,
            max_interval: self.max,
            initial_interval: self.initial,
            dead_node_grace_period: DEAD_NODE_GRACE,
        }
    }
}

/// What gossip is told at its start.
pub(crate) struct GossipConfig {
    /// This node.
    pub(crate) own: NodeId,
    /// Its name, for the log.
    pub(crate) name: NodeName,
    /// Its region.
    pub(crate) region: Region,
    /// Its zone.
    pub(crate) zone: Option<Zone>,
    /// Its cluster: datagrams of any other are dropped.
    pub(crate) cluster: ClusterId,
    /// What seals them.
    pub(crate) keys: Keys,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// The socket, if it listens already, so that a taken port is found before anything starts.
    pub(crate) socket: Option<tokio::net::UdpSocket>,
    /// Where others reach it.
    pub(crate) advertise: SocketAddr,
    /// The same as it was given, `host:port`: a name may come to mean another address.
    pub(crate) advertised: String,
    /// Larger at every start of the node (the time in ms), so that a restart is seen as one.
    pub(crate) generation: u64,
    /// Gossip addresses, each `host:port`, to ask while no other node is known.
    pub(crate) seeds: Vec<String>,
    /// Emulated delays.
    pub(crate) link: Link,
    /// Connections, for what fits no datagram.
    pub(crate) peers: Peers,
    /// Who is registered, where.
    pub(crate) decided: Decided,
    /// Where the view is published.
    pub(crate) seen: Seen,
    /// How often, how long.
    pub(crate) timing: GossipTiming,
}
