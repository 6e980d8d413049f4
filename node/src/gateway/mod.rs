//! What is asked, now: calls over HTTP and gRPC, run here or on the nearest node that is warm.
//!
//! A call reads the last known decision and view, and never waits for consensus. Both entries,
//! `http` and `invoker`, make an `Ask` of what they get, and share the one way of `call`:
//! route (`find`) → admit (`admit`) → pick (`pick`) → run here (`run`) or forward (`forward`,
//! received by `receive`). `reasons` lists every way in which that can fail.
//!
//! It deliberately does not decide where functions should be, and loads nothing itself.

mod admit;
mod body;
mod call;
mod callers;
mod connection;
mod deadline;
mod expect;
mod find;
mod forward;
mod headers;
mod http;
mod invoker;
mod listen;
mod parked;
mod pick;
mod problem;
mod pulse;
pub(crate) mod reasons;
mod receive;
mod redirect;
mod remote;
mod replay;
mod retry;
mod run;
mod servers;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod timings;
mod tls;
mod trace;

use std::sync::Arc;

use nigh_model::{ClusterId, NodeId, NodeName, Region};
use nigh_runtime::Engine;
use tokio::sync::Semaphore;

pub(crate) use admit::Admission;
pub(crate) use headers::Told;
pub(crate) use invoker::public_invoke_service;
pub(crate) use listen::{CONNECTIONS_MAX, Transport, aside, serve_http};
pub(crate) use parked::keep_giving_back;
pub(crate) use reasons::{Outcome, Reason, reason_names};
pub(crate) use receive::peer_invoke_service;
pub(crate) use servers::Servers;
pub(crate) use socket::Socket;
pub(crate) use timings::Timings;
pub use tls::{BadPair, HttpsError, make_certificate};
pub(crate) use tls::{
    Certificates, Handshakes, LOOK_INTERVAL, Reader, TLS_HANDSHAKE, Unagreed, refuse_plain,
};

use crate::agent::Shelf;
use crate::decided::Decided;
use crate::peer::Peers;
use crate::seen::Seen;
use crate::telemetry::{LogBook, Metrics};

/// What a gateway works with.
pub(crate) struct GatewayParts {
    /// This node.
    pub(crate) own: NodeId,
    /// Its name.
    pub(crate) name: NodeName,
    /// Its region.
    pub(crate) region: Region,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// What is decided.
    pub(crate) decided: Decided,
    /// What is seen.
    pub(crate) seen: Seen,
    /// The other nodes.
    pub(crate) peers: Peers,
    /// What can be called here.
    pub(crate) shelf: Shelf,
    /// What runs it.
    pub(crate) engine: Engine,
    /// What guests print.
    pub(crate) logs: LogBook,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Guest instances running at once.
    pub(crate) slots: u32,
}

/// Takes calls and answers them. A clone is the same gateway.
#[derive(Clone)]
pub(crate) struct Gateway {
    core: Arc<Core>,
}

struct Core {
    own: NodeId,
    name: NodeName,
    region: Region,
    cluster: ClusterId,
    decided: Decided,
    seen: Seen,
    peers: Peers,
    shelf: Shelf,
    engine: Engine,
    logs: LogBook,
    metrics: Metrics,
    slots: u32,
    admission: Arc<Admission>,
    retries: retry::Budget,
    /// Room for connections, whatever is spoken on them.
    connections: Arc<Semaphore>,
    preloads: tls::Preloads,
    fixed: http::Fixed,
}

impl Gateway {
    /// A gateway of this node.
    pub(crate) fn new(parts: GatewayParts) -> Self {
        let GatewayParts {
            own,
            name,
            region,
            cluster,
            decided,
            seen,
            peers,
            shelf,
            engine,
            logs,
            metrics,
            slots,
        } = parts;
        let fixed = http::Fixed::new(&name, &region);
        let admission = Arc::new(Admission::new(engine.threads(), engine.slots()));
        let core = Core {
            own,
            name,
            region,
            cluster,
            decided,
            seen,
            peers,
            shelf,
            engine,
            logs,
            metrics,
            slots,
            admission,
            retries: retry::Budget::default(),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            preloads: tls::Preloads::default(),
            fixed,
        };
        Self { core: Arc::new(core) }
    }

    /// Whether this node is about to leave: calls that enter here run elsewhere where they can.
    fn is_draining(&self) -> bool {
        let view = self.core.seen.now();
        view.nodes.get(&self.core.own).is_some_and(|own| own.report.draining)
    }

    /// The doors of the functions called here.
    pub(crate) fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.core.admission)
    }

    fn core(&self) -> &Core {
        &self.core
    }
}
