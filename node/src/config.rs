//! What a node is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::access::JoinToken;
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
    /// How it serves calls over HTTPS; none: not at all.
    pub https: Option<Https>,
    /// Where it listens for the gRPC API.
    pub api: SocketAddr,
    /// Where it listens for other nodes.
    pub peer: SocketAddr,
    /// Where it listens for gossip datagrams.
    pub gossip: SocketAddr,
    /// Where it listens, on loopback, for those who read what it counts; none: on the API alone.
    pub metrics: Option<SocketAddr>,
    /// The hosts by which others reach it, one per network it is in, the main one first; none:
    /// the IP address that it listens on.
    pub advertise: Vec<String>,
    /// How it comes to its cluster.
    pub start: Start,
    /// What it shows to be admitted; not needed on data that belongs to a cluster.
    pub join_token: Option<TokenSource>,
    /// Where the node that begins a cluster writes a token by which others may join, any number
    /// of them, for as long as it is not revoked.
    pub write_join_token: Option<PathBuf>,
    /// What the authority's key is sealed with on this node's disk: a file of at least 32
    /// random bytes outside the data folder. None: a key beside it.
    pub identity_key: Option<PathBuf>,
    /// How long the certificates live that this node signs.
    pub certificate_life: Duration,
    /// Round trips between regions to be emulated in the peer and gossip transports.
    pub rtt: Option<Arc<RttMatrix>>,
    /// A node that is dead for this long loses its assignments and its vote, while this node
    /// leads.
    pub replace_after: Duration,
    /// Guest instances running at once.
    pub slots: u32,
    /// Threads that run guests.
    pub guest_threads: usize,
    /// Compilations at once.
    pub compile_threads: usize,
    /// What loaded functions may take of its memory, in bytes.
    pub loaded_bytes_max: u64,
}

/// How calls over HTTPS are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Https {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder of certificates with their keys.
    pub certificates: PathBuf,
    /// Whether the node puts one there that it signs itself.
    pub self_made: bool,
    /// The port that calls over plain HTTP are redirected to; none: they are answered.
    pub redirect: Option<u16>,
}

/// Where a node has its join token from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// It was given.
    Given(JoinToken),
    /// It is in this file, or will be.
    File(PathBuf),
}

impl TokenSource {
    /// The token.
    ///
    /// # Errors
    /// There is no such file yet, or it holds no token.
    pub(crate) fn read(&self) -> Result<JoinToken, TokenError> {
        let path = match self {
            Self::Given(token) => return Ok(token.clone()),
            Self::File(path) => path,
        };
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => TokenError::Missing(path.clone()),
            _ => TokenError::Bad { path: path.clone(), why: source.to_string() },
        })?;
        text.parse().map_err(|error: nigh_model::access::BadToken| TokenError::Bad {
            path: path.clone(),
            why: error.to_string(),
        })
    }
}

/// Why there is no join token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// It may still be written.
    #[error("there is no join token in {} yet", .0.display())]
    Missing(PathBuf),
    /// It is none.
    #[error("{}: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
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

/// Memory for loaded functions, in bytes, unless told otherwise: some 2,000 small ones, which leaves
/// a node that is to fit into 400 MiB room for all else. What it lets go is loaded in 0.1 to 0.3 ms.
pub const LOADED_BYTES_MAX: u64 = 256 << 20;

/// How long certificates of nodes live, unless told otherwise.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

impl Config {
    /// An address as others reach it: the first advertised host with the port listened on.
    pub(crate) fn advertised(&self, listen: SocketAddr) -> String {
        match self.advertise.first() {
            Some(host) => nigh_model::state::join(host, listen.port()),
            None => listen.to_string(),
        }
    }

    /// All four addresses as others reach them, in every network.
    pub(crate) fn addresses(&self) -> nigh_model::Addresses {
        nigh_model::Addresses {
            http: self.advertised(self.http),
            api: self.advertised(self.api),
            peer: self.advertised(self.peer),
            gossip: self.advertised(self.gossip),
            also: self.advertise.iter().skip(1).cloned().collect(),
        }
    }
}
