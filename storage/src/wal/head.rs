//! What the log says beside its entries, and which entries it should hold.

use bytes::Bytes;

use super::record::{RecordKind, split_index};

/// The sum of the records so far. The writer repeats it at the head of each new segment, and
/// recovery computes it again and compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    /// The last purged index and the bytes of its log id.
    pub purged: Option<(u64, Bytes)>,
    /// The first and last entry held.
    pub held: Option<(u64, u64)>,
}

impl Head {
    /// Takes note of a record. False when it cannot follow those before.
    pub(super) fn note(&mut self, kind: RecordKind, payload: &[u8]) -> bool {
        match kind {
            RecordKind::Begin => {}
            RecordKind::Vote => self.vote = Some(Bytes::copy_from_slice(payload)),
            RecordKind::Committed => self.committed = Some(Bytes::copy_from_slice(payload)),
            RecordKind::Entry => {
                let Some((index, _)) = split_index(payload) else { return false };
                return self.entry(index);
            }
            RecordKind::Truncate => {
                let Some((from, _)) = split_index(payload) else { return false };
                self.truncate_from(from);
            }
            RecordKind::Purge => {
                let Some((upto, id)) = split_index(payload) else { return false };
                self.purge(upto, Bytes::copy_from_slice(id));
            }
        }
        true
    }

    pub(super) fn entry(&mut self, index: u64) -> bool {
        match &mut self.held {
            None => self.held = Some((index, index)),
            Some((_, last)) if *last + 1 == index => *last = index,
            Some(_) => return false,
        }
        true
    }

    pub(super) fn truncate_from(&mut self, from: u64) {
        self.held = self.held.and_then(|(first, last)| {
            let last = last.min(from.checked_sub(1)?);
            (first <= last).then_some((first, last))
        });
    }

    pub(super) fn purge(&mut self, upto: u64, id: Bytes) {
        self.held = self.held.and_then(|(first, last)| {
            let first = first.max(upto + 1);
            (first <= last).then_some((first, last))
        });
        self.purged = Some((upto, id));
    }
}
