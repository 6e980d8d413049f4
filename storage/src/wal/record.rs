//! How a record lies in a segment. Pure: bytes in, bytes out.
//!
//! ```text
//! 0      4      8      12     16       24        32
//! | len  | crc  | prev | kind | sequence | durable | payload, padded to 8 bytes
//! ```
//!
//! `crc` covers the segment's number and everything but itself, so that a record can be told from
//! garbage on its own; `prev` is the crc of the record before, so that none can be missing or
//! moved. `durable` is the sequence number up to which the log was synced when the record was
//! written: a record that can be read proves that those up to its `durable` were acknowledged.

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RecordKind {
    /// Index (8 bytes) and the entry's bytes.
    Entry = 1,
    /// The vote's bytes.
    Vote = 2,
    /// The bytes of the last committed log id.
    Committed = 3,
    /// The first index (8 bytes) that is no longer in the log.
    Truncate = 4,
    /// The last index (8 bytes) that was purged, and the bytes of its log id.
    Purge = 5,
    /// Nothing: the first record of each segment. Those behind the head then name it as synced,
    /// which proves that the segment was in use.
    Begin = 6,
}

impl RecordKind {
    pub(super) const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Begin,
            _ => return None,
        })
    }
}

/// What joins a record to its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The segment.
    pub segment: u64,
    /// The crc of the record before.
    pub prev: u32,
    /// One more than that of the record before.
    pub sequence: u64,
    /// The last sequence number that was synced.
    pub durable: u64,
}

/// A record whose checksum fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded<'a> {
    pub kind: u8,
    pub crc: u32,
    pub prev: u32,
    pub sequence: u64,
    pub durable: u64,
    pub payload: &'a [u8],
    /// Its length in the segment, padding included.
    pub len: usize,
}

/// The length in the segment of a record with a payload of this length.
pub(super) const fn encoded_len(payload: usize) -> usize {
    HEADER_BYTES + payload.next_multiple_of(ALIGNMENT)
}

/// Appends a record; answers its crc.
pub(super) fn encode(kind: RecordKind, payload: &[&[u8]], link: Link, out: &mut Vec<u8>) -> u32 {
    let start = out.len();
    let len: usize = payload.iter().map(|part| part.len()).sum();
    let len_field = u32::try_from(len).expect("payloads are checked against PAYLOAD_BYTES_MAX");
    out.extend_from_slice(&len_field.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&link.prev.to_le_bytes());
    out.extend_from_slice(&(kind as u32).to_le_bytes());
    out.extend_from_slice(&link.sequence.to_le_bytes());
    out.extend_from_slice(&link.durable.to_le_bytes());
    for part in payload {
        out.extend_from_slice(part);
    }
    let crc = checksum(link.segment, &out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + encoded_len(len), 0);
    crc
}

/// Reads the record at the beginning of these bytes; none if there is no whole one.
pub(super) fn decode(bytes: &[u8], segment: u64) -> Option<Decoded<'_>> {
    let header = bytes.get(..HEADER_BYTES)?;
    let len = u32_at(header, 0) as usize;
    let kind = u32_at(header, 12);
    if kind == 0 {
        return None;
    }
    let end = HEADER_BYTES.checked_add(len)?;
    let record = bytes.get(..end)?;
    let padded = encoded_len(len);
    let padding = bytes.get(end..padded)?;
    let crc = u32_at(header, 4);
    if checksum(segment, record) != crc || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(Decoded {
        kind: u8::try_from(kind).unwrap_or(u8::MAX),
        crc,
        prev: u32_at(header, 8),
        sequence: u64_at(header, 16),
        durable: u64_at(header, 24),
        payload: &record[HEADER_BYTES..],
        len: padded,
    })
}

/// Splits the index off a payload that begins with one.
pub(super) fn split_index(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (index, rest) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), rest))
}

fn checksum(segment: u64, record: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&segment.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &record[..4]);
    crc32c::crc32c_append(crc, &record[8..])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_back_and_no_flipped_bit_goes_unseen(
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            segment in 1..9_u64,
            flip in any::<proptest::sample::Index>(),
        ) {
            let link = Link { segment, prev: 7, sequence: 8, durable: 5 };
            let mut bytes = Vec::new();
            let crc = encode(RecordKind::Entry, &[&payload], link, &mut bytes);
            prop_assert_eq!(bytes.len(), encoded_len(payload.len()));
            let read = decode(&bytes, segment).unwrap();
            prop_assert_eq!((read.crc, read.prev, read.sequence, read.durable), (crc, 7, 8, 5));
            prop_assert_eq!(read.payload, &payload[..]);
            prop_assert!(decode(&bytes, segment + 1).is_none());
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, segment).is_none());
        }

        #[test]
        fn random_bytes_are_no_record_and_no_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(decode(&bytes, 1).is_none());
        }
    }
}
