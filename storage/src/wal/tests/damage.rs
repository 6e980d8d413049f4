//! Every kind of damage at every place: detected, or without effect; never a shorter log that
//! looks whole, never a panic.

use std::path::PathBuf;

use super::*;

/// A closed log of several segments with entries, votes, a truncation and a purge.
fn sample() -> (FaultyDisk, Said) {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    for index in 1..=30 {
        append(&wal, [(index, bytes(index, 60))]).unwrap();
    }
    let (done, answered) = answer();
    wal.save_vote(Bytes::from_static(b"a vote"), done).unwrap();
    answered.recv().unwrap().unwrap();
    let (done, answered) = answer();
    wal.truncate_from(29, done).unwrap();
    answered.recv().unwrap().unwrap();
    let (done, answered) = answer();
    wal.purge(8, Bytes::from_static(b"id 8"), done).unwrap();
    answered.recv().unwrap().unwrap();
    for index in 29..=45 {
        append(&wal, [(index, bytes(index, 60))]).unwrap();
    }
    let said = said(&wal);
    drop(wal);
    assert!(segments(&disk).len() >= 3);
    (disk, said)
}

/// Damages a copy of the log and opens it: it must be refused or be whole.
fn refused_or_whole(
    disk: &FaultyDisk,
    said_before: &Said,
    what: &str,
    damage: impl FnOnce(&FaultyDisk),
) -> bool {
    let copy = disk.copy();
    damage(&copy);
    match open(&copy) {
        Ok(wal) => {
            assert_eq!(&said(&wal), said_before, "{what}: opened with something else");
            false
        }
        Err(Error::Corrupt { .. } | Error::NewerFormat { .. }) => true,
        Err(error) => panic!("{what}: {error}"),
    }
}

fn tail_mark() -> PathBuf {
    Path::new(FOLDER).join("tail")
}

#[test]
fn a_flipped_bit_anywhere_is_detected_or_without_effect() {
    let (disk, before) = sample();
    let mut refused = 0;
    let mut cases = 0;
    for path in segments(&disk) {
        let len = disk.bytes(&path).unwrap().len();
        for at in 0..len {
            let what = format!("bit {} of byte {at} of {}", at % 8, path.display());
            let flip = |disk: &FaultyDisk| disk.damage(&path, |b| b[at] ^= 1 << (at % 8));
            refused += usize::from(refused_or_whole(&disk, &before, &what, flip));
            cases += 1;
        }
    }
    assert!(cases > 2000 && refused > cases / 2, "{refused} of {cases} refused");
}

#[test]
fn without_the_tail_mark_only_the_last_batch_can_pass_for_torn() {
    use crate::disk::Disk as _;
    let (disk, before) = sample();
    disk.remove(&tail_mark()).unwrap();
    let mut shorter = before.clone();
    shorter.entries.pop();
    for path in segments(&disk) {
        let len = disk.bytes(&path).unwrap().len();
        for at in 0..len {
            let copy = disk.copy();
            copy.damage(&path, |bytes| bytes[at] ^= 0x10);
            match open(&copy) {
                Ok(wal) => {
                    let said = said(&wal);
                    assert!(said == before || said == shorter, "byte {at} of {}", path.display());
                }
                Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
            }
        }
    }
}

#[test]
fn zeroed_blocks_and_cut_files_are_detected_or_without_effect() {
    let (disk, before) = sample();
    for path in segments(&disk) {
        let len = disk.bytes(&path).unwrap().len();
        for at in (0..len).step_by(16) {
            let what = format!("from byte {at} of {}", path.display());
            for block in [16, 512, 4096] {
                refused_or_whole(&disk, &before, &what, |disk| {
                    disk.damage(&path, |bytes| bytes[at..len.min(at + block)].fill(0));
                });
            }
            refused_or_whole(&disk, &before, &what, |disk| {
                disk.damage(&path, |bytes| bytes.truncate(at));
            });
        }
    }
}

#[test]
fn missing_and_swapped_segments_are_detected() {
    use crate::disk::Disk as _;
    let (disk, before) = sample();
    let all = segments(&disk);
    for (at, path) in all.iter().enumerate() {
        let what = format!("{} missing", path.display());
        assert!(refused_or_whole(&disk, &before, &what, |disk| disk.remove(path).unwrap()));
        let other = &all[(at + 1) % all.len()];
        let what = format!("{} and {} swapped", path.display(), other.display());
        assert!(refused_or_whole(&disk, &before, &what, |disk| {
            let bytes = (disk.bytes(path).unwrap(), disk.bytes(other).unwrap());
            disk.damage(path, |it| *it = bytes.1);
            disk.damage(other, |it| *it = bytes.0);
        }));
    }
    assert!(refused_or_whole(&disk, &before, "all missing", |disk| {
        all.iter().for_each(|path| disk.remove(path).unwrap());
    }));
}

#[test]
fn a_damaged_tail_mark_costs_nothing() {
    let (disk, before) = sample();
    for at in 0..32 {
        let flip = |disk: &FaultyDisk| disk.damage(&tail_mark(), |bytes| bytes[at] ^= 4);
        assert!(!refused_or_whole(&disk, &before, "tail mark", flip));
    }
}

#[test]
fn garbage_behind_the_end_is_cut_and_the_log_goes_on() {
    let (disk, before) = sample();
    let last = segments(&disk).pop().unwrap();
    let end = disk.bytes(&last).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    disk.damage(&last, |bytes| {
        let from = end.next_multiple_of(8);
        let to = bytes.len().min(from + 300);
        bytes[from..to].fill(0xa5);
    });
    let wal = open(&disk).unwrap();
    assert_eq!(said(&wal), before);
    append(&wal, [(46, bytes(46, 60))]).unwrap();
    drop(wal);
    assert_eq!(said(&open(&disk).unwrap()).entries.last().unwrap().0, 46);
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let (disk, _) = sample();
    let first = segments(&disk).remove(0);
    disk.damage(&first, |bytes| {
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("format 9") && error.contains("up to 1"), "{error}");
}
