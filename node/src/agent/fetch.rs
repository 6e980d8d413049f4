//! Fetches components from other nodes, the nearest that has it first.
//!
//! It deliberately does not ask whether the bytes may be here: who calls it has.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use nigh_model::{Digest, NodeId, State};
use nigh_proto::peer::v1::artifacts_client::ArtifactsClient;
use nigh_proto::peer::v1::{FetchChunk, FetchRequest, StatRequest};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::Error;
use super::flight::Flights;
use super::stock::Stock;
use crate::decided::Decided;
use crate::peer::{Lane, Peers};
use crate::seen::{Liveness, Seen};

/// A node that has not said by then what it holds is passed over.
const STAT_TIMEOUT: Duration = Duration::from_secs(2);
/// A transfer that brings nothing for so long is given up …
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// … and so is one that takes longer in all: 100 MiB at 1 MiB/s.
const FETCH_TIMEOUT: Duration = Duration::from_secs(100);
/// Nodes asked at the same time whether they hold a component.
const ASKED_AT_ONCE: usize = 4;
/// Nodes asked in all: one that none of the nearest has is asked for again later.
const ASKED_MAX: usize = 64;
/// Transfers at once: more would only share the same wire.
const FETCHES_MAX: usize = 4;

/// Fetches components from other nodes. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    own: NodeId,
    stock: Stock,
    decided: Decided,
    seen: Seen,
    peers: Peers,
    room: Semaphore,
    flights: Flights<Digest, ()>,
}

impl Fetcher {
    /// Fetches into this stock.
    pub(crate) fn new(
        own: NodeId,
        stock: Stock,
        decided: Decided,
        seen: Seen,
        peers: Peers,
    ) -> Self {
        let room = Semaphore::new(FETCHES_MAX);
        let flights = Flights::default();
        Self { inner: Arc::new(Inner { own, stock, decided, seen, peers, room, flights }) }
    }

    /// Brings a component here from wherever it is nearest, unless it is here; single flight.
    ///
    /// # Errors
    /// Nobody who answers has it, or all who have it failed; then the error of the last.
    pub(crate) async fn fetch(&self, digest: Digest) -> Result<(), Error> {
        if self.inner.stock.holds_for_use(&digest) {
            return Ok(());
        }
        let fetcher = self.clone();
        let work = || async move { fetcher.fetch_from_any(digest).await };
        self.inner.flights.join(digest, work).await
    }

    /// Brings a component here from one node, unless it is here.
    ///
    /// # Errors
    /// The node did not hand it over.
    pub(crate) async fn fetch_from(&self, digest: Digest, from: NodeId) -> Result<(), Error> {
        if self.inner.stock.holds_for_use(&digest) {
            return Ok(());
        }
        let fetcher = self.clone();
        let work = || async move { fetcher.transfer(digest, from).await };
        self.inner.flights.join(digest, work).await
    }

    /// The nodes among these that say they hold a component, in the same order.
    pub(crate) fn holders(
        &self,
        digest: Digest,
        among: Vec<NodeId>,
    ) -> impl futures::Stream<Item = NodeId> + Send + use<> {
        let peers = self.inner.peers.clone();
        let asked = futures::stream::iter(among).map(move |node| {
            let peers = peers.clone();
            async move { (node, is_held(&peers, node, digest).await) }
        });
        asked.buffered(ASKED_AT_ONCE).filter_map(|(node, held)| async move { held.then_some(node) })
    }

    /// The nearest other node that says it holds a component.
    ///
    /// # Errors
    /// Nobody who answers has it.
    pub(crate) async fn nearest_holder(&self, digest: Digest) -> Result<NodeId, Error> {
        let mut holders = std::pin::pin!(self.holders(digest, self.sources(digest)));
        holders.next().await.ok_or(Error::NowhereHeld { digest })
    }

    /// A component's bytes, from this node's disk or as another node sends them; they are not kept.
    /// Whoever reads checks the digest.
    ///
    /// # Errors
    /// Nobody who answers has it.
    pub(crate) async fn read(
        &self,
        digest: Digest,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        if self.inner.stock.holds_for_use(&digest) {
            return Ok(self.inner.stock.stream(digest));
        }
        let from = self.nearest_holder(digest).await?;
        let chunks = self.chunks(digest, from).await?;
        let stream = futures::stream::try_unfold(chunks, async |mut chunks: Chunks| {
            Ok(chunks.next().await?.map(|chunk| (chunk, chunks)))
        });
        Ok(stream.boxed())
    }

    async fn fetch_from_any(&self, digest: Digest) -> Result<(), Error> {
        let mut failed = None;
        let mut holders = std::pin::pin!(self.holders(digest, self.sources(digest)));
        while let Some(from) = holders.next().await {
            match self.transfer(digest, from).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!(component = %digest, peer = %from, %error, "fetch failed");
                    failed = Some(error);
                }
            }
        }
        Err(failed.unwrap_or(Error::NowhereHeld { digest }))
    }

    async fn chunks(&self, digest: Digest, from: NodeId) -> Result<Chunks, Error> {
        let failed = |why: String| Error::Fetch { digest, from, why };
        let channel = self.inner.peers.channel(from, Lane::Bulk);
        let channel = channel.ok_or_else(|| failed("no such node is registered".into()))?;
        let request = FetchRequest { digest: digest.to_string() };
        let mut client = ArtifactsClient::new(channel);
        match timeout(STALL_TIMEOUT, client.fetch(request)).await {
            Ok(Ok(answer)) => Ok(Chunks { digest, from, stream: answer.into_inner() }),
            Ok(Err(status)) => Err(failed(status.message().to_owned())),
            Err(_) => Err(failed(format!("no answer within {STALL_TIMEOUT:?}"))),
        }
    }

    /// The size of a component as the revisions that are made of it say; none when there is no
    /// such revision.
    pub(crate) fn decided_size(&self, digest: Digest) -> Option<u64> {
        let state = self.inner.decided.state();
        let revisions = state.apps.values().flat_map(|app| app.revisions.values());
        let mut specs = revisions.flat_map(|revision| revision.spec.functions.values());
        Some(specs.find(|spec| spec.component == digest)?.component_bytes)
    }

    fn sources(&self, digest: Digest) -> Vec<NodeId> {
        let Inner { own, decided, seen, peers, .. } = &*self.inner;
        let view = seen.now();
        let standing = |id: NodeId| Standing {
            gone: view.liveness(id) == Liveness::Dead || peers.is_ejected(id),
            rtt_ms: peers.rtt_ms(id),
        };
        let state = decided.state();
        let others = state.nodes.keys().copied().filter(|id| id != own);
        let standings = others.map(|id| (id, standing(id))).collect();
        order(&standings, &assigned(&state, digest))
    }

    async fn transfer(&self, digest: Digest, from: NodeId) -> Result<(), Error> {
        let failed = |why: String| Error::Fetch { digest, from, why };
        let stopping = |_| Error::Internal("the node stops".into());
        let _room = self.inner.room.acquire().await.map_err(stopping)?;
        let streamed = timeout(FETCH_TIMEOUT, self.stream(digest, from)).await;
        let counters = self.inner.stock.counters();
        match &streamed {
            Ok(Ok(bytes)) => {
                counters.fetched.add();
                counters.fetched_bytes.add_many(*bytes);
            }
            Ok(Err(_)) | Err(_) => counters.fetch_failed.add(),
        }
        match streamed.map(|done| done.map(|_bytes| ())) {
            Ok(Err(error @ Error::Fetch { .. })) => Err(error),
            Ok(done) => done.map_err(|error| match error.kind() {
                // What came was not what was asked for: another node may do better.
                nigh_model::Kind::Invalid => failed(error.to_string()),
                _ => error,
            }),
            Err(_) => Err(failed(format!("it took longer than {FETCH_TIMEOUT:?}"))),
        }
    }

    /// How many bytes came.
    async fn stream(&self, digest: Digest, from: NodeId) -> Result<u64, Error> {
        let mut chunks = self.chunks(digest, from).await?;
        let mut incoming = self.inner.stock.receive(digest, None);
        while let Some(chunk) = chunks.next().await? {
            if !incoming.push(chunk).await {
                break;
            }
        }
        let bytes = incoming.received();
        incoming.keep(false).await?;
        tracing::info!(component = %digest, peer = %from, bytes, "fetched a component");
        Ok(bytes)
    }
}

/// A component coming from another node.
struct Chunks {
    digest: Digest,
    from: NodeId,
    stream: tonic::Streaming<FetchChunk>,
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let (digest, from) = (self.digest, self.from);
        let failed = |why: String| Error::Fetch { digest, from, why };
        match timeout(STALL_TIMEOUT, self.stream.message()).await {
            Ok(Ok(chunk)) => Ok(chunk.map(|chunk| chunk.data)),
            Ok(Err(status)) => Err(failed(status.message().to_owned())),
            Err(_) => Err(failed(format!("nothing came for {STALL_TIMEOUT:?}"))),
        }
    }
}

/// What is known of a node that may be asked.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// It is thought to be dead or its connection failed; it is asked last.
    gone: bool,
    rtt_ms: Option<f64>,
}

/// Whom to ask, best first: living before gone, assigned before others, near before far.
fn order(standings: &BTreeMap<NodeId, Standing>, assigned: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let mut nodes: Vec<_> = standings.iter().collect();
    nodes.sort_by(|(a, at_a), (b, at_b)| {
        let rtt = |standing: &Standing| standing.rtt_ms.unwrap_or(f64::INFINITY);
        (at_a.gone.cmp(&at_b.gone))
            .then_with(|| assigned.contains(b).cmp(&assigned.contains(a)))
            .then_with(|| rtt(at_a).partial_cmp(&rtt(at_b)).unwrap_or(Ordering::Equal))
            .then_with(|| a.cmp(b))
    });
    nodes.into_iter().map(|(id, _)| *id).take(ASKED_MAX).collect()
}

/// The nodes to which a function made of this component is assigned.
fn assigned(state: &State, digest: Digest) -> BTreeSet<NodeId> {
    let revisions = state.apps.values().flat_map(|app| app.revisions.values());
    let functions = revisions.flat_map(|revision| revision.functions());
    let made_of_it = functions.filter(|(_, spec)| spec.component == digest);
    let assignments = made_of_it.filter_map(|(function, _)| state.assignments.get(&function));
    assignments.flat_map(|assignment| assignment.nodes.keys().copied()).collect()
}

async fn is_held(peers: &Peers, node: NodeId, digest: Digest) -> bool {
    let Some(channel) = peers.channel(node, Lane::Control) else { return false };
    let request = StatRequest { digests: vec![digest.to_string()] };
    let mut client = ArtifactsClient::new(channel);
    match timeout(STAT_TIMEOUT, client.stat(request)).await {
        Ok(Ok(answer)) => answer.into_inner().held.contains(&digest.to_string()),
        Ok(Err(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_nodes_are_asked_before_gone_ones_and_assigned_ones_before_near_ones() {
        let standing = |gone, rtt_ms| Standing { gone, rtt_ms };
        let standings = BTreeMap::from([
            (NodeId(1), standing(false, Some(80.0))),
            (NodeId(2), standing(false, Some(1.0))),
            (NodeId(3), standing(true, Some(0.1))),
            (NodeId(4), standing(false, None)),
            (NodeId(5), standing(false, Some(40.0))),
        ]);
        let assigned = BTreeSet::from([NodeId(1), NodeId(3), NodeId(5)]);
        let order: Vec<u64> = order(&standings, &assigned).iter().map(|id| id.0).collect();
        assert_eq!(order, [5, 1, 2, 4, 3]);
    }
}
