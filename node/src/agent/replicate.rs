//! Copies a component before a revision that is made of it is committed: once acknowledged, a
//! deploy survives the loss of any one node, and of any one region where there are several.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use nigh_model::{Digest, NodeId, Region, State};
use nigh_proto::peer::v1::ReplicateRequest;
use nigh_proto::peer::v1::artifacts_client::ArtifactsClient;
use tokio::time::timeout;

use super::error::Error;
use super::fetch::Fetcher;
use super::stock::Stock;
use crate::decided::Decided;
use crate::peer::{Lane, Peers};
use crate::seen::{Liveness, Seen};

/// Copies of a component before its revision is committed, where there are so many nodes.
pub(crate) const COPIES_MIN: usize = 2;
/// A node that has not taken its copy by then is passed over.
const REPLICATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Nodes tried: when so many in turn take no copy, more will not either.
const TRIES_MAX: usize = 8;

/// Makes copies. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Copies {
    inner: Arc<Inner>,
}

struct Inner {
    own: NodeId,
    region: Region,
    stock: Stock,
    fetcher: Fetcher,
    decided: Decided,
    seen: Seen,
    peers: Peers,
}

/// A node that may hold a copy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Site {
    region: Region,
    /// It is about to leave: its copy counts, but no new one is sent there.
    draining: bool,
    rtt_ms: Option<f64>,
}

pub(super) type Sites = BTreeMap<NodeId, Site>;

impl Copies {
    /// Copies from and to this stock.
    pub(crate) fn new(
        (own, region): (NodeId, Region),
        stock: Stock,
        fetcher: Fetcher,
        decided: Decided,
        seen: Seen,
        peers: Peers,
    ) -> Self {
        Self { inner: Arc::new(Inner { own, region, stock, fetcher, decided, seen, peers }) }
    }

    /// Returns when the component is synced on [`COPIES_MIN`] live nodes in allowed regions, in
    /// two regions where there are such, or on as many as there are. A copy on this node counts
    /// only if its region is allowed.
    ///
    /// # Errors
    /// Nobody has it, no live node may have it, or too few took a copy in time.
    pub(crate) async fn ensure_copies(
        &self,
        digest: Digest,
        allowed: impl Fn(&Region) -> bool,
    ) -> Result<(), Error> {
        let sites = self.sites(allowed);
        if sites.is_empty() {
            return Err(Error::NoAllowedNode { digest });
        }
        let held = self.held(digest, &sites).await;
        self.spread(digest, &sites, held).await
    }

    /// The same without those that are to leave for good, this node among them.
    ///
    /// # Errors
    /// As [`ensure_copies`](Self::ensure_copies).
    pub(crate) async fn ensure_copies_elsewhere(
        &self,
        digest: Digest,
        allowed: impl Fn(&Region) -> bool,
    ) -> Result<(), Error> {
        let state = self.inner.decided.state();
        let mut sites = self.sites(allowed);
        sites.retain(|id, _| *id != self.inner.own && !state.is_draining(*id));
        if sites.is_empty() {
            return Err(Error::NoAllowedNode { digest });
        }
        let holders = self.inner.fetcher.holders(digest, sites.keys().copied().collect());
        let held = holders.collect().await;
        self.spread(digest, &sites, held).await
    }

    /// Makes copies until there are enough.
    async fn spread(
        &self,
        digest: Digest,
        sites: &Sites,
        mut held: BTreeSet<NodeId>,
    ) -> Result<(), Error> {
        let mut passed_over = BTreeSet::new();
        let mut why = "there is no other node to try".to_owned();
        while !is_enough(sites, &held) {
            let next = next(sites, &held, &passed_over).filter(|_| passed_over.len() < TRIES_MAX);
            let Some(to) = next else {
                let wanted = COPIES_MIN.min(sites.len());
                return Err(Error::TooFewCopies { digest, held: held.len(), wanted, why });
            };
            match self.copy(digest, to, &held).await {
                Ok(()) => {
                    held.insert(to);
                }
                // Without a source, no other node would fare better.
                Err(error @ Error::NowhereHeld { .. }) => return Err(error),
                Err(error) => {
                    tracing::info!(component = %digest, peer = %to, %error, "no copy made");
                    why = error.to_string();
                    passed_over.insert(to);
                }
            }
        }
        Ok(())
    }

    /// The last known decision.
    pub(crate) fn state(&self) -> Arc<State> {
        self.inner.decided.state()
    }

    /// The region of this node.
    pub(crate) fn region(&self) -> &Region {
        &self.inner.region
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    /// The id of the cluster, as nodes tell it each other.
    pub(super) fn cluster(&self) -> String {
        self.state().cluster.clone().map(String::from).unwrap_or_default()
    }

    /// Live nodes that may hold a copy.
    pub(super) fn sites(&self, allowed: impl Fn(&Region) -> bool) -> Sites {
        let Inner { own, region, decided, seen, peers, .. } = &*self.inner;
        let view = seen.now();
        let state = decided.state();
        let mut sites = Sites::new();
        for node in state.nodes.values().filter(|node| node.id != *own && allowed(&node.region)) {
            // Soon after a start gossip has not told of all, but pings have been answered.
            let lives =
                view.liveness(node.id) == Liveness::Alive || peers.rtt_ms(node.id).is_some();
            if lives && !peers.is_ejected(node.id) {
                let draining = view.nodes.get(&node.id).is_some_and(|seen| seen.report.draining);
                let rtt_ms = peers.rtt_ms(node.id);
                sites.insert(node.id, Site { region: node.region.clone(), draining, rtt_ms });
            }
        }
        if allowed(region) {
            let site = Site { region: region.clone(), draining: false, rtt_ms: Some(0.0) };
            sites.insert(*own, site);
        }
        sites
    }

    /// Where copies are known to be. With one on this node nobody is asked, which would take a
    /// round trip to the farthest: a node that has a copy already says so when it is sent one.
    async fn held(&self, digest: Digest, sites: &Sites) -> BTreeSet<NodeId> {
        let own = self.inner.own;
        if self.inner.stock.holds_for_use(&digest) {
            return sites.contains_key(&own).then_some(own).into_iter().collect();
        }
        let others = sites.keys().copied().filter(|id| *id != own).collect();
        self.inner.fetcher.holders(digest, others).collect().await
    }

    async fn copy(&self, digest: Digest, to: NodeId, held: &BTreeSet<NodeId>) -> Result<(), Error> {
        let Inner { own, stock, fetcher, peers, .. } = &*self.inner;
        if to == *own {
            return fetcher.fetch(digest).await;
        }
        let from = if stock.holds_for_use(&digest) {
            *own
        } else {
            match held.first() {
                Some(holder) => *holder,
                None => fetcher.nearest_holder(digest).await?,
            }
        };
        let failed = |why: String| Error::Fetch { digest, from: to, why };
        let channel = peers.channel(to, Lane::Control);
        let channel = channel.ok_or_else(|| failed("no such node is registered".into()))?;
        let request = ReplicateRequest {
            cluster_id: self.cluster(),
            digest: digest.to_string(),
            from: from.0,
        };
        let mut client = ArtifactsClient::new(channel);
        match timeout(REPLICATE_TIMEOUT, client.replicate(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(failed(status.message().to_owned())),
            Err(_) => Err(failed(format!("no answer within {REPLICATE_TIMEOUT:?}"))),
        }
    }
}

/// Enough copies, and in enough regions.
fn is_enough(sites: &Sites, held: &BTreeSet<NodeId>) -> bool {
    let regions = |nodes: &mut dyn Iterator<Item = &NodeId>| {
        nodes.filter_map(|id| Some(&sites.get(id)?.region)).collect::<BTreeSet<_>>().len()
    };
    let there_are = regions(&mut sites.keys());
    held.len() >= COPIES_MIN.min(sites.len())
        && regions(&mut held.iter()) >= COPIES_MIN.min(there_are)
}

/// Who gets the next copy: a node in a region without one, the nearest of those.
pub(super) fn next(
    sites: &Sites,
    held: &BTreeSet<NodeId>,
    passed_over: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let covered: BTreeSet<&Region> =
        held.iter().filter_map(|id| Some(&sites.get(id)?.region)).collect();
    let open = sites.iter().filter(|(id, _)| !held.contains(id) && !passed_over.contains(id));
    let cost = |site: &Site| {
        (site.draining, covered.contains(&site.region), site.rtt_ms.unwrap_or(f64::INFINITY))
    };
    let best = open.min_by(|(_, a), (_, b)| {
        cost(a).partial_cmp(&cost(b)).unwrap_or(std::cmp::Ordering::Equal)
    });
    best.map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(given: &[(u64, &str, f64)]) -> Sites {
        let site = |region: &str, rtt_ms| Site {
            region: Region::new(region).unwrap(),
            draining: false,
            rtt_ms: Some(rtt_ms),
        };
        given.iter().map(|(id, region, rtt)| (NodeId(*id), site(region, *rtt))).collect()
    }

    fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    #[test]
    fn two_copies_in_two_regions_are_enough() {
        let sites = sites(&[(1, "eu", 0.0), (2, "eu", 1.0), (3, "us", 80.0)]);
        assert!(!is_enough(&sites, &ids([])));
        assert!(!is_enough(&sites, &ids([1])));
        assert!(!is_enough(&sites, &ids([1, 2])), "both would go with their region");
        assert!(is_enough(&sites, &ids([1, 3])));
    }

    #[test]
    fn where_there_is_one_region_or_one_node_that_is_enough() {
        assert!(is_enough(&sites(&[(1, "eu", 0.0), (2, "eu", 1.0)]), &ids([1, 2])));
        assert!(is_enough(&sites(&[(1, "eu", 0.0)]), &ids([1])));
    }

    #[test]
    fn the_next_copy_goes_to_the_nearest_node_of_a_region_without_one() {
        let mut sites = sites(&[(1, "eu", 0.0), (2, "eu", 1.0), (3, "us", 80.0), (4, "us", 90.0)]);
        assert_eq!(next(&sites, &ids([]), &ids([])), Some(NodeId(1)));
        assert_eq!(next(&sites, &ids([1]), &ids([])), Some(NodeId(3)));
        assert_eq!(next(&sites, &ids([1]), &ids([3])), Some(NodeId(4)));
        assert_eq!(next(&sites, &ids([1]), &ids([3, 4])), Some(NodeId(2)));
        assert_eq!(next(&sites, &ids([1, 2, 3, 4]), &ids([])), None);
        for id in [3, 4] {
            sites.get_mut(&NodeId(id)).unwrap().draining = true;
        }
        assert_eq!(next(&sites, &ids([1]), &ids([])), Some(NodeId(2)));
    }
}
