//! What other parts of the node hold of gossip, and its door to other nodes.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use nigh_proto::peer::v1::{Delivered, Message, gossip_server};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use super::config::GossipConfig;
use super::counters::Counters;
use super::keeper;
use super::transport::Inbox;
use crate::error::Error;
use crate::seen::Report;

/// Largest message taken from a peer connection: the digests of more than 10,000 nodes.
const DELIVERED_BYTES_MAX: usize = 1 << 20;

/// A node's gossip. Dropped, it stops at once and the others find out by its silence.
pub(crate) struct Gossip {
    publisher: Publisher,
    service: GossipService,
    leave: CancellationToken,
    keeper: JoinHandle<()>,
    _stop: DropGuard,
}

/// Tells gossip what this node says of itself.
#[derive(Clone)]
pub(crate) struct Publisher {
    report: Arc<watch::Sender<Report>>,
}

/// The peer service of gossip.
#[derive(Clone)]
pub(crate) struct GossipService {
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
}

impl Gossip {
    /// Starts to gossip.
    ///
    /// # Errors
    /// When it cannot listen.
    pub(crate) async fn start(mut config: GossipConfig) -> Result<Self, Error> {
        let socket = match config.socket.take() {
            Some(socket) => socket,
            None => listen(config.listen).await?,
        };
        let (report, reports) = watch::channel(Report::default());
        let service = GossipService { inbox: Arc::default(), counters: Arc::default() };
        let (leave, stop) = (CancellationToken::new(), CancellationToken::new());
        let parts = keeper::Parts {
            socket: Arc::new(socket),
            reports,
            inbox: service.inbox.clone(),
            counters: service.counters.clone(),
            leave: leave.clone(),
            stop: stop.clone(),
        };
        let keeper = keeper::start(config, parts).await?;
        let publisher = Publisher { report: Arc::new(report) };
        Ok(Self { publisher, service, leave, keeper, _stop: stop.drop_guard() })
    }

    /// A handle by which the node says what there is to say of it.
    pub(crate) fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// The service that other nodes call.
    pub(crate) fn service(&self) -> GossipService {
        self.service.clone()
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.service.counters.clone()
    }

    /// Says goodbye, so that nobody has to find out by silence, and stops. The address is
    /// free afterwards.
    pub(crate) async fn shutdown(self) {
        self.leave.cancel();
        // It ends by itself; a panic inside was logged where it happened.
        let _ = self.keeper.await;
    }
}

impl Publisher {
    /// Says this of the node from now on; only what has changed travels.
    pub(crate) fn publish(&self, report: &Report) {
        self.report.send_if_modified(|known| {
            let changed = *known != *report;
            if changed {
                known.clone_from(report);
            }
            changed
        });
    }
}

impl GossipService {
    /// Takes in a message as if it had come as a datagram; false when too many wait.
    pub(super) fn take(&self, from: SocketAddr, message: Bytes) -> bool {
        let taken = self.inbox.put(from, message);
        if !taken {
            self.counters.inbox_full.add();
        }
        taken
    }
}

#[tonic::async_trait]
impl gossip_server::Gossip for GossipService {
    async fn deliver(&self, request: Request<Message>) -> Result<Response<Delivered>, Status> {
        let Message { from, data } = request.into_inner();
        let from = from
            .parse()
            .map_err(|_| Status::invalid_argument("from is not an address and port"))?;
        if data.len() > DELIVERED_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "the message is larger than {DELIVERED_BYTES_MAX} bytes"
            )));
        }
        if !self.take(from, data) {
            return Err(Status::resource_exhausted("too many gossip messages wait"));
        }
        Ok(Response::new(Delivered {}))
    }
}

async fn listen(on: SocketAddr) -> Result<UdpSocket, Error> {
    UdpSocket::bind(on).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            Error::AddressInUse { what: "gossip", address: on.to_string() }
        }
        _ => Error::Listen { what: "gossip", address: on.to_string(), source },
    })
}
