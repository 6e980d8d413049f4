//! Brings a compiled artifact here: copied from a node that has it, or compiled on this one, such
//! that of the nodes of one engine only one compiles a component while the others wait for it.
//!
//! Nothing is decided for that. Each node finds out by itself whose turn it is (`kin`), from what
//! is decided and what is seen; where two see different things both may compile, which costs time
//! and nothing else. Every wait has an end, after which a node compiles itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use nigh_model::{Digest, NodeId};
use nigh_proto::peer::v1::Progress;
use tokio::time::{Instant, timeout};

use super::copy::{Copier, NotCopied};
use super::error::Error;
use super::flight::Flights;
use super::kin::{Kin, Turn, has_strangers, kin, nearest, turn};
use super::stock::Stock;
use crate::decided::Decided;
use crate::peer::Peers;
use crate::seen::{Liveness, Seen};

/// A node has heard by then, after its start, of the others that are there.
const ACQUAINT_TIME: Duration = Duration::from_secs(5);
/// A node whose turn it is has begun by then: it has heard of the decision and brought the
/// component, or the next one's turn has come.
const BEGIN_MAX: Duration = Duration::from_secs(20);
/// A node that compiles is done by then, or the next one's turn has come: ten times what a large
/// component takes.
const WORK_MAX: Duration = Duration::from_secs(120);
/// Nodes waited for in turn: when so many do not come to an end, more will not either.
const WAITS_MAX: usize = 3;
/// Looks at who has it, after which this node compiles, whatever it sees.
const ROUNDS_MAX: usize = 16;
/// A node that is waited for answers at least this often: then it is seen that it lives.
const ANSWER_INTERVAL: Duration = Duration::from_secs(5);
/// Nodes asked at the same time how far they are.
const ASKED_AT_ONCE: usize = 16;
/// Nodes that a call tries to copy from before it has the component compiled here.
const TRIES_MAX: usize = 3;

/// Brings compiled artifacts here. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Maker {
    inner: Arc<Inner>,
}

struct Inner {
    own: NodeId,
    stock: Stock,
    decided: Decided,
    seen: Seen,
    peers: Peers,
    copier: Copier,
    making: Flights<Digest, ()>,
    copying: Flights<Digest, bool>,
    /// Transfers from a node, whoever asks for them: a call, or the agent.
    transfers: Flights<(Digest, NodeId), Result<(), NotCopied>>,
}

impl Maker {
    /// Brings them into this stock.
    pub(super) fn new(
        own: NodeId,
        stock: Stock,
        decided: Decided,
        seen: Seen,
        peers: Peers,
    ) -> Self {
        let copier = Copier::new(stock.clone(), decided.clone(), peers.clone());
        let inner = Inner {
            own,
            stock,
            decided,
            seen,
            peers,
            copier,
            making: Flights::default(),
            copying: Flights::default(),
            transfers: Flights::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Brings the compiled artifact of a component that is here; single flight.
    ///
    /// # Errors
    /// It could not be compiled here, where it came to that.
    pub(super) async fn make(&self, digest: Digest) -> Result<(), Error> {
        if self.inner.stock.is_compiled(&digest) {
            return Ok(());
        }
        let maker = self.clone();
        self.inner.making.join(digest, || async move { maker.make_in_turn(digest).await }).await
    }

    /// Copies the compiled artifact of a component from the nearest that say they have it, for a
    /// call that waits; whether it is here now. Single flight.
    pub(super) async fn copy(&self, digest: Digest) -> bool {
        let maker = self.clone();
        let copy = || async move {
            let mut ready = nearest(&maker.kin(digest), |_, kin| kin.ready);
            ready.truncate(TRIES_MAX);
            Ok(maker.copy_from(digest, ready, &mut BTreeSet::new()).await)
        };
        self.inner.copying.join(digest, copy).await.unwrap_or(false)
    }

    async fn make_in_turn(&self, digest: Digest) -> Result<(), Error> {
        let Inner { own, stock, .. } = &*self.inner;
        self.get_acquainted(digest).await;
        let (mut refused, mut passed, mut waits) = (BTreeSet::new(), BTreeSet::new(), 0);
        // Whoever says so has it, mostly: others need not be asked.
        let ready = nearest(&self.kin(digest), |_, kin| kin.ready);
        if self.copy_from(digest, ready, &mut refused).await {
            return Ok(());
        }
        for _ in 0..ROUNDS_MAX {
            let kin = self.kin(digest);
            let progress = self.ask_all(digest, &kin).await;
            let holds = |id: &NodeId| progress.get(id) == Some(&Progress::Compiled);
            let holders = nearest(&kin, |id, _| holds(&id) && !refused.contains(&id));
            if stock.is_compiled(&digest) || self.copy_from(digest, holders, &mut refused).await {
                return Ok(());
            }
            // Who does not answer, or has what cannot be copied, is not waited for.
            passed.extend(kin.keys().filter(|id| !progress.contains_key(id)));
            passed.extend(&refused);
            match turn(*own, digest, &kin, &progress, &passed) {
                Turn::Wait(node) if waits < WAITS_MAX => {
                    let known = progress.get(&node).copied().unwrap_or(Progress::None);
                    if !self.wait_for(digest, node, known).await {
                        passed.insert(node);
                        waits += 1;
                    }
                }
                _ => break,
            }
        }
        stock.compile(digest).await
    }

    /// Returns when a node is thought to be dead.
    async fn is_gone(&self, node: NodeId) {
        let mut changes = self.inner.seen.changes();
        loop {
            changes.borrow_and_update();
            let gone = self.inner.seen.now().liveness(node) == Liveness::Dead;
            if gone || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Soon after its start a node knows nobody, and must not think that it is alone.
    async fn get_acquainted(&self, digest: Digest) {
        let Inner { own, stock, decided, seen, .. } = &*self.inner;
        let left = ACQUAINT_TIME.saturating_sub(Duration::from_millis(stock.now_ms()));
        let mut changes = seen.changes();
        let acquainted = async {
            loop {
                changes.borrow_and_update();
                if !has_strangers(*own, digest, &decided.state(), &seen.now()) {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Who was not heard of by then is not waited for.
        let _ = timeout(left, acquainted).await;
    }

    /// The nodes that have the artifact or may come to have it.
    fn kin(&self, digest: Digest) -> BTreeMap<NodeId, Kin> {
        let Inner { own, stock, decided, seen, peers, .. } = &*self.inner;
        let engine = stock.inner.engine.fingerprint();
        let reached = |id| {
            let rtt_ms = peers.rtt_ms(id).unwrap_or(f64::INFINITY);
            (!peers.is_ejected(id)).then_some(rtt_ms)
        };
        kin(*own, engine, digest, &decided.state(), &seen.now(), reached)
    }

    /// How far these nodes are; those that do not answer are left out.
    async fn ask_all(
        &self,
        digest: Digest,
        kin: &BTreeMap<NodeId, Kin>,
    ) -> BTreeMap<NodeId, Progress> {
        // None of them is asked to wait: what it knows already is of no matter.
        let ask = |id: NodeId| async move {
            let copier = &self.inner.copier;
            (id, copier.ask(id, digest, Progress::None, Duration::ZERO).await)
        };
        let asked = futures::stream::iter(kin.keys().copied().collect::<Vec<_>>());
        let answers = asked.map(ask).buffer_unordered(ASKED_AT_ONCE);
        answers.filter_map(|(id, found)| async move { Some((id, found?)) }).collect().await
    }

    /// Copies from the first of these that hands it over; whether one did.
    async fn copy_from(
        &self,
        digest: Digest,
        nodes: Vec<NodeId>,
        refused: &mut BTreeSet<NodeId>,
    ) -> bool {
        for node in nodes {
            // A call and the agent may want it at the same time.
            if self.inner.stock.is_compiled(&digest) {
                return true;
            }
            match self.transfer(digest, node).await {
                Ok(()) => return true,
                Err(why) => {
                    tracing::debug!(component = %digest, peer = %node, %why, "not copied");
                    refused.insert(node);
                }
            }
        }
        false
    }

    /// Copies from a node; single flight.
    async fn transfer(&self, digest: Digest, node: NodeId) -> Result<(), NotCopied> {
        let maker = self.clone();
        let transfer = || async move { Ok(maker.inner.copier.copy(digest, node).await) };
        let copied = self.inner.transfers.join((digest, node), transfer).await;
        copied.unwrap_or_else(|error| Err(NotCopied::Failed(error.to_string())))
    }

    /// Waits while a node compiles; whether it has.
    async fn wait_for(&self, digest: Digest, node: NodeId, mut known: Progress) -> bool {
        tracing::info!(component = %digest, peer = %node, "another node compiles it");
        let mut ends = Instant::now() + wait_max(known);
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::info!(component = %digest, peer = %node, "it takes too long: the next one compiles");
                return false;
            }
            let wait = left.min(ANSWER_INTERVAL);
            let answer = tokio::select! {
                answer = self.inner.copier.ask(node, digest, known, wait) => answer,
                () = self.is_gone(node) => None,
            };
            match answer {
                Some(Progress::Compiled) => return true,
                Some(Progress::Compiling) if known == Progress::None => {
                    ends = Instant::now() + WORK_MAX;
                    known = Progress::Compiling;
                }
                // It failed, and would again.
                Some(Progress::None) if known == Progress::Compiling => return false,
                Some(_) => {}
                None => return false,
            }
        }
    }
}

fn wait_max(known: Progress) -> Duration {
    if known == Progress::Compiling { WORK_MAX } else { BEGIN_MAX }
}

#[cfg(test)]
mod tests;
