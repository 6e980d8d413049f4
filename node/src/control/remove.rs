//! Letting a node go: its vote first, then its place in the registry. Only the leader does it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use nigh_model::audit::Actor;
use nigh_model::command::Command;
use nigh_model::{Digest, Kind, NodeId, State};
use nigh_placement::voters::removable;
use nigh_proto::peer::v1::StatRequest;
use nigh_proto::peer::v1::artifacts_client::ArtifactsClient;
use nigh_proto::status;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;
use tonic::Status;

use super::departure::Remains;
use super::propose::{Control, Unavailable};
use super::{handover, join};
use crate::peer::Lane;
use crate::seen::Liveness;

/// A node that has not said by then which components it holds counts as holding none.
const STAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Nodes asked at once, and components in one question.
const ASKED_AT_ONCE: usize = 16;
const DIGESTS_MAX: usize = 1_000;
/// The vote is taken away by then, or the removal fails; another change may be under way.
const VOTE_TIMEOUT: Duration = Duration::from_secs(8);
/// What is seen of a node that drains is as it should be by then: a few reports of its load.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Removes a node, unless that would break the quorum or lose something; what is lost where it is
/// forced.
///
/// # Errors
/// This node does not lead, there is no such node, or what stands against it.
pub(super) async fn remove(
    control: &Control,
    by: Option<Actor>,
    id: NodeId,
    force: bool,
) -> Result<Vec<String>, Status> {
    let health = control.health.now();
    if health.leader != Some(control.own) {
        return Err(Unavailable::new("this node does not lead").into());
    }
    let state = control.decided.state();
    let Some(node) = state.nodes.get(&id) else {
        let message = format!("no node has the id {id}");
        return Err(status::of_kind(Kind::NotFound, "NO_SUCH_NODE", message));
    };
    let name = &node.name;
    let refused = |reason, message| Err(status::of_kind(Kind::Conflict, reason, message));
    let mut lost = Vec::new();

    let left = settled(control, id).await;
    let alive = id == control.own || join::is_alive(control, id).await;
    if alive && !(node.draining && left.is_nothing()) {
        let why = match (node.draining, left.text()) {
            (false, _) => "it is alive and has not been drained".to_owned(),
            (true, left) => format!("it still {left}"),
        };
        if !force {
            let message = format!("node `{name}` is not removed: {why}; drain it first");
            return refused("NODE_NOT_DRAINED", message);
        }
        lost.push(format!("node `{name}` was alive and not drained: calls that ran there end"));
    }

    let voters: BTreeSet<NodeId> = health.voters.iter().copied().collect();
    let answering: BTreeSet<NodeId> = {
        let view = control.seen.now();
        voters.iter().copied().filter(|id| view.liveness(*id) != Liveness::Dead).collect()
    };
    if let Err(why) = removable(id, &voters, &answering) {
        let message = format!(
            "node `{name}` is not removed: without its vote nothing could be decided any more \
             ({why}); bring other voters back first"
        );
        return refused("QUORUM_WOULD_BREAK", message);
    }

    let lone = lone_components(control, &state, id).await;
    if !lone.is_empty() {
        let named: Vec<String> = lone.iter().map(|digest| name_component(&state, digest)).collect();
        if !force {
            let message = format!(
                "node `{name}` is not removed: no other live node has {}; bring one back that has, \
                 or deploy what is missing again",
                named.join(", ")
            );
            return refused("ONLY_COPY", message);
        }
        lost.extend(named.into_iter().map(|named| format!("the only copy of {named}")));
    }

    if id == control.own {
        // Who leads cannot let itself go: the next leader is asked.
        handover::hand_over(control).await;
        return Err(Unavailable::new("leadership was handed over; ask again").into());
    }
    take_vote(control, id).await?;
    let (_, outcome) = control.propose_by(by, None, Command::RemoveNode { id }).await?;
    if let Err(refusal) = outcome {
        return Err(status::of_kind(refusal.kind(), refusal.reason(), refusal.to_string()));
    }
    tracing::info!(node = %name, %id, force, "node removed");
    Ok(lost)
}

/// What a node still has: of one that drains when that is nothing, or a moment later, as gossip
/// tells of calls with a delay.
async fn settled(control: &Control, id: NodeId) -> Remains {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let (state, health) = (control.decided.state(), control.health.now());
        let left = Remains::of(id, &state, &control.seen.now(), &health);
        let waits = state.is_draining(id) && !left.is_nothing();
        if !waits || Instant::now() + PAUSE >= deadline {
            return left;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Takes a node out of the Raft group, if it is in it.
async fn take_vote(control: &Control, id: NodeId) -> Result<(), Status> {
    let deadline = Instant::now() + VOTE_TIMEOUT;
    loop {
        let metrics = control.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        if membership.get_node(&id.0).is_none() {
            return Ok(());
        }
        let voters: BTreeSet<u64> = membership.voter_ids().filter(|voter| *voter != id.0).collect();
        let is_voter = membership.voter_ids().any(|voter| voter == id.0);
        let change = async {
            if is_voter {
                control.raft.change_membership(voters, false).await
            } else {
                let members = ChangeMembers::RemoveNodes(BTreeSet::from([id.0]));
                control.raft.change_membership(members, false).await
            }
        };
        let why = match tokio::time::timeout_at(deadline, change).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no majority of the voters took the change in time".to_owned(),
        };
        if Instant::now() + PAUSE >= deadline {
            let message = format!("node {id} was not taken out of the raft group: {why}");
            return Err(Unavailable::new(message).into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The components of deployed revisions that no live node but this one holds.
pub(crate) async fn lone_components(
    control: &Control,
    state: &State,
    id: NodeId,
) -> BTreeSet<Digest> {
    let mut lone = state.components();
    let live: Vec<NodeId> = {
        let view = control.seen.now();
        let others = state.nodes.keys().copied().filter(|other| *other != id);
        others.filter(|other| view.liveness(*other) != Liveness::Dead).collect()
    };
    let digests: Vec<String> = lone.iter().map(ToString::to_string).collect();
    let questions: Vec<(NodeId, Vec<String>)> = live
        .into_iter()
        .flat_map(|node| digests.chunks(DIGESTS_MAX).map(move |some| (node, some.to_vec())))
        .collect();
    let mut answers = futures::stream::iter(questions)
        .map(|(node, digests)| held(control, node, digests))
        .buffer_unordered(ASKED_AT_ONCE);
    while let Some(held) = answers.next().await {
        for digest in held {
            lone.remove(&digest);
        }
    }
    lone
}

async fn held(control: &Control, node: NodeId, digests: Vec<String>) -> Vec<Digest> {
    let Some(channel) = control.peers.channel(node, Lane::Control) else { return Vec::new() };
    let mut client = ArtifactsClient::new(channel);
    let asked = tokio::time::timeout(STAT_TIMEOUT, client.stat(StatRequest { digests })).await;
    let Ok(Ok(answer)) = asked else { return Vec::new() };
    answer.into_inner().held.iter().filter_map(|digest| digest.parse().ok()).collect()
}

/// A component as people know it: by the apps that are made of it.
fn name_component(state: &State, digest: &Digest) -> String {
    let revisions =
        state.apps.values().flat_map(|app| app.revisions.values().map(move |r| (app, r)));
    let made_of_it = revisions.filter(|(_, revision)| revision.spec.components().contains(digest));
    let names: Vec<String> =
        made_of_it.map(|(app, revision)| format!("{} {}", app.name, revision.id)).collect();
    format!("component {digest} of {}", names.join(", "))
}
