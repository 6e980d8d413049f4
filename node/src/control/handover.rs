//! Giving leadership away before this node stops or loses its vote: the others need not find out
//! by silence, and no write waits for an election's time-out.

use std::cmp::Reverse;
use std::time::Duration;

use nigh_model::NodeId;
use openraft::async_runtime::WatchReceiver as _;

use super::propose::Control;
use crate::seen::Liveness;

/// A voter that does not lead by then is passed over: an election and a round trip fit in.
const HEIR_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Voters asked to take over.
const HEIRS_MAX: usize = 2;

/// Hands leadership to the voter that has most of the log. True when another leads, or nobody
/// needs to; false when this node still does, as no other voter can.
pub(crate) async fn hand_over(control: &Control) -> bool {
    let leads = |leader: Option<NodeId>| leader == Some(control.own);
    if !leads(control.health.now().leader) {
        return true;
    }
    for heir in heirs(control).into_iter().take(HEIRS_MAX) {
        if let Err(error) = control.raft.trigger().transfer_leader(heir.0).await {
            tracing::debug!(%error, %heir, "leadership not handed over");
            continue;
        }
        let mut changes = control.health.changes();
        let handed_over = changes.wait_for(|health| !leads(health.leader));
        if matches!(tokio::time::timeout(HEIR_TIMEOUT, handed_over).await, Ok(Ok(_))) {
            tracing::info!(%heir, "leadership handed over");
            return true;
        }
    }
    false
}

/// Voters that may lead, those with most of the log first.
fn heirs(control: &Control) -> Vec<NodeId> {
    let metrics = control.raft.metrics().borrow_watched().clone();
    let state = control.decided.state();
    let view = control.seen.now();
    let can_lead = |id: &NodeId| {
        *id != control.own
            && !state.is_draining(*id)
            && view.liveness(*id) == Liveness::Alive
            && !view.nodes.get(id).is_some_and(|seen| seen.report.draining)
            && !control.peers.is_ejected(*id)
    };
    let matched = |id: &NodeId| {
        let log = metrics.replication.as_ref().and_then(|matched| *matched.get(&id.0)?);
        log.map(|log| log.index)
    };
    let voters = metrics.membership_config.membership().voter_ids().map(NodeId);
    let mut heirs: Vec<NodeId> = voters.filter(can_lead).collect();
    heirs.sort_by_key(|id| (Reverse(matched(id)), *id));
    heirs
}
