//! What this node must do to match the decision.
//!
//! `wants` and `diff` decide and are pure; `run` carries it out; `stock` is what is on disk,
//! `shelf` what can be called, `cache` what of it is loaded. `intake` takes uploads, `fetch`, `service`, `replicate`, `hand_on` and
//! `leave` move components between nodes. `make` brings compiled artifacts: `kin` says who compiles
//! and is pure, `copy`, `hand_over` and `attested` move them.

mod attested;
mod cache;
mod copy;
mod counters;
mod demanded;
mod diff;
mod error;
mod fetch;
mod flight;
mod hand_on;
mod hand_over;
mod incoming;
mod intake;
mod kin;
mod leave;
mod make;
mod replicate;
mod retry;
mod run;
mod service;
mod shelf;
mod stock;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wants;

use std::sync::Arc;

use nigh_model::{NodeId, Region};
use nigh_runtime::{Behind, Engine};
use nigh_storage::ArtifactStore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use diff::Settled;
pub(crate) use error::Error;
pub(crate) use fetch::Fetcher;
pub(crate) use intake::Intake;
pub(crate) use leave::keep_copies_elsewhere;
pub(crate) use replicate::Copies;
pub(crate) use service::PeerArtifacts;
pub(crate) use shelf::{Shelf, ShelfError, Taken};
pub(crate) use stock::Stock;

use make::Maker;

use crate::decided::Decided;
use crate::identity::Own;
use crate::peer::Peers;
use crate::seen::Seen;

/// What an agent works with.
pub(crate) struct Setup {
    /// This node.
    pub(crate) own: NodeId,
    /// Where it stands.
    pub(crate) region: Region,
    /// What is decided.
    pub(crate) decided: Decided,
    /// What is seen.
    pub(crate) seen: Seen,
    /// The other nodes.
    pub(crate) peers: Peers,
    /// The disk.
    pub(crate) store: Arc<ArtifactStore>,
    /// The compiler.
    pub(crate) engine: Engine,
    /// Who this node is: it signs what it compiles.
    pub(crate) identity: Own,
    /// Compilations at once.
    pub(crate) compile_threads: usize,
    /// Where it looks around.
    pub(crate) behind: Behind,
}

/// The agent's parts, for those who use them.
#[derive(Clone)]
pub(crate) struct Agent {
    /// What can be called here.
    pub(crate) shelf: Shelf,
    /// What is on disk here.
    pub(crate) stock: Stock,
    /// Takes in what is uploaded.
    pub(crate) intake: Intake,
    /// Brings components here.
    pub(crate) fetcher: Fetcher,
    /// Brings components to others.
    pub(crate) copies: Copies,
    /// Brings compiled artifacts here.
    #[cfg(test)]
    maker: Maker,
    /// Up to where this node has what is assigned to it.
    pub(crate) settled: watch::Receiver<Settled>,
    /// The service for other nodes.
    pub(crate) peer_service: PeerArtifacts,
}

impl Agent {
    /// Looks at what is on disk, and returns the agent and its loop, which runs until it is
    /// cancelled. Blocks for a moment.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(crate) fn new(
        setup: Setup,
        stop: CancellationToken,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), Error> {
        let Setup {
            own,
            region,
            decided,
            seen,
            peers,
            store,
            engine,
            identity,
            compile_threads,
            behind,
        } = setup;
        let stock = Stock::open(store, engine, identity, compile_threads)?;
        let fetcher =
            Fetcher::new(own, stock.clone(), decided.clone(), seen.clone(), peers.clone());
        let maker = Maker::new(own, stock.clone(), decided.clone(), seen.clone(), peers.clone());
        let sources = (fetcher.clone(), maker.clone());
        let shelf =
            Shelf::new(own, region.clone(), decided.clone(), stock.clone(), sources.clone());
        let place = (own, region.clone());
        let copies =
            Copies::new(place, stock.clone(), fetcher.clone(), decided.clone(), seen, peers);
        let intake = Intake::new(stock.clone());
        let peer_service =
            PeerArtifacts::new(stock.clone(), intake.clone(), fetcher.clone(), decided.clone());
        let (settle, settled) = watch::channel(Settled::default());
        let worker =
            run::Worker::new((own, region), decided, shelf.clone(), stock.clone(), sources, settle);
        let agent = Self {
            shelf,
            stock,
            intake,
            fetcher,
            copies,
            #[cfg(test)]
            maker,
            settled,
            peer_service,
        };
        Ok((agent, worker.run(behind, stop)))
    }
}
