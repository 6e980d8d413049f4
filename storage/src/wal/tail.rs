//! The tail mark: up to which record the log was synced, kept in a file of its own.
//!
//! It is written after each sync and itself synced soon after, when the log rests: nobody waits
//! for that, so after a power cut it may be a little old. Two places take turns, so that a write
//! that fails half way leaves the one before. It is a lower bound. With it, a log that lost its end while nothing was
//! written after (a zeroed block, a cut or missing file) is told from one that ends cleanly.

use std::path::Path;
use std::sync::Arc;

use super::record::{u32_at, u64_at};
use crate::disk::{Disk, DiskFile, read_file, write_file};
use crate::error::{Context as _, Error};

const NAME: &str = "tail";
const MAGIC: &[u8; 4] = b"ntl1";
/// The length of a place.
const BYTES: usize = 16;
const PLACES: usize = 2;

/// What a tail mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// There is none: nothing is known.
    Missing,
    /// It is not what was written. No crash does that to both places of it: where the log's end
    /// is odd too, it is damaged rather than torn.
    Damaged,
    /// The log was certainly synced up to this sequence number.
    Synced(u64),
}

impl Mark {
    pub(super) const fn synced(self) -> u64 {
        match self {
            Self::Synced(sequence) => sequence,
            Self::Missing | Self::Damaged => 0,
        }
    }
}

/// The open tail mark.
#[derive(Debug)]
pub(super) struct TailMark {
    file: Arc<dyn DiskFile>,
    /// The place to be written next.
    place: usize,
}

impl TailMark {
    /// What the file says.
    pub(super) fn read(disk: &dyn Disk, folder: &Path) -> Result<Mark, Error> {
        let path = folder.join(NAME);
        let Some(bytes) = read_file(disk, &path)? else { return Ok(Mark::Missing) };
        let mark = decode(&bytes).map_or(Mark::Damaged, Mark::Synced);
        if mark == Mark::Damaged {
            tracing::warn!(path = %path.display(), "the tail mark is damaged; the log is looked at without");
        }
        Ok(mark)
    }

    /// Writes it durably and keeps it open.
    pub(super) fn open(disk: &Arc<dyn Disk>, folder: &Path, sequence: u64) -> Result<Self, Error> {
        let path = folder.join(NAME);
        write_file(disk, &path, &encode(sequence).repeat(PLACES))?;
        Ok(Self { file: disk.open(&path).on("open", &path)?, place: 0 })
    }

    /// Notes that the log is synced up to here. Best effort: it only ever says less than is true.
    pub(super) fn note(&mut self, sequence: u64) {
        let offset = (self.place * BYTES) as u64;
        if self.file.write_all_at(&encode(sequence), offset).is_ok() {
            self.place = (self.place + 1) % PLACES;
        }
    }

    /// Makes the last note durable.
    pub(super) fn sync(&self) {
        let _ = self.file.sync();
    }
}

fn encode(sequence: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..12].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The later of the places that are whole.
fn decode(bytes: &[u8]) -> Option<u64> {
    let places = bytes.chunks_exact(BYTES).take(PLACES);
    places.filter_map(decode_place).max()
}

fn decode_place(bytes: &[u8]) -> Option<u64> {
    let fits = &bytes[..4] == MAGIC && crc32c::crc32c(&bytes[..12]) == u32_at(bytes, 12);
    fits.then(|| u64_at(bytes, 4))
}
