//! The sockets of a node, bound before anything else is done: a taken port stops a start
//! before it has changed anything.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, UdpSocket};

use crate::config::Config;
use crate::error::Error;

/// The sockets that a node listens on.
pub(crate) struct Listeners {
    /// HTTP ingress.
    pub(crate) http: TcpListener,
    /// HTTPS ingress, where it is served.
    pub(crate) https: Option<TcpListener>,
    /// gRPC API.
    pub(crate) api: TcpListener,
    /// Other nodes.
    pub(crate) peer: TcpListener,
    /// Gossip datagrams.
    pub(crate) gossip: UdpSocket,
    /// What is counted, where it has a listener of its own.
    pub(crate) metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds all.
    ///
    /// # Errors
    /// The first address that cannot be listened on, by the name of its flag.
    pub(crate) async fn bind(config: &Config) -> Result<Self, Error> {
        let gossip = UdpSocket::bind(config.gossip).await;
        Ok(Self {
            http: tcp("http", config.http).await?,
            https: match &config.https {
                Some(https) => Some(tcp("https", https.listen).await?),
                None => None,
            },
            api: tcp("api", config.api).await?,
            peer: tcp("peer", config.peer).await?,
            gossip: gossip.map_err(|error| not_bound("gossip", config.gossip, error))?,
            metrics: match config.metrics {
                Some(address) => Some(tcp("metrics", address).await?),
                None => None,
            },
        })
    }
}

async fn tcp(what: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| not_bound(what, address, error))
}

fn not_bound(what: &'static str, address: SocketAddr, source: io::Error) -> Error {
    let address = address.to_string();
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::AddressInUse { what, address },
        _ => Error::Listen { what, address, source },
    }
}
