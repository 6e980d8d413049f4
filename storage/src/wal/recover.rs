//! Opening a log: read every segment, check every link, decide about the end.
//!
//! Where the readable records end, three things are possible. Nothing but zeros follows: a clean
//! end. A batch was being written when the process or the power went: it was never acknowledged
//! and is cut. Or acknowledged records are damaged: opening fails. The last two are told apart by
//! what records say of each other: a batch is written only after the one before was synced, and
//! each record names the last synced one. So a readable record beyond the damage whose `durable`
//! lies beyond the damage too proves a loss, and so does the tail mark. A tail mark that is itself
//! damaged leaves an end that is not whole in doubt: then opening fails too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::head::Head;
use super::index::{Index, Place};
use super::record::{self, RecordKind, decode, split_index};
use super::segment::{self, BadHeader, Header};
use super::tail::{Mark, TailMark};
use crate::disk::{Disk, DiskFile, read_file};
use crate::error::{Context as _, Error};

/// What was found, for readers and for the writer.
#[derive(Debug)]
pub(super) struct Recovered {
    pub index: Index,
    pub segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    pub found: Found,
}

/// What the writer continues.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub head: Head,
    /// Where the next record goes; none when there is no segment.
    pub position: Option<Position>,
    /// The highest entry written to each segment that has any.
    pub last_entries: BTreeMap<u64, u64>,
}

/// The end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The segment being written.
    pub segment: u64,
    /// Its length in bytes.
    pub capacity: u64,
    /// Where the next record goes.
    pub offset: u64,
    /// The sequence number of the last record.
    pub sequence: u64,
    /// The crc of the last record, or of the segment's header.
    pub crc: u32,
    /// The last sequence number that was synced.
    pub durable: u64,
}

/// Reads the log in a folder, cuts a torn tail and syncs what was read.
pub(super) fn recover(
    disk: &dyn Disk,
    folder: &Path,
    cache_bytes_max: usize,
) -> Result<Recovered, Error> {
    let names = disk.list(folder).on("list", folder)?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    let mut scan = Scan {
        disk,
        folder,
        index: Index::new(cache_bytes_max),
        segments: BTreeMap::new(),
        found: Found::default(),
        last: None,
        mark: TailMark::read(disk, folder)?,
    };
    for (at, number) in numbers.iter().enumerate() {
        scan.segment(*number, at + 1 == numbers.len())?;
    }
    scan.finish()
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    folder: &'a Path,
    index: Index,
    segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    found: Found,
    last: Option<LastSegment>,
    mark: Mark,
}

/// The bytes of the segment read last.
struct LastSegment {
    bytes: Vec<u8>,
    /// Where the bytes begin that no later record proves to be synced.
    unproven: usize,
}

impl Scan<'_> {
    fn segment(&mut self, number: u64, is_last: bool) -> Result<(), Error> {
        let path = segment::path(self.folder, number);
        let bytes = read_file(self.disk, &path)?.unwrap_or_default();
        let header = match Header::decode(&bytes) {
            Ok(header) if header.number == number => header,
            Err(BadHeader::Newer(found)) => {
                let (found, known) = (u64::from(found), u64::from(segment::FORMAT));
                return Err(Error::NewerFormat { path, found, known });
            }
            _ if is_last && self.never_used(number, &bytes) => {
                tracing::info!(path = %path.display(), "removed a segment that was never used");
                self.disk.remove(&path).on("remove", &path)?;
                return self.disk.sync_dir(self.folder).on("sync", self.folder);
            }
            _ => return Err(Error::corrupt(&path, 0, "its head is not what was written")),
        };
        let mut position = self.enter(&path, &header, bytes.len() as u64)?;
        let (mut unproven, mut durable) = (0, position.sequence);
        while let Some(record) = decode(&bytes[position.offset as usize..], number) {
            if record.prev != position.crc || record.sequence != position.sequence + 1 {
                break;
            }
            let place = Place { segment: number, offset: position.offset, len: record.len as u32 };
            if !self.replay(record.kind, record.payload, place) {
                let why = format!("record {} cannot follow those before it", record.sequence);
                return Err(Error::corrupt(&path, position.offset, why));
            }
            if record.durable != durable {
                (durable, unproven) = (record.durable, position.offset as usize);
            }
            position.offset += record.len as u64;
            position.sequence = record.sequence;
            position.crc = record.crc;
        }
        position.durable = position.sequence;
        let file = self.disk.open(&path).on("open", &path)?;
        self.segments.insert(number, file);
        self.found.position = Some(position);
        self.last = Some(LastSegment { bytes, unproven });
        Ok(())
    }

    /// Whether the last segment, whose head is not whole, was begun but never used.
    fn never_used(&self, number: u64, bytes: &[u8]) -> bool {
        let (follows, sequence) = match self.found.position {
            Some(position) => (position.segment + 1 == number, position.sequence),
            None => (number == 1, 0),
        };
        follows && self.mark != Mark::Damaged && proof_of_loss(bytes, 0, number, sequence).is_none()
    }

    /// Checks that a segment continues the one before, or is the first that is needed.
    fn enter(&mut self, path: &Path, header: &Header, len: u64) -> Result<Position, Error> {
        if let Some(before) = self.found.position {
            if before.segment + 1 != header.number {
                let missing = segment::path(self.folder, before.segment + 1);
                return Err(Error::corrupt(&missing, 0, "the segment is missing"));
            }
            let continues = header.first_sequence == before.sequence + 1
                && header.prev == before.crc
                && header.held == self.found.head.held;
            if !continues {
                let path = segment::path(self.folder, before.segment);
                let why = format!(
                    "records {} to {} are not what was written",
                    before.sequence + 1,
                    header.first_sequence.saturating_sub(1)
                );
                return Err(Error::corrupt(&path, before.offset, why));
            }
        } else if header.number > 1 || header.held.is_none() {
            self.found.head.held = header.held;
        } else {
            return Err(Error::corrupt(path, 0, "the first segment names older entries"));
        }
        Ok(Position {
            segment: header.number,
            capacity: len,
            offset: segment::HEADER_BYTES as u64,
            sequence: header.first_sequence - 1,
            crc: header.link(),
            durable: 0,
        })
    }

    fn replay(&mut self, kind: u8, payload: &[u8], place: Place) -> bool {
        let Some(kind) = RecordKind::from_u8(kind) else { return false };
        if !self.found.head.note(kind, payload) {
            return false;
        }
        let index = &mut self.index;
        match (kind, split_index(payload)) {
            (RecordKind::Entry, Some((entry, bytes))) => {
                if !index.accepts(entry) {
                    return false;
                }
                let last = self.found.last_entries.entry(place.segment).or_default();
                *last = entry.max(*last);
                index.push(entry, Bytes::copy_from_slice(bytes), Some(place));
            }
            (RecordKind::Truncate, Some((from, _))) => index.truncate_from(from),
            (RecordKind::Purge, Some((upto, _))) => index.purge(upto),
            _ => {}
        }
        true
    }

    fn finish(self) -> Result<Recovered, Error> {
        let Self { disk, folder, index, segments, mut found, last, mark } = self;
        let synced = mark.synced();
        let Some((position, last)) = found.position.as_mut().zip(last) else {
            if synced > 0 {
                let why = format!("{synced} records were acknowledged and no segment is there");
                return Err(Error::corrupt(folder, 0, why));
            }
            return Ok(Recovered { index, segments, found });
        };
        let path = segment::path(folder, position.segment);
        let end = position.offset as usize;
        let loss = proof_of_loss(&last.bytes, end, position.segment, position.sequence);
        if let Some(acknowledged) = loss.into_iter().chain([synced]).max()
            && acknowledged > position.sequence
        {
            let first = position.sequence + 1;
            let why = format!("records {first} to {acknowledged} are not what was written");
            return Err(Error::corrupt(&path, position.offset, why));
        }
        if mark == Mark::Damaged && is_torn(&last.bytes, end) {
            let why =
                "its end is not whole, nor is the tail mark that would tell torn from damaged";
            return Err(Error::corrupt(&path, position.offset, why));
        }
        if index.range() != found.head.held {
            let (is, should) = (index.range(), found.head.held);
            let why = format!("it holds entries {is:?} and should hold {should:?}");
            return Err(Error::corrupt(folder, 0, why));
        }
        for (number, file) in &segments {
            let path = segment::path(folder, *number);
            if *number == position.segment {
                cut(file.as_ref(), &last.bytes, end, &path)?;
                // A failed sync may have left bytes in memory that the medium lacks and that
                // another sync would skip: write them again, so that it cannot.
                file.write_all_at(&last.bytes[last.unproven.min(end)..end], last.unproven as u64)
                    .on("write", &path)?;
            }
            file.sync().on("sync", &path)?;
        }
        disk.sync_dir(folder).on("sync", folder)?;
        Ok(Recovered { index, segments, found })
    }
}

/// Overwrites a torn tail with zeros.
fn cut(file: &dyn DiskFile, bytes: &[u8], end: usize, path: &Path) -> Result<(), Error> {
    if !is_torn(bytes, end) {
        return Ok(());
    }
    let used = used_len(bytes);
    tracing::info!(
        path = %path.display(), offset = end, bytes = used - end,
        "cut a batch that was being written at the end; it was never acknowledged"
    );
    file.write_all_at(&vec![0; used - end], end as u64).on("write", path)
}

/// Whether anything lies behind the last record. What is used is told by the block: behind the
/// last record its block is zeros.
fn is_torn(bytes: &[u8], end: usize) -> bool {
    let used = used_len(bytes);
    used > end && bytes[end..used].iter().any(|byte| *byte != 0)
}

/// The length without the zero blocks at the end.
fn used_len(bytes: &[u8]) -> usize {
    const BLOCK: [u8; 4096] = [0; 4096];
    let is_used = |block: &[u8]| block != &BLOCK[..block.len()];
    let blocks = bytes.chunks(BLOCK.len()).rposition(is_used).map_or(0, |last| last + 1);
    bytes.len().min(blocks * BLOCK.len())
}

/// The highest sequence number beyond `sequence` that a record behind `from` proves was synced.
fn proof_of_loss(bytes: &[u8], from: usize, segment: u64, sequence: u64) -> Option<u64> {
    let from = from.max(segment::HEADER_BYTES);
    let mut proof = None;
    for at in (from..used_len(bytes)).step_by(record::ALIGNMENT) {
        if let Some(record) = decode(&bytes[at..], segment)
            && record.durable > sequence
        {
            proof = proof.max(Some(record.durable));
        }
    }
    proof
}
