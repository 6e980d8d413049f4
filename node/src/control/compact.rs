//! Keeps the log short: says when a snapshot is due, and what of the log is kept behind it.
//!
//! Raft makes the snapshot beside its other work, of a copy of the state that shares what has not
//! changed since. It deliberately does not wait for it.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::propose::Control;

/// It is looked this often whether a snapshot is due.
const INTERVAL: Duration = Duration::from_secs(2);
/// Entries since the last snapshot that make one due: a restart applies them again.
const ENTRIES_MAX: u64 = 5_000;
/// The log's bytes that make one due: a restart reads them.
const BYTES_MAX: u64 = 64 << 20;
/// The age of the last snapshot that makes one due, where anything was decided since.
const AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// Entries kept behind a snapshot, for members that are a little behind …
pub(super) const ENTRIES_KEPT: usize = 2_000;
/// … and their bytes.
const BYTES_KEPT: u64 = 16 << 20;

/// What is known of the log.
#[derive(Clone, Copy, Debug)]
struct Log {
    applied: u64,
    /// Up to which entry the last snapshot goes.
    snapshot: u64,
    bytes: u64,
    /// The first index from which on so much is kept.
    newest: u64,
    purged: u64,
    /// The disk has no room.
    full: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Snapshot,
    /// Entries up to here go.
    Purge(u64),
}

/// What is due, when the last snapshot is so old.
fn due(log: Log, age: Duration) -> Due {
    let upto = log.newest.saturating_sub(1).min(log.snapshot);
    if upto > log.purged {
        return Due::Purge(upto);
    }
    let since = log.applied.saturating_sub(log.snapshot);
    let large = log.bytes > BYTES_MAX && since > 0;
    match since >= ENTRIES_MAX || large || (since > 0 && age >= AGE_MAX) {
        // Without room it would wait for some, and the log grows no more meanwhile.
        true if !log.full => Due::Snapshot,
        _ => Due::Nothing,
    }
}

/// Has snapshots made and the log purged when that is due, until cancelled or Raft has stopped.
pub(super) async fn keep_compact(control: Control, stop: CancellationToken) {
    let mut last = (0, Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let metrics = control.raft.metrics().borrow_watched().clone();
        let index = |id: Option<nigh_storage::raft::LogId>| id.map_or(0, |id| id.index);
        let log = Log {
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            bytes: control.log.bytes(),
            newest: control.log.newest(ENTRIES_KEPT, BYTES_KEPT),
            purged: index(metrics.purged),
            full: control.log.health().full,
        };
        if last.0 != log.snapshot {
            last = (log.snapshot, Instant::now());
        }
        let done = match due(log, last.1.elapsed()) {
            Due::Nothing => Ok(()),
            Due::Snapshot => control.raft.trigger().snapshot().await,
            Due::Purge(upto) => control.raft.trigger().purge_log(upto).await,
        };
        if done.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Log =
        Log { applied: 900, snapshot: 800, bytes: 1_000, newest: 700, purged: 699, full: false };
    const YOUNG: Duration = Duration::from_secs(1);

    #[test]
    fn a_snapshot_is_due_by_entries_by_bytes_and_by_age() {
        assert_eq!(due(LOG, YOUNG), Due::Nothing);
        assert_eq!(due(Log { applied: 5_800, ..LOG }, YOUNG), Due::Snapshot);
        assert_eq!(due(Log { bytes: BYTES_MAX + 1, ..LOG }, YOUNG), Due::Snapshot);
        assert_eq!(due(LOG, AGE_MAX), Due::Snapshot);
        assert_eq!(due(Log { applied: 800, ..LOG }, AGE_MAX), Due::Nothing);
        assert_eq!(due(Log { applied: 5_800, full: true, ..LOG }, YOUNG), Due::Nothing);
    }

    #[test]
    fn what_is_behind_a_snapshot_and_not_kept_goes() {
        assert_eq!(due(Log { newest: 750, ..LOG }, YOUNG), Due::Purge(749));
        assert_eq!(due(Log { newest: 890, ..LOG }, YOUNG), Due::Purge(800));
    }
}
