//! Keeps the Raft group at the right size and spread: one change at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use nigh_model::NodeId;
use nigh_placement::voters::{Membership, Step, after, next_step, target_voters};
use nigh_storage::raft::RaftNode;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{ChangeMembers, Instant as _};

use super::grace::Grace;
use crate::control::departure;
use crate::control::handover;
use crate::control::propose::Control;

/// A learner this close to the leader's log can vote without holding commits up.
const CAUGHT_UP_ENTRIES: u64 = 32;
/// A change of membership that is not committed by then is looked at again later.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the next step towards the right voters, if there is one that is safe.
pub(super) async fn step(control: &Control, grace: &Grace) {
    let state = control.decided.state();
    let metrics = control.raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let committed = metrics.committed_membership_config.log_id();
    if membership.get_joint_config().len() > 1 || metrics.membership_config.log_id() != committed {
        return;
    }
    // It may keep its vote for want of others, but not leadership.
    if state.is_draining(control.own) && handover::hand_over(control).await {
        return;
    }
    let voters: BTreeSet<NodeId> = membership.voter_ids().map(NodeId).collect();
    let learners: BTreeSet<NodeId> = membership.learner_ids().map(NodeId).collect();
    // Who still takes the log is there, whatever gossip says.
    let acked = |id: NodeId| {
        let acked = metrics.heartbeat.as_ref().and_then(|acked| *acked.get(&id.0)?);
        acked.is_some_and(|at| at.elapsed() < grace.limit())
    };
    let alive = |id| grace.is_kept(id) || voters.contains(&id) && acked(id);
    let candidates = departure::candidates(&state, &voters, alive, |id| grace.is_steady(id));
    let last = metrics.last_log_index.unwrap_or(0);
    let is_close = |log: &Option<_>| {
        log.as_ref().is_some_and(
            |log: &openraft::alias::LogIdOf<nigh_storage::raft::TypeConfig>| {
                log.index + CAUGHT_UP_ENTRIES >= last
            },
        )
    };
    let caught_up: BTreeSet<NodeId> = metrics
        .replication
        .iter()
        .flatten()
        .filter(|(_, log)| is_close(log))
        .map(|(id, _)| NodeId(*id))
        .collect();
    let alive: BTreeSet<NodeId> =
        state.nodes.keys().copied().filter(|id| grace.answers(*id)).collect();
    let now =
        Membership { voters: &voters, learners: &learners, caught_up: &caught_up, alive: &alive };
    let target = target_voters(&candidates);
    if let Some(step) = next_step(&now, &target) {
        return change(control, &voters, step).await;
    }
    // A learner that is no longer to vote is let go: it follows the stream like the others.
    let stray = learners.iter().find(|id| !target.contains(id) || !state.nodes.contains_key(id));
    if let Some(id) = stray {
        let members = ChangeMembers::RemoveNodes(BTreeSet::from([id.0]));
        commit("remove a learner", control.raft.change_membership(members, false)).await;
    }
}

async fn change(control: &Control, voters: &BTreeSet<NodeId>, step: Step) {
    tracing::info!(?step, "the raft group changes");
    let raft = &control.raft;
    match step {
        Step::AddLearner(id) => {
            let state = control.decided.state();
            let Some(node) = state.nodes.get(&id) else { return };
            let node = RaftNode {
                name: node.name.to_string(),
                region: node.region.to_string(),
                peer: node.addresses.peer.clone(),
            };
            commit("add a learner", raft.add_learner(id.0, node, false)).await;
        }
        Step::Promote(_) | Step::Replace { .. } | Step::Demote(_) => {
            let next: BTreeSet<u64> = after(voters, step).into_iter().map(|id| id.0).collect();
            // A leader that shall vote no more first hands over to one that stays.
            if !next.contains(&control.own.0) {
                handover::hand_over(control).await;
                return;
            }
            commit("change voters", raft.change_membership(next, false)).await;
        }
    }
}

async fn commit<T, E: std::fmt::Display>(what: &str, change: impl Future<Output = Result<T, E>>) {
    match tokio::time::timeout(CHANGE_TIMEOUT, change).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, what, "the raft group is unchanged"),
        Err(_) => tracing::info!(what, "a change of the raft group was not committed within 5 s"),
    }
}
