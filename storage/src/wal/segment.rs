//! Segment files: their names and their headers.

use std::path::{Path, PathBuf};

use super::record::{u32_at, u64_at};

/// The length of a segment unless one batch needs more, in bytes. Reserved when it is made, so
/// that a full disk is met between batches and not within one.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 64;
/// The format of segments that this build writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// How an empty range of entries is written.
const NOTHING_HELD: (u64, u64) = (1, 0);
const MAGIC: &[u8; 8] = b"nigh-wal";
const EXTENSION: &str = ".wal";

/// What stands at the beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// One more than that of the segment before.
    pub number: u64,
    /// The sequence number of its first record.
    pub first_sequence: u64,
    /// The crc of the last record of the segment before.
    pub prev: u32,
    /// The first and last entry that the log held when this segment was begun.
    pub held: Option<(u64, u64)>,
    /// The length of the records that repeat what older segments say, in bytes.
    pub head_len: u32,
    /// The checksum of those records: without all of them the older segments are still needed, so
    /// header and head are valid together or not at all.
    pub head_crc: u32,
}

/// Why a header was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// The bytes do not fit their checksum.
    Damaged,
    /// A newer build wrote it.
    Newer(u32),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.prev.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        let (first, last) = self.held.unwrap_or(NOTHING_HELD);
        bytes[32..40].copy_from_slice(&first.to_le_bytes());
        bytes[40..48].copy_from_slice(&last.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.head_len.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.head_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of a segment and checks it and the head behind it.
    pub(super) fn decode(segment: &[u8]) -> Result<Self, BadHeader> {
        let bytes = segment.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        if &bytes[..8] != MAGIC || u32_at(bytes, HEADER_BYTES - 4) != crc {
            return Err(BadHeader::Damaged);
        }
        let format = u32_at(bytes, 8);
        if format > FORMAT {
            return Err(BadHeader::Newer(format));
        }
        let held = (u64_at(bytes, 32), u64_at(bytes, 40));
        let header = Self {
            prev: u32_at(bytes, 12),
            number: u64_at(bytes, 16),
            first_sequence: u64_at(bytes, 24),
            held: (held != NOTHING_HELD).then_some(held),
            head_len: u32_at(bytes, 48),
            head_crc: u32_at(bytes, 52),
        };
        let head = segment[HEADER_BYTES..].get(..header.head_len as usize);
        match head {
            Some(head) if crc32c::crc32c(head) == header.head_crc => Ok(header),
            _ => Err(BadHeader::Damaged),
        }
    }

    /// What the first record's `prev` must be: the header is a link of the chain too. The head
    /// is not known yet when its first record is written, so it is left out.
    pub(super) fn link(&self) -> u32 {
        let bare = Self { head_len: 0, head_crc: 0, ..*self };
        u32_at(&bare.encode(), HEADER_BYTES - 4)
    }
}

/// A segment that is reserved and not in use yet; a leftover of it is removed when opening.
pub(super) const SPARE_NAME: &str = "spare.tmp";

/// The path of a segment.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}{EXTENSION}"))
}

/// The number that a file name stands for.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_head_read_back_and_a_flipped_bit_in_either_is_seen() {
        let head = *b"what older segments say";
        let (head_len, head_crc) = (head.len() as u32, crc32c::crc32c(&head));
        let held = Some((4, 6));
        let header = Header { number: 3, first_sequence: 9, prev: 5, held, head_len, head_crc };
        let segment = [&header.encode()[..], &head[..]].concat();
        assert_eq!(Header::decode(&segment), Ok(header));
        for bit in 0..segment.len() * 8 {
            let mut segment = segment.clone();
            segment[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&segment), Err(BadHeader::Damaged), "bit {bit}");
        }
        for len in 0..segment.len() {
            assert_eq!(Header::decode(&segment[..len]), Err(BadHeader::Damaged), "length {len}");
        }
    }

    #[test]
    fn a_name_reads_back() {
        let path = path(Path::new("/w"), 0x1f);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(number(name), Some(0x1f));
        assert_eq!(number("tail"), None);
        assert_eq!(number("1.wal"), None);
    }
}
