//! What a node is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nigh_model::{Location, NodeName, Region, Zone};
use nigh_placement::RttMatrix;

/// Everything that a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, unique among the nodes of its cluster.
    pub name: NodeName,
    /// Its region.
    pub region: Region,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Where it stands.
    pub location: Option<Location>,
    /// Its data folder.
    pub data: PathBuf,
    /// Where it listens for HTTP calls.
    pub http: SocketAddr,
    /// Where it listens for the gRPC API.
    pub api: SocketAddr,
    /// Where it listens for other nodes.
    pub peer: SocketAddr,
    /// Where it listens for gossip datagrams.
    pub gossip: SocketAddr,
    /// The host by which others reach it; none: the IP address that it listens on.
    pub advertise: Option<String>,
    /// How it comes to its cluster.
    pub start: Start,
    /// Round trips between regions to be emulated in the peer and gossip transports.
    pub rtt: Option<Arc<RttMatrix>>,
    /// Guest instances running at once.
    pub slots: u32,
    /// Threads that run guests.
    pub guest_threads: usize,
    /// Compilations at once.
    pub compile_threads: usize,
}

/// How a node comes to its cluster. On a data folder that belongs to one already, all of them
/// only help to find the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Begin a new cluster.
    Bootstrap,
    /// Join the cluster of these peer addresses, each `host:port`.
    Join(Vec<String>),
    /// Come back to the cluster that the data folder belongs to.
    Resume,
}

impl Config {
    /// An address as others reach it: the advertised host with the port listened on.
    pub(crate) fn advertised(&self, listen: SocketAddr) -> String {
        match &self.advertise {
            Some(host) if host.contains(':') && !host.starts_with('[') => {
                format!("[{host}]:{}", listen.port())
            }
            Some(host) => format!("{host}:{}", listen.port()),
            None => listen.to_string(),
        }
    }
}
