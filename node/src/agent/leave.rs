//! Before this node is let go: what only it has is copied to others.

use std::collections::BTreeSet;
use std::time::Duration;

use nigh_model::{Digest, NodeId, Region, State};
use tokio_util::sync::CancellationToken;

use super::replicate::Copies;
use crate::decided::Decided;

/// A component of which no copy could be made is tried again after this.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// While this node drains, sees to it that enough others hold each component that revisions are
/// made of, those kept for a rollback among them; until cancelled.
pub(crate) async fn keep_copies_elsewhere(
    own: NodeId,
    decided: Decided,
    copies: Copies,
    stop: CancellationToken,
) {
    let mut changes = decided.changes();
    let mut done = BTreeSet::new();
    let mut done_with = 0;
    loop {
        changes.borrow_and_update();
        let state = decided.state();
        if !state.is_draining(own) {
            done.clear();
        } else {
            // Who may have copies, and of what, may have changed.
            if done_with != state.plan_basis {
                done_with = state.plan_basis;
                done.clear();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = copy(&state, &copies, &mut done) => {}
            }
        }
        let missing = state.is_draining(own) && done.len() < state.components().len();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY_INTERVAL), if missing => {}
        }
    }
}

async fn copy(state: &State, copies: &Copies, done: &mut BTreeSet<Digest>) {
    for digest in state.components() {
        if done.contains(&digest) {
            continue;
        }
        let allowed = |region: &Region| may_be_in(state, &digest, region);
        match copies.ensure_copies_elsewhere(digest, allowed).await {
            Ok(()) => _ = done.insert(digest),
            Err(error) => tracing::info!(component = %digest, %error, "not yet copied elsewhere"),
        }
    }
}

/// Whether a revision that is made of the component may be in the region.
fn may_be_in(state: &State, digest: &Digest, region: &Region) -> bool {
    let revisions = state.apps.values().flat_map(|app| app.revisions.values());
    let mut functions = revisions.flat_map(|revision| revision.spec.functions.values());
    functions.any(|spec| spec.component == *digest && spec.placement.allows(region))
}
