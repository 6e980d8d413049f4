//! Who this node is: what its data folder says, or what the cluster tells it when it joins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::{ClusterId, NodeId};
use nigh_storage::{DataDir, Identity};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::{Config, Start};
use crate::control::join::{self, identify};
use crate::decided::Decided;
use crate::error::Error;
use crate::peer::Peers;

/// An address given to a node that has a cluster already is asked this long who it is.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two rounds of asking given addresses.
const ACQUAINT_INTERVAL: Duration = Duration::from_millis(500);

/// Who this node is, and whom it may ask first.
pub(crate) struct Membership {
    /// Its identity, on disk by now.
    pub(crate) identity: Identity,
    /// Gossip addresses.
    pub(crate) gossip_seeds: Vec<String>,
    /// Peer addresses of nodes that may hold the state.
    pub(crate) hints: Vec<String>,
}

/// Asks the addresses that this node was given who they are, until each has answered and the
/// registry names it, or until cancelled: nodes that came back elsewhere are found so.
pub(crate) async fn keep_acquainted(
    config: Arc<Config>,
    cluster: ClusterId,
    peers: Peers,
    decided: Decided,
    stop: CancellationToken,
) {
    let Start::Join(addresses) = &config.start else { return };
    let mut unknown: BTreeSet<&String> = addresses.iter().collect();
    while !unknown.is_empty() {
        for address in unknown.clone() {
            let asked = timeout(CHECK_TIMEOUT, identify(&peers, address)).await;
            let Ok(Ok(known)) = asked else { continue };
            if known.cluster_id != cluster.as_str() {
                unknown.remove(address);
                continue;
            }
            let id = NodeId(known.node_id);
            peers.met(id, &known.peer);
            let state = decided.state();
            if state.nodes.get(&id).is_some_and(|node| node.addresses.peer == known.peer) {
                unknown.remove(address);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ACQUAINT_INTERVAL) => {}
        }
    }
}

/// Finds out who this node is; joins or begins a cluster when it belongs to none.
///
/// # Errors
/// The data folder is another node's or cluster's, or the cluster does not admit this node.
pub(crate) async fn establish(
    config: &Config,
    data: &DataDir,
    peers: &Peers,
) -> Result<Membership, Error> {
    if let Some(identity) = data.identity()? {
        return come_back(config, identity, peers).await;
    }
    let (cluster, node, gossip_seeds, hints) = match &config.start {
        Start::Resume => return Err(Error::NoCluster(config.data.clone())),
        Start::Bootstrap => (clock::cluster_id(), NodeId(1), Vec::new(), Vec::new()),
        Start::Join(addresses) => {
            let admitted = join::join(config, peers, addresses).await?;
            let mut hints = admitted.replicas;
            hints.extend(addresses.iter().cloned());
            (admitted.cluster, admitted.id, admitted.gossip_seeds, hints)
        }
    };
    let identity = Identity { cluster, node, name: config.name.clone() };
    data.set_identity(&identity)?;
    tracing::info!(cluster = %identity.cluster, id = %identity.node, "this node belongs to a cluster");
    Ok(Membership { identity, gossip_seeds, hints })
}

async fn come_back(
    config: &Config,
    identity: Identity,
    peers: &Peers,
) -> Result<Membership, Error> {
    if identity.name != config.name {
        return Err(Error::OtherName { own: identity.name, given: config.name.clone() });
    }
    let mut gossip_seeds = Vec::new();
    let mut hints = Vec::new();
    if let Start::Join(addresses) = &config.start {
        for address in addresses {
            // Nobody there yet, or something else: the registry knows the others as well.
            let Ok(Ok(known)) = timeout(CHECK_TIMEOUT, identify(peers, address)).await else {
                continue;
            };
            if known.cluster_id != identity.cluster.as_str() {
                return Err(Error::OtherCluster {
                    own: identity.cluster,
                    address: address.clone(),
                    theirs: known.cluster_id,
                });
            }
            gossip_seeds.push(known.gossip);
            hints.push(address.clone());
        }
    }
    Ok(Membership { identity, gossip_seeds, hints })
}
