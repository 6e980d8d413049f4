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
use crate::gossip::Keys;
use crate::identity::{self, Beginning, IdentityFolder, Own};
use crate::peer::Peers;

/// An address given to a node that has a cluster already is asked this long who it is.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two rounds of asking given addresses.
const ACQUAINT_INTERVAL: Duration = Duration::from_millis(500);

/// Who this node is, and whom it may ask first.
pub(crate) struct Membership {
    /// Its identity, on disk by now.
    pub(crate) identity: Identity,
    /// Its certificate and whom it trusts.
    pub(crate) own: Own,
    /// Where these are kept.
    pub(crate) folder: IdentityFolder,
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

/// Finds out who this node is; joins or begins a cluster when it belongs to none. The keys of gossip
/// are on disk before the identity is: who belongs to a cluster can gossip in it.
///
/// # Errors
/// The data folder is another node's or cluster's, or the cluster does not admit this node.
pub(crate) async fn establish(
    config: &Config,
    data: &DataDir,
    keys: &Keys,
) -> Result<Membership, Error> {
    let folder = IdentityFolder::open(data, config.identity_key.as_deref())?;
    if let Some(identity) = data.identity()? {
        return come_back(config, identity, folder);
    }
    let (cluster, node, material, gossip_seeds, hints) = match &config.start {
        Start::Resume => return Err(Error::NoCluster(config.data.clone())),
        Start::Bootstrap => {
            keys.make().await?;
            let cluster = clock::cluster_id();
            let material = identity::begin(&folder, &beginning(config, &cluster))?;
            (cluster, NodeId(1), material, Vec::new(), Vec::new())
        }
        Start::Join(addresses) => {
            let token = config.join_token.as_ref().ok_or(Error::NoJoinToken)?;
            let admitted = join::join(config, token, addresses).await?;
            folder.keep(&admitted.material)?;
            keys.take_in(admitted.gossip_keys).await?;
            let mut hints = admitted.replicas;
            hints.extend(addresses.iter().cloned());
            (admitted.cluster, admitted.id, admitted.material, admitted.gossip_seeds, hints)
        }
    };
    // The last thing that is written: without it a start begins anew.
    let identity = Identity { cluster, node, name: config.name.clone() };
    data.set_identity(&identity)?;
    tracing::info!(cluster = %identity.cluster, id = %identity.node, "this node belongs to a cluster");
    let own = Own::new(folder.clone(), material, config.certificate_life)?;
    Ok(Membership { identity, own, folder, gossip_seeds, hints })
}

fn beginning<'a>(config: &'a Config, cluster: &'a ClusterId) -> Beginning<'a> {
    let addresses = join::describe(config).addresses;
    Beginning {
        cluster,
        hosts: identity::hosts(&addresses),
        api: addresses.api,
        join_token: config.write_join_token.as_deref(),
        life: config.certificate_life,
    }
}

fn come_back(
    config: &Config,
    identity: Identity,
    folder: IdentityFolder,
) -> Result<Membership, Error> {
    if identity.name != config.name {
        return Err(Error::OtherName { own: identity.name, given: config.name.clone() });
    }
    let material = folder.load()?.ok_or_else(|| Error::NoIdentity(config.data.clone()))?;
    let own = Own::new(folder.clone(), material, config.certificate_life)?;
    let leaf = &own.tls.now().leaf;
    if leaf.node != identity.node || leaf.cluster != identity.cluster {
        return Err(Error::NoIdentity(config.data.clone()));
    }
    Ok(Membership { identity, own, folder, gossip_seeds: Vec::new(), hints: Vec::new() })
}

/// Asks the addresses that a node was given which of them are of its own cluster: those help it
/// to find the others.
///
/// # Errors
/// One of them belongs to another cluster.
pub(crate) async fn look_around(
    config: &Config,
    membership: &mut Membership,
    peers: &Peers,
) -> Result<(), Error> {
    let Start::Join(addresses) = &config.start else { return Ok(()) };
    if !membership.hints.is_empty() {
        return Ok(());
    }
    for address in addresses {
        // Nobody there yet, or something else: the registry knows the others as well.
        match timeout(CHECK_TIMEOUT, identify(peers, address)).await {
            Ok(Ok(known)) => {
                membership.gossip_seeds.push(known.gossip);
                membership.hints.push(address.clone());
            }
            Ok(Err(status)) if is_foreign(&status) => {
                let own = membership.identity.cluster.clone();
                return Err(Error::OtherCluster { own, address: address.clone() });
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether what answered has a certificate of another authority.
fn is_foreign(status: &tonic::Status) -> bool {
    let mut error: &dyn std::error::Error = status;
    loop {
        // An I/O error shows what it holds only to those who ask.
        let held = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        let tls = held.and_then(|held| held.downcast_ref::<rustls::Error>());
        if matches!(
            tls.or_else(|| error.downcast_ref()),
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
        ) {
            return true;
        }
        match error.source() {
            Some(source) => error = source,
            None => return false,
        }
    }
}
