//! A leader whose disk is full or slow hands over: every commit waits for the leader's own sync
//! or finds no room, while a follower's is not waited for.
//!
//! Whether and to whom is decided purely, from this node's log and what the others say of theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use nigh_model::NodeId;
use tokio::time::Instant;

use crate::control::propose::Control;
use crate::seen::{DiskReport, DiskState, Liveness};

/// A sync that takes this long, on average, is slow: disks of busy machines take a tenth of it.
const SLOW_MS: u32 = 50;
/// It is slow for so long before leadership moves: that costs an election.
const SLOW_FOR: Duration = Duration::from_secs(2);
/// Another's disk is better when its syncs take this part of the own at most.
const BETTER_FACTOR: u32 = 4;
/// Between two hand-overs: where all disks are bad, leadership does not go round.
const PAUSE: Duration = Duration::from_secs(10);

/// Remembers what it judged.
#[derive(Debug, Default)]
pub(super) struct Judge {
    slow_since: Option<Instant>,
    handed_over: Option<Instant>,
}

impl Judge {
    /// Who shall lead instead; none: this node goes on. `others` are the other voters that live.
    fn judge(
        &mut self,
        now: Instant,
        own: DiskReport,
        others: &BTreeMap<NodeId, DiskReport>,
    ) -> Option<NodeId> {
        if own.sync_ms < SLOW_MS {
            self.slow_since = None;
        } else {
            self.slow_since.get_or_insert(now);
        }
        if self.handed_over.is_some_and(|at| now.duration_since(at) < PAUSE) {
            return None;
        }
        let fit = others.iter().filter(|(_, disk)| disk.state == DiskState::Fine);
        let (heir, best) = fit.min_by_key(|(id, disk)| (disk.sync_ms, **id))?;
        let slow = self.slow_since.is_some_and(|since| now.duration_since(since) >= SLOW_FOR);
        let better = best.sync_ms.saturating_mul(BETTER_FACTOR) <= own.sync_ms;
        if own.state == DiskState::Fine && !(slow && better) {
            return None;
        }
        self.handed_over = Some(now);
        self.slow_since = None;
        Some(*heir)
    }
}

/// Hands leadership over when this node's disk says so.
pub(super) async fn step(control: &Control, judge: &mut Judge) {
    let view = control.seen.now().clone();
    let others = control.health.now().voters.into_iter().filter(|id| *id != control.own);
    let lives =
        |id: &NodeId| view.liveness(*id) == Liveness::Alive && !control.peers.is_ejected(*id);
    let others = others.filter(lives).map(|id| (id, view.nodes[&id].report.disk)).collect();
    let own = DiskReport::of(&control.log.health());
    let Some(heir) = judge.judge(Instant::now(), own, &others) else { return };
    tracing::warn!(
        to = %heir, state = ?own.state, sync_ms = own.sync_ms,
        "the disk of this node is no disk for a leader: leadership is handed over"
    );
    if let Err(error) = control.raft.trigger().transfer_leader(heir.0).await {
        tracing::debug!(%error, "leadership not handed over");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(state: DiskState, sync_ms: u32) -> DiskReport {
        DiskReport { state, sync_ms }
    }

    fn others(given: &[(u64, DiskReport)]) -> BTreeMap<NodeId, DiskReport> {
        given.iter().map(|(id, disk)| (NodeId(*id), *disk)).collect()
    }

    #[test]
    fn a_full_disk_hands_over_at_once_to_the_fastest_that_has_room() {
        let now = Instant::now();
        let full = disk(DiskState::Full, 1);
        let all = others(&[
            (2, disk(DiskState::Full, 0)),
            (3, disk(DiskState::Fine, 8)),
            (4, disk(DiskState::Fine, 4)),
        ]);
        let mut judge = Judge::default();
        assert_eq!(judge.judge(now, full, &all), Some(NodeId(4)));
        assert_eq!(judge.judge(now + PAUSE / 2, full, &all), None, "it does not go round");
        assert_eq!(judge.judge(now + PAUSE, full, &all), Some(NodeId(4)));
        let nobody = others(&[(2, full), (3, disk(DiskState::Failed, 0))]);
        assert_eq!(Judge::default().judge(now, full, &nobody), None);
    }

    #[test]
    fn a_disk_hands_over_when_it_stays_slow_and_another_is_much_faster() {
        let now = Instant::now();
        let slow = disk(DiskState::Fine, 128);
        let fast = others(&[(2, disk(DiskState::Fine, 1))]);
        let mut judge = Judge::default();
        assert_eq!(judge.judge(now, slow, &fast), None);
        assert_eq!(judge.judge(now + SLOW_FOR, slow, &fast), Some(NodeId(2)));

        let mut judge = Judge::default();
        judge.judge(now, slow, &fast);
        judge.judge(now + SLOW_FOR / 2, disk(DiskState::Fine, 2), &fast);
        assert_eq!(judge.judge(now + SLOW_FOR, slow, &fast), None, "it was fast meanwhile");

        let mut judge = Judge::default();
        let also_slow = others(&[(2, disk(DiskState::Fine, 64))]);
        judge.judge(now, slow, &also_slow);
        assert_eq!(judge.judge(now + 2 * SLOW_FOR, slow, &also_slow), None);
    }
}
