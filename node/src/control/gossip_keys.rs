//! Sees to it that this node holds the keys of gossip that are decided: those that it lacks it asks
//! of other nodes, over the peer connection.
//!
//! A key is given only to a member, and only once the state of the node that is asked accepts it.
//! That state has then also seen every removal that came before the key: who was removed gets none
//! of the keys that were made for it.

use std::time::Duration;

use bytes::Bytes;
use nigh_model::{GossipKeyId, NodeId, State};
use nigh_proto::peer::v1::GossipKeysRequest;
use nigh_proto::peer::v1::control_client::ControlClient;
use tokio_util::sync::CancellationToken;

use super::propose::{Control, Unavailable};
use crate::clock;
use crate::gossip::{GossipKey, Keyring};
use crate::peer::Lane;

/// A node that does not answer by then is passed over.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes asked in a round, the leader among them.
const ASKED_MAX: usize = 4;
/// First and longest pause between two rounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Follows what is decided of the keys, and fetches those that are missing, until cancelled.
pub(super) async fn keep_keys(control: Control, stop: CancellationToken) {
    let mut changes = control.decided.changes();
    let mut pause = PAUSE.0;
    loop {
        changes.borrow_and_update();
        if let Err(error) = control.keys.follow(&control.decided.state().gossip).await {
            tracing::warn!(%error, "retired gossip keys are still on disk");
        }
        let missing = control.keys.ring().missing();
        let complete = missing.is_empty();
        if complete {
            pause = PAUSE.0;
        } else {
            tokio::select! {
                () = stop.cancelled() => return,
                () = fetch(&control, &missing) => {}
            }
            if control.keys.ring().missing().is_empty() {
                continue;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause), if !complete => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

/// Asks some nodes for keys, the leader first, until one has given what is missing.
async fn fetch(control: &Control, missing: &[GossipKeyId]) {
    for node in sources(control) {
        let Some(channel) = control.peers.channel(node, Lane::Control) else { continue };
        let request = GossipKeysRequest {
            cluster_id: control.cluster.to_string(),
            ids: missing.iter().map(ToString::to_string).collect(),
        };
        let mut client = ControlClient::new(channel);
        let answer = tokio::time::timeout(ASK_TIMEOUT, client.gossip_keys(request)).await;
        let given = match answer {
            Ok(Ok(answer)) => keys_of(answer.into_inner().keys),
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %node, "no gossip key given");
                continue;
            }
            Err(_) => continue,
        };
        // Only what was asked for: a key that nothing names is of no use.
        let given = given.into_iter().filter(|key| missing.contains(&key.id())).collect();
        if let Err(error) = control.keys.take_in(given).await {
            tracing::warn!(%error, "a gossip key is not on disk");
        }
        if control.keys.ring().missing().is_empty() {
            return;
        }
    }
}

/// The leader, which made the newest key, and then others in turn.
fn sources(control: &Control) -> Vec<NodeId> {
    let leader = control.health.now().leader.filter(|id| *id != control.own);
    let state = control.decided.state();
    let others = state.nodes.keys().copied();
    let others = others.filter(|id| *id != control.own && Some(*id) != leader);
    let (gone, mut there): (Vec<_>, Vec<_>) = others.partition(|id| control.peers.is_ejected(*id));
    there.extend(gone);
    let first = (clock::random() as usize).checked_rem(there.len()).unwrap_or_default();
    there.rotate_left(first);
    leader.into_iter().chain(there).take(ASKED_MAX).collect()
}

/// Refuses whoever is not registered. The gate of the peer port lets in those that this node has not
/// heard of yet too; with a key it waits until it has.
pub(super) fn check_member(state: &State, asks: NodeId) -> Result<(), Unavailable> {
    if state.nodes.contains_key(&asks) {
        return Ok(());
    }
    Err(Unavailable::new(format!("node {asks} is not registered here")))
}

/// Of the keys that are asked for, those that are accepted and held.
pub(super) fn given(ring: &Keyring, ids: &[String]) -> Vec<Bytes> {
    let ids = ids.iter().filter_map(|id| id.parse::<GossipKeyId>().ok());
    let accepted = ids.filter(|id| ring.decided().accepts(*id));
    messages_of(accepted.filter_map(|id| ring.get(id)))
}

/// Keys as they are sent.
pub(super) fn messages_of<'k>(keys: impl IntoIterator<Item = &'k GossipKey>) -> Vec<Bytes> {
    keys.into_iter().map(|key| Bytes::copy_from_slice(key.secret())).collect()
}

/// Keys as they were sent; what is no key is left out.
pub(super) fn keys_of(messages: Vec<Bytes>) -> Vec<GossipKey> {
    messages.iter().filter_map(|bytes| GossipKey::from_slice(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nigh_model::{AcceptedKey, GossipKeys};
    use zeroize::Zeroizing;

    use super::*;
    use crate::gossip::registered;

    fn key(n: u8) -> GossipKey {
        GossipKey::new(Zeroizing::new([n; 32]))
    }

    #[test]
    fn only_accepted_keys_are_given() {
        let mut ring = Keyring::new([key(1), key(2)]);
        let accepted = vec![AcceptedKey { id: key(1).id(), since: 1 }];
        let decided = GossipKeys { accepted, sending: Some(key(1).id()), stale: 0 };
        ring.follow(&decided, Some(key(2).id()));
        let ids = [key(1), key(2), key(3)].map(|key| key.id().to_string());
        assert_eq!(keys_of(given(&ring, &ids)), [key(1)]);
        assert!(given(&ring, &["".into(), "rubbish".into()]).is_empty());
        assert!(keys_of(vec![Bytes::new(), Bytes::from_static(&[1; 33])]).is_empty());
    }

    #[test]
    fn who_was_removed_is_given_nothing() {
        let node = registered(2, ([127, 0, 0, 1], 1).into());
        let state =
            State { nodes: [(node.id, Arc::new(node))].into_iter().collect(), ..State::default() };
        assert!(check_member(&state, NodeId(2)).is_ok());
        assert!(check_member(&state, NodeId(3)).is_err());
    }
}
