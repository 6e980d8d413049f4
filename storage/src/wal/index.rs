//! What the log holds, in memory: where each entry lies, the youngest ones whole.

use std::collections::VecDeque;

use bytes::Bytes;

/// Entries kept whole in memory, in bytes; older ones are read from their segment.
pub(super) const CACHE_BYTES_MAX: usize = 16 << 20;

/// Where an entry's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    /// The record's length, header and padding included.
    pub len: u32,
}

/// Names one appended entry, also when another one takes its index later.
pub(super) type Ticket = u64;

/// An entry, or where to read it.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Cached(Bytes),
    At(Place),
}

#[derive(Debug)]
struct Slot {
    ticket: Ticket,
    len: usize,
    place: Option<Place>,
    cached: Option<Bytes>,
}

/// The entries by log index: consecutive, from the first that is held.
#[derive(Debug)]
pub(super) struct Index {
    first: u64,
    slots: VecDeque<Slot>,
    tickets: Ticket,
    /// All entries held, in bytes.
    bytes: u64,
    cached_bytes: usize,
    cache_bytes_max: usize,
    /// Slots before this one (counted from `first`) are not cached any more.
    evicted: usize,
}

impl Index {
    pub(super) const fn new(cache_bytes_max: usize) -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            tickets: 0,
            bytes: 0,
            cached_bytes: 0,
            cache_bytes_max,
            evicted: 0,
        }
    }

    /// The first and last index held; none when empty.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        (!self.slots.is_empty()).then(|| (self.first, self.first + self.slots.len() as u64 - 1))
    }

    /// All entries held, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first index from which on the entries held are at most so many and so many bytes.
    pub(super) fn newest(&self, entries_max: usize, bytes_max: u64) -> u64 {
        let mut bytes = 0;
        let newest = self.slots.iter().rev().take(entries_max).take_while(|slot| {
            bytes += slot.len as u64;
            bytes <= bytes_max
        });
        self.first + (self.slots.len() - newest.count()) as u64
    }

    /// Whether an entry of this index may come next.
    pub(super) fn accepts(&self, index: u64) -> bool {
        self.range().is_none_or(|(_, last)| index == last + 1)
    }

    /// Adds an entry that [`accepts`](Self::accepts) has let in.
    pub(super) fn push(&mut self, index: u64, bytes: Bytes, place: Option<Place>) -> Ticket {
        if self.slots.is_empty() {
            self.first = index;
            self.evicted = 0;
        }
        self.tickets += 1;
        self.bytes += bytes.len() as u64;
        self.cached_bytes += bytes.len();
        let ticket = self.tickets;
        self.slots.push_back(Slot { ticket, len: bytes.len(), place, cached: Some(bytes) });
        self.evict();
        ticket
    }

    /// Notes where an entry was written, if it is still held.
    pub(super) fn placed(&mut self, index: u64, ticket: Ticket, place: Place) {
        let Some(at) = index.checked_sub(self.first) else { return };
        if let Some(slot) = self.slots.get_mut(at as usize)
            && slot.ticket == ticket
        {
            slot.place = Some(place);
        }
    }

    /// Drops the entries from this index on.
    pub(super) fn truncate_from(&mut self, from: u64) {
        let keep = from.saturating_sub(self.first).min(self.slots.len() as u64) as usize;
        for slot in self.slots.drain(keep..) {
            self.bytes -= slot.len as u64;
            self.cached_bytes -= slot.cached.map_or(0, |bytes| bytes.len());
        }
        self.evicted = self.evicted.min(self.slots.len());
    }

    /// Drops the entries up to this index, inclusive.
    pub(super) fn purge(&mut self, upto: u64) {
        let drop = (upto + 1).saturating_sub(self.first).min(self.slots.len() as u64) as usize;
        for slot in self.slots.drain(..drop) {
            self.bytes -= slot.len as u64;
            self.cached_bytes -= slot.cached.map_or(0, |bytes| bytes.len());
        }
        self.first += drop as u64;
        self.evicted = self.evicted.saturating_sub(drop);
    }

    /// The entries of a half-open range that are held, until so many bytes are exceeded; at least
    /// the first.
    pub(super) fn find(&self, from: u64, to: u64, bytes_max: usize) -> Vec<(u64, Found)> {
        let from = from.max(self.first);
        let to = to.min(self.first + self.slots.len() as u64);
        let mut found = Vec::new();
        let mut bytes = 0_usize;
        for index in from..to {
            let slot = &self.slots[(index - self.first) as usize];
            bytes = bytes.saturating_add(slot.len);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let entry = match (&slot.cached, slot.place) {
                (Some(bytes), _) => Found::Cached(bytes.clone()),
                (None, Some(place)) => Found::At(place),
                (None, None) => unreachable!("only placed entries leave the cache"),
            };
            found.push((index, entry));
        }
        found
    }

    fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes_max
            && let Some(slot) = self.slots.get_mut(self.evicted)
            && slot.place.is_some()
        {
            self.cached_bytes -= slot.cached.take().map_or(0, |bytes| bytes.len());
            self.evicted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(index: &Index) -> Vec<u64> {
        index.find(0, u64::MAX, usize::MAX).into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn entries_come_and_go_at_both_ends() {
        let mut index = Index::new(CACHE_BYTES_MAX);
        assert!(index.accepts(7));
        for i in 7..12 {
            assert!(index.accepts(i));
            index.push(i, Bytes::from_static(b"x"), None);
        }
        assert!(!index.accepts(13));
        index.truncate_from(10);
        index.purge(7);
        assert_eq!(indexes(&index), [8, 9]);
        index.purge(20);
        assert_eq!(index.range(), None);
        assert_eq!((index.cached_bytes, index.bytes()), (0, 0));
    }

    #[test]
    fn the_newest_entries_are_bounded_by_number_and_by_bytes() {
        let mut index = Index::new(CACHE_BYTES_MAX);
        for i in 5..10 {
            index.push(i, Bytes::from_static(b"ten bytes!"), None);
        }
        assert_eq!(index.bytes(), 50);
        assert_eq!(index.newest(2, 1_000), 8);
        assert_eq!(index.newest(100, 35), 7);
        assert_eq!(index.newest(100, 1_000), 5);
        assert_eq!(index.newest(100, 9), 10);
    }

    #[test]
    fn old_placed_entries_leave_the_cache_and_unplaced_ones_stay() {
        let mut index = Index::new(2);
        let place = Place { segment: 1, offset: 64, len: 40 };
        let first = index.push(1, Bytes::from_static(b"aa"), None);
        index.push(2, Bytes::from_static(b"bb"), None);
        assert!(matches!(index.find(1, 2, 9)[0].1, Found::Cached(_)));
        index.placed(1, first, place);
        index.push(3, Bytes::from_static(b"cc"), None);
        assert!(matches!(index.find(1, 2, 9)[0].1, Found::At(at) if at == place));
        assert!(matches!(index.find(2, 3, 9)[0].1, Found::Cached(_)));
    }

    #[test]
    fn a_place_for_a_replaced_entry_is_ignored() {
        let mut index = Index::new(CACHE_BYTES_MAX);
        let old = index.push(1, Bytes::from_static(b"a"), None);
        index.truncate_from(1);
        index.push(1, Bytes::from_static(b"b"), None);
        index.placed(1, old, Place { segment: 1, offset: 64, len: 40 });
        assert_eq!(index.slots[0].place, None);
    }
}
