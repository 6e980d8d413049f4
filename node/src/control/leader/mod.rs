//! What follows from decisions, done by whoever leads: voters, plans, rollouts, the keys of gossip.
//!
//! Each step looks at the state and the view, and proposes at most what one pure function
//! says; a step that fails is simply taken again. None is taken before all that was committed under
//! earlier leaders is applied here, and what a step proposes is for its own leader only: nothing is
//! decided by a state that is past.

mod authorities;
mod disk;
mod gossip_keys;
mod grace;
mod level;
mod members;
mod planner;
mod rollout;

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use authorities::prefix;
pub(crate) use rollout::{progress, unaware};

use super::propose::Control;
use crate::identity::Own;
use grace::Grace;

/// The steps are taken on every change, and at least this often.
const INTERVAL: Duration = Duration::from_millis(500);
/// Changes that come together are answered together.
const SETTLE: Duration = Duration::from_millis(10);

/// Takes the leader's steps while this node leads, until cancelled.
///
/// A node that is dead for `replace_after` loses its assignments and its vote.
pub(crate) async fn lead_when_leader(
    control: Control,
    identity: Own,
    replace_after: Duration,
    stop: CancellationToken,
) {
    let mut health = control.health.changes();
    let mut decided = control.decided.changes();
    let mut seen = control.seen.changes();
    let grace = Grace::new(control.absences.clone(), replace_after);
    let mut placed = rollout::Placed::default();
    let mut rotation = gossip_keys::Rotation::default();
    let mut judge = disk::Judge::default();
    let mut leading = None;
    loop {
        let now = health.borrow_and_update().clone();
        decided.borrow_and_update();
        seen.borrow_and_update();
        if now.leader == Some(control.own) && now.lost_since.is_none() {
            // First, and without the rest: a disk that is full may be why it does not catch up.
            disk::step(&control, &mut judge).await;
            if leading != Some(now.term) {
                match control.caught_up_as_leader().await {
                    Ok(()) => {
                        leading = Some(now.term);
                        control.absences.forget();
                        placed = rollout::Placed::default();
                        rotation = gossip_keys::Rotation::default();
                        tracing::info!(term = now.term, "this node leads");
                    }
                    Err(error) => tracing::debug!(%error, term = now.term, "not ready to lead"),
                }
            }
            if leading == Some(now.term) {
                let at = Instant::now();
                control.absences.observe(&control.decided.state(), &control.seen.now(), at);
                gossip_keys::step(&control, &mut rotation).await;
                level::step(&control).await;
                planner::step(&control, &grace, &mut placed).await;
                rollout::step(&control, &mut placed).await;
                members::step(&control, &grace).await;
                authorities::step(&control, &grace, &identity).await;
            }
        } else if leading.take().is_some() {
            tracing::info!(term = now.term, leader = ?now.leader, "this node leads no more");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = health.changed() => if changed.is_err() { return },
            changed = decided.changed() => if changed.is_err() { return },
            changed = seen.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
        tokio::time::sleep(SETTLE).await;
    }
}
