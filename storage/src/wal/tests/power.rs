//! Random lives of a log with power cuts between them, compared with a model.

use proptest::prelude::*;

use super::*;
use crate::disk::Op;
use crate::wal::record::RecordKind;

/// What is done to a log in one life.
#[derive(Clone, Debug)]
enum Act {
    /// Entries of these lengths.
    Append(Vec<usize>),
    /// Drop so many of the last entries.
    Truncate(u64),
    /// Drop so many of the first entries.
    Purge(u64),
    Vote(u8),
    Committed(u8),
    /// Wait until all so far is answered.
    Wait,
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// In order.
    Close,
    /// The power is cut.
    Cut(u64),
    /// A call fails; the process ends; the disk keeps its power.
    Fail(Op, u64),
    /// A call fails, and then the power is cut.
    FailAndCut(Op, u64, u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => proptest::collection::vec(0..400_usize, 1..5).prop_map(Act::Append),
        1 => (1..6_u64).prop_map(Act::Truncate),
        1 => (1..20_u64).prop_map(Act::Purge),
        1 => any::<u8>().prop_map(Act::Vote),
        1 => any::<u8>().prop_map(Act::Committed),
        2 => Just(Act::Wait),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let op = || prop_oneof![Just(Op::Write), Just(Op::Sync), Just(Op::Create), Just(Op::SyncDir)];
    prop_oneof![
        1 => Just(End::Close),
        3 => any::<u64>().prop_map(End::Cut),
        1 => (op(), 1..30_u64).prop_map(|(op, nth)| End::Fail(op, nth)),
        2 => (op(), 1..30_u64, any::<u64>()).prop_map(|(op, n, seed)| End::FailAndCut(op, n, seed)),
    ]
}

/// What the log would say after each record; all before `held` were acknowledged.
struct Model {
    after: Vec<Said>,
    held: usize,
}

impl Model {
    fn last(&self) -> &Said {
        self.after.last().expect("there is always a state")
    }

    fn step(&mut self, change: impl FnOnce(&mut Said)) {
        let mut next = self.last().clone();
        change(&mut next);
        self.after.push(next);
    }

    fn range(&self) -> Option<(u64, u64)> {
        let entries = &self.last().entries;
        Some((entries.first()?.0, entries.last()?.0))
    }

    fn next_index(&self) -> u64 {
        let purged = self.last().purged.as_ref().map_or(0, |(index, _)| *index);
        self.range().map_or(purged, |(_, last)| last) + 1
    }
}

/// An answer to come, and how many records were asked for up to it.
type Waiting = (usize, Answer);

/// Lives one life; answers that were not waited for are left.
fn live(wal: &Wal, acts: &[Act], model: &mut Model) -> Vec<Waiting> {
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut alive = true;
    for act in acts {
        let (done, answered) = answer();
        let sent = match act {
            Act::Append(lengths) => {
                let first = model.next_index();
                let entries = (first..).zip(lengths).map(|(i, len)| (i, bytes(i, *len)));
                let entries: Vec<_> = entries.collect();
                for entry in &entries {
                    model.step(|said| said.entries.push(entry.clone()));
                }
                wal.append(entries, done)
            }
            Act::Truncate(count) => {
                let Some((first, last)) = model.range() else { continue };
                let from = (last + 1).saturating_sub(*count).max(first);
                model.step(|said| said.entries.retain(|(index, _)| *index < from));
                wal.truncate_from(from, done)
            }
            Act::Purge(count) => {
                let Some((first, _)) = model.range() else { continue };
                let upto = first + count - 1;
                let id = bytes(upto, 3);
                model.step(|said| {
                    said.entries.retain(|(index, _)| *index > upto);
                    said.purged = Some((upto, id.clone()));
                });
                wal.purge(upto, id, done)
            }
            Act::Vote(vote) => {
                let vote = Bytes::from(vec![*vote; 9]);
                model.step(|said| said.vote = Some(vote.clone()));
                wal.save_vote(vote, done)
            }
            Act::Committed(id) => {
                let id = Bytes::from(vec![*id; 17]);
                model.step(|said| said.committed = Some(id.clone()));
                let _ = wal.save_committed(id);
                continue;
            }
            Act::Wait => {
                for waiting in waiting.drain(..) {
                    alive &= note(model, &waiting);
                }
                continue;
            }
        };
        waiting.push((model.after.len() - 1, answered));
        if sent.is_err() || !alive {
            break;
        }
    }
    waiting
}

/// Waits for an answer and takes note when it is success.
fn note(model: &mut Model, (records, answered): &Waiting) -> bool {
    let held = answered.recv().expect("every callback is called").is_ok();
    if held {
        model.held = model.held.max(*records);
    }
    held
}

/// A log in a line.
fn brief(said: &Said) -> String {
    let range = said.entries.first().map(|(i, _)| *i).zip(said.entries.last().map(|(i, _)| *i));
    let purged = said.purged.as_ref().map(|(index, _)| index);
    format!("{range:?} {:?} {:?} {purged:?}", said.vote, said.committed)
}

/// Lives the lives one after another and checks the log after each.
fn check(lives: Vec<(Vec<Act>, End)>) {
    let disk = FaultyDisk::new();
    let mut found = Said::default();
    for (acts, end) in lives {
        let wal = open(&disk).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(said(&wal), found, "reading twice gave different logs");
        if let End::Fail(op, nth) | End::FailAndCut(op, nth, _) = end {
            disk.fail_from(op, nth, libc::EIO);
        }
        let mut model = Model { after: vec![found.clone()], held: 0 };
        let waiting = live(&wal, &acts, &mut model);
        match end {
            End::Close | End::Fail(..) => drop(wal),
            End::Cut(seed) | End::FailAndCut(_, _, seed) => {
                disk.cut_power(seed);
                drop(wal);
            }
        }
        for waiting in &waiting {
            note(&mut model, waiting);
        }
        disk.heal();
        let wal = open(&disk).unwrap_or_else(|error| panic!("{error}"));
        found = said(&wal);
        drop(wal);
        let kept = &model.after[model.held..];
        assert!(
            kept.contains(&found),
            "lost what was acknowledged, or found what was never said\nfound {}\namong {:#?}",
            brief(&found),
            kept.iter().map(brief).collect::<Vec<_>>()
        );
        if matches!(end, End::Close) {
            assert_eq!(&found, model.last(), "an orderly close loses nothing");
        }
        // What was read at an open is held: it must survive a cut right after it.
        let wal = open(&disk).unwrap();
        disk.cut_power(7);
        drop(wal);
    }
    let wal = open(&disk).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said(&wal), found);
}

proptest! {
    // More lives: PROPTEST_CASES=10000.
    #[test]
    fn what_was_acknowledged_survives_every_end(
        lives in proptest::collection::vec(
            (proptest::collection::vec(act(), 0..25), end()),
            1..6,
        ),
    ) {
        check(lives);
    }
}

#[test]
fn bytes_of_a_failed_sync_that_read_back_are_written_again_before_they_are_held() {
    let disk = FaultyDisk::new();
    let wal = open(&disk).unwrap();
    append(&wal, [(1, bytes(1, 50))]).unwrap();
    disk.fail(Op::Sync, 1, libc::EIO);
    append(&wal, [(2, bytes(2, 50))]).unwrap_err();
    drop(wal);
    // The page cache still has the second entry, the medium does not.
    let wal = open(&disk).unwrap();
    let read = said(&wal);
    assert_eq!(read.entries.len(), 2);
    for seed in 0..20 {
        let disk = disk.clone();
        disk.cut_power(seed);
    }
    drop(wal);
    assert_eq!(said(&open(&disk).unwrap()), read);
}

#[test]
fn kinds_have_stable_numbers() {
    for kind in 1..=6 {
        assert_eq!(RecordKind::from_u8(kind).unwrap() as u8, kind);
    }
    assert_eq!(RecordKind::from_u8(0), None);
    assert_eq!(RecordKind::from_u8(7), None);
}
