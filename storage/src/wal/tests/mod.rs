//! The log on a disk that fails, fills up, is damaged and loses its power.

mod damage;
mod failure;
mod power;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;

use super::{Sizes, Wal};
use crate::disk::FaultyDisk;
use crate::error::Error;

const FOLDER: &str = "/log";
/// Small, so that a few records fill a segment and leave the cache.
const SIZES: Sizes = Sizes { segment_bytes: 2048, cache_bytes_max: 1024 };

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    entries: Vec<(u64, Bytes)>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
}

fn open(disk: &FaultyDisk) -> Result<Wal, Error> {
    Wal::open_with(Arc::new(disk.power_on()), Path::new(FOLDER), SIZES)
}

fn said(wal: &Wal) -> Said {
    Said {
        entries: wal.read(0, u64::MAX, usize::MAX).unwrap(),
        vote: wal.vote(),
        committed: wal.committed(),
        purged: wal.purged(),
    }
}

/// Where an answer comes.
type Answer = Receiver<Result<(), Error>>;

/// A callback and where its answer comes.
fn answer() -> (impl FnOnce(Result<(), Error>) + Send + 'static, Answer) {
    let (sender, receiver) = channel();
    (move |result| drop(sender.send(result)), receiver)
}

/// Appends and waits until it is held.
fn append(wal: &Wal, entries: impl IntoIterator<Item = (u64, Bytes)>) -> Result<(), Error> {
    let (done, answered) = answer();
    wal.append(entries.into_iter().collect(), done)?;
    answered.recv().expect("every callback is called")
}

/// An entry's bytes: its index and so many more.
fn bytes(index: u64, len: usize) -> Bytes {
    let mut bytes = format!("entry {index} ").into_bytes();
    bytes.resize(bytes.len() + len, b'0' + (index % 10) as u8);
    bytes.into()
}

fn segments(disk: &FaultyDisk) -> Vec<std::path::PathBuf> {
    use crate::disk::Disk as _;
    let names = disk.power_on().list(Path::new(FOLDER)).unwrap();
    let names = names.into_iter().filter(|name| super::segment::number(name).is_some());
    names.map(|name| Path::new(FOLDER).join(name)).collect()
}

#[test]
fn a_log_reads_back_what_it_was_told_over_many_segments() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    for index in 1..=60 {
        append(&wal, [(index, bytes(index, 100))]).unwrap();
    }
    let (done, voted) = answer();
    wal.save_vote(Bytes::from_static(b"vote"), done).unwrap();
    voted.recv().unwrap().unwrap();
    wal.save_committed(Bytes::from_static(b"committed")).unwrap();
    let before = said(&wal);
    assert_eq!(before.entries.len(), 60);
    assert!(segments(&disk).len() > 3);
    drop(wal);
    assert_eq!(said(&open(&disk).unwrap()), before);
}

#[test]
fn purged_segments_are_removed_and_vote_and_committed_stay() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    let (done, voted) = answer();
    wal.save_vote(Bytes::from_static(b"vote"), done).unwrap();
    voted.recv().unwrap().unwrap();
    wal.save_committed(Bytes::from_static(b"committed")).unwrap();
    append(&wal, (1..=60).map(|index| (index, bytes(index, 100)))).unwrap();
    for index in 61..=90 {
        append(&wal, [(index, bytes(index, 100))]).unwrap();
    }
    let many = segments(&disk).len();
    let (done, purged) = answer();
    wal.purge(88, Bytes::from_static(b"id 88"), done).unwrap();
    purged.recv().unwrap().unwrap();
    assert!(segments(&disk).len() < many.min(3), "{:?}", segments(&disk));
    drop(wal);
    let wal = open(&disk).unwrap();
    let found = said(&wal);
    assert_eq!(found.entries.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [89, 90]);
    assert_eq!(found.vote.as_deref(), Some(&b"vote"[..]));
    assert_eq!(found.committed.as_deref(), Some(&b"committed"[..]));
    assert_eq!(found.purged, Some((88, Bytes::from_static(b"id 88"))));
}

#[test]
fn all_that_is_queued_is_written_with_one_sync() {
    use crate::disk::Op;
    let disk = FaultyDisk::new();
    let wal = Wal::open(Arc::new(disk.clone()), Path::new(FOLDER)).unwrap();
    let (release, held) = channel::<()>();
    // The first answer holds the writer until the others are queued.
    wal.append(vec![(1, bytes(1, 9))], move |_| _ = held.recv()).unwrap();
    let waiting = (2..=50).map(|index| {
        let (done, answered) = answer();
        wal.append(vec![(index, bytes(index, 9))], done).unwrap();
        answered
    });
    let waiting = waiting.collect::<Vec<_>>();
    let before = disk.counts()[&Op::Sync];
    release.send(()).unwrap();
    for answered in waiting {
        answered.recv().unwrap().unwrap();
    }
    assert!(disk.counts()[&Op::Sync] - before <= 2, "49 appends took more than one batch");
}

#[test]
fn entries_can_be_read_before_they_are_held() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    let (release, held) = channel::<()>();
    wal.append(vec![(1, bytes(1, 9))], move |_| _ = held.recv()).unwrap();
    wal.append(vec![(2, bytes(2, 9))], |_| ()).unwrap();
    assert_eq!(wal.read(2, 3, 0).unwrap(), [(2, bytes(2, 9))]);
    release.send(()).unwrap();
}

#[test]
fn a_gap_is_refused_and_changes_nothing() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    append(&wal, [(1, bytes(1, 1))]).unwrap();
    assert!(matches!(append(&wal, [(3, bytes(3, 1))]), Err(Error::OutOfOrder { index: 3, .. })));
    append(&wal, [(2, bytes(2, 1))]).unwrap();
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    append(&wal, [(1, bytes(1, 10_000)), (2, bytes(2, 5))]).unwrap();
    drop(wal);
    assert_eq!(said(&open(&disk).unwrap()).entries[0].1, bytes(1, 10_000));
}

#[test]
fn a_log_that_is_open_is_not_opened_twice() {
    let disk = FaultyDisk::new();
    let _wal = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(Error::Locked { .. })));
}
