//! I/O errors: every waiting and every later write is answered, none with success.

use super::*;
use crate::disk::Op;

/// Queues appends behind one that holds the writer, then lets the disk fail.
fn fail_with_waiters(op: Op, errno: i32) -> (FaultyDisk, Wal, Vec<Answer>) {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    append(&wal, [(1, bytes(1, 9))]).unwrap();
    let (reached, is_reached) = channel::<()>();
    let (release, held) = channel::<()>();
    let hold = move |_| {
        reached.send(()).unwrap();
        _ = held.recv();
    };
    wal.append(vec![(2, bytes(2, 9))], hold).unwrap();
    is_reached.recv().unwrap();
    // Far more than one segment, so that a new one must be made.
    let waiting = (3..40).map(|index| {
        let (done, answered) = answer();
        wal.append(vec![(index, bytes(index, 200))], done).unwrap();
        answered
    });
    let waiting = waiting.collect();
    disk.fail_from(op, 1, errno);
    release.send(()).unwrap();
    (disk, wal, waiting)
}

#[test]
fn every_waiter_and_every_later_write_is_refused_after_an_error() {
    for op in [Op::Write, Op::Sync, Op::Create, Op::SyncDir] {
        let (disk, wal, waiting) = fail_with_waiters(op, libc::EIO);
        for answered in waiting {
            answered.recv().expect("every callback is called").unwrap_err();
        }
        disk.heal();
        assert!(wal.failure().is_some());
        assert!(matches!(append(&wal, [(40, bytes(40, 1))]), Err(Error::Poisoned { .. })));
        let (done, answered) = answer();
        assert!(wal.save_vote(Bytes::from_static(b"v"), done).is_err());
        answered.recv().expect("every callback is called").unwrap_err();
        assert!(wal.save_committed(Bytes::from_static(b"c")).is_err());
        drop(wal);
        let found = said(&open(&disk).unwrap());
        assert_eq!(found.entries[0].1, bytes(1, 9), "{op:?}");
        assert_eq!(found.entries[1].1, bytes(2, 9), "{op:?}");
    }
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    append(&wal, [(1, bytes(1, 9))]).unwrap();
    disk.fail(Op::Sync, 1, libc::EIO);
    append(&wal, [(2, bytes(2, 9))]).unwrap_err();
    let before = disk.counts()[&Op::Sync];
    append(&wal, [(3, bytes(3, 9))]).unwrap_err();
    drop(wal);
    assert_eq!(disk.counts()[&Op::Sync], before);
}

#[test]
fn a_full_disk_is_said_as_such_and_loses_nothing() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    disk.limit(3 * SIZES.segment_bytes);
    let mut held = 0;
    let error = (1..).find_map(|index| match append(&wal, [(index, bytes(index, 100))]) {
        Ok(()) => {
            held = index;
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(error.unwrap().kind(), nigh_model::Kind::Exhausted);
    drop(wal);
    disk.heal();
    let wal = open(&disk).unwrap();
    assert!(wal.range().unwrap().1 >= held);
    append(&wal, [(wal.range().unwrap().1 + 1, bytes(0, 100))]).unwrap();
}

#[test]
fn short_writes_are_completed() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    disk.write_short();
    append(&wal, (1..=30).map(|index| (index, bytes(index, 100)))).unwrap();
    let before = said(&wal);
    drop(wal);
    disk.cut_power(3);
    assert_eq!(said(&open(&disk).unwrap()), before);
}

#[test]
fn a_damaged_entry_that_is_read_again_is_an_error() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    append(&wal, (1..=30).map(|index| (index, bytes(index, 100)))).unwrap();
    append(&wal, [(31, bytes(31, 2000))]).unwrap();
    assert!(wal.read_cached(1, 2, 0).is_none(), "the first entry has left the cache");
    for path in segments(&disk) {
        disk.damage(&path, |bytes| bytes.iter_mut().skip(64).for_each(|byte| *byte ^= 1));
    }
    assert!(matches!(wal.read(1, 2, 0), Err(Error::Corrupt { .. })));
}
