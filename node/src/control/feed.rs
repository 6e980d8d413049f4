//! The last entries applied on this replica, for those who follow it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

/// Entries kept: a watcher that is further behind starts anew from a snapshot.
const ENTRIES_KEPT: usize = 8_192;
/// Bytes of entries kept, for the same reason.
const BYTES_KEPT: usize = 32 << 20;
/// Most entries handed out at once.
const BATCH_MAX: usize = 256;

/// An applied entry; no bytes when it carried no command.
pub(crate) type Entry = (u64, Option<Bytes>);

/// What a watcher that has applied up to some index gets next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// These follow.
    Entries(Vec<Entry>),
    /// Nothing yet.
    UpToDate,
    /// What follows is no longer kept, or the watcher is ahead of this replica.
    Unknown,
}

/// The last entries applied here.
#[derive(Clone)]
pub(crate) struct Feed {
    ring: Arc<Mutex<Ring>>,
    last: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Everything up to here is applied; the entries end here.
    last: u64,
}

impl Feed {
    /// Nothing kept; the state is at `applied`.
    pub(crate) fn new(applied: u64) -> Self {
        let ring = Ring { last: applied, ..Ring::default() };
        Self { ring: Arc::new(Mutex::new(ring)), last: Arc::new(watch::channel(applied).0) }
    }

    /// Notes entries applied in this order. A gap (after a snapshot) empties what was kept.
    pub(crate) fn push(&self, applied: u64, entries: Vec<Entry>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = entries.first().map_or(applied + 1, |(index, _)| *index);
        if first != ring.last + 1 {
            ring.entries.clear();
            ring.bytes = 0;
        }
        for entry in entries {
            ring.bytes += entry.1.as_ref().map_or(0, Bytes::len);
            ring.entries.push_back(entry);
        }
        while ring.entries.len() > ENTRIES_KEPT || ring.bytes > BYTES_KEPT {
            let Some((_, bytes)) = ring.entries.pop_front() else { break };
            ring.bytes -= bytes.map_or(0, |bytes| bytes.len());
        }
        ring.last = applied;
        drop(ring);
        self.last.send_replace(applied);
    }

    /// What follows `after`.
    pub(crate) fn next(&self, after: u64) -> Next {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if after == ring.last {
            return Next::UpToDate;
        }
        let Some((first, _)) = ring.entries.front() else { return Next::Unknown };
        if after > ring.last || after + 1 < *first {
            return Next::Unknown;
        }
        let skip = (after + 1 - first) as usize;
        Next::Entries(ring.entries.iter().skip(skip).take(BATCH_MAX).cloned().collect())
    }

    /// Follows the last applied index.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        range.map(|index| (index, Some(Bytes::from(vec![0; 8])))).collect()
    }

    #[test]
    fn a_watcher_gets_what_follows_or_is_told_to_start_anew() {
        let feed = Feed::new(4);
        assert_eq!(feed.next(4), Next::UpToDate);
        assert_eq!(feed.next(3), Next::Unknown);
        feed.push(7, entries(5..=7));
        assert_eq!(feed.next(4), Next::Entries(entries(5..=7)));
        assert_eq!(feed.next(6), Next::Entries(entries(7..=7)));
        assert_eq!(feed.next(7), Next::UpToDate);
        assert_eq!(feed.next(3), Next::Unknown);
        assert_eq!(feed.next(8), Next::Unknown);
    }

    #[test]
    fn a_snapshot_in_between_empties_it() {
        let feed = Feed::new(0);
        feed.push(3, entries(1..=3));
        feed.push(10, Vec::new());
        assert_eq!(feed.next(3), Next::Unknown);
        assert_eq!(feed.next(10), Next::UpToDate);
    }

    #[test]
    fn old_entries_are_let_go() {
        let feed = Feed::new(0);
        let many = ENTRIES_KEPT as u64 + 100;
        feed.push(many, entries(1..=many));
        assert_eq!(feed.next(50), Next::Unknown);
        assert!(matches!(feed.next(100), Next::Entries(batch) if batch.len() == BATCH_MAX));
    }
}
