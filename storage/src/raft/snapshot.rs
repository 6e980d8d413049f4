//! How a snapshot is written: to a file and to peers the same bytes.
//!
//! ```text
//! | magic (8) | format (4) | header length (4) | body length (8) | header | body | sha256 (32) |
//! ```
//!
//! The header says up to which entry it goes and who the members are; the body is the state. Both
//! are MessagePack with field names. The digest covers all before it.
//!
//! A snapshot is never in memory as a whole: it is encoded into its file, sent from it in pieces
//! and decoded from it. The state is encoded twice, as its length comes before it.

use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use nigh_model::encoding::{read_state, write_state};
use nigh_model::{Digest, State, state};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{LogId, Membership, SnapshotMeta};
use crate::error::Error;

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"nigh-snp";
const PREFIX_BYTES: usize = 24;
const DIGEST_BYTES: usize = 32;
/// What is read, hashed and written at once.
const BUFFER_BYTES: usize = 1 << 16;

#[derive(Serialize, Deserialize)]
struct Header {
    state_format: u32,
    last_log_id: Option<LogId>,
    last_membership: Membership,
}

/// Encodes a snapshot into `out`.
///
/// # Errors
/// What `out` answers.
pub fn encode(meta: &SnapshotMeta, state: &State, out: impl Write) -> io::Result<()> {
    let header = Header {
        state_format: state::FORMAT,
        last_log_id: meta.last_log_id,
        last_membership: meta.last_membership.clone(),
    };
    let header = rmp_serde::to_vec_named(&header).expect("a header is maps and numbers");
    let mut length = Count(0);
    write_state(state, &mut length)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, Hashed { hash: Sha256::new(), out });
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
    out.write_all(&(header.len() as u32).to_le_bytes())?;
    out.write_all(&length.0.to_le_bytes())?;
    out.write_all(&header)?;
    write_state(state, &mut out)?;
    let Hashed { hash, mut out } = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.write_all(&hash.finalize())?;
    out.flush()
}

/// Counts what is written to it.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what goes through it.
struct Hashed<W> {
    hash: Sha256,
    out: W,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Why bytes are no snapshot for this build.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// They are not what was written.
    #[error("{0}")]
    Bad(String),
    /// A newer build wrote them.
    #[error("it has format {found} and this build knows up to {known}")]
    Newer {
        /// Their format.
        found: u64,
        /// The newest that this build reads.
        known: u64,
    },
    /// They could not be read.
    #[error("it cannot be read: {0}")]
    Unread(io::Error),
}

impl Unfit {
    fn bad(why: impl std::fmt::Display) -> Self {
        Self::Bad(why.to_string())
    }

    /// The error for bytes that came from elsewhere into this file.
    pub(super) fn refused(self, path: &Path) -> Error {
        match self {
            Self::Unread(source) => Error::Io { what: "read", path: path.to_owned(), source },
            unfit => Error::BadSnapshot { why: unfit.to_string() },
        }
    }
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::bad("it is cut short"),
            _ => Self::Unread(error),
        }
    }
}

/// Decodes a snapshot and checks all of it.
///
/// # Errors
/// What does not fit.
pub fn decode(source: impl Read + Seek) -> Result<(SnapshotMeta, State), Unfit> {
    let (header, mut body) = open(source)?;
    let state = read_state(&mut body).map_err(Unfit::bad)?;
    if header.last_log_id.map_or(0, |id| id.index) != state.applied {
        return Err(Unfit::bad("its state is of another entry than it says"));
    }
    Ok((header.meta(), state))
}

/// Checks that the bytes are what was written and says up to which entry they go. The state is
/// not made of them.
///
/// # Errors
/// What does not fit.
pub fn check(source: impl Read + Seek) -> Result<SnapshotMeta, Unfit> {
    Ok(open(source)?.0.meta())
}

impl Header {
    fn meta(self) -> SnapshotMeta {
        let Self { last_log_id, last_membership, .. } = self;
        SnapshotMeta { last_log_id, last_membership }
    }
}

/// The header of a snapshot whose bytes are what was written, and what follows it.
fn open<R: Read + Seek>(mut source: R) -> Result<(Header, BufReader<R>), Unfit> {
    let len = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    let mut prefix = [0; PREFIX_BYTES];
    source.read_exact(&mut prefix)?;
    if &prefix[..8] != MAGIC {
        return Err(Unfit::bad("it does not begin as one"));
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = prefix[range].iter().rev();
        digits.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let header_len = number(12..16);
    let body_end = (PREFIX_BYTES as u64 + header_len).checked_add(number(16..24));
    let total = body_end.and_then(|end| end.checked_add(DIGEST_BYTES as u64));
    if total != Some(len) {
        return Err(Unfit::bad("its length is not the one it says"));
    }
    check_digest(&mut source, len - DIGEST_BYTES as u64)?;
    let format = number(8..12);
    if format > u64::from(FORMAT) {
        return Err(Unfit::Newer { found: format, known: u64::from(FORMAT) });
    }
    source.seek(SeekFrom::Start(PREFIX_BYTES as u64))?;
    let mut body = BufReader::with_capacity(BUFFER_BYTES, source);
    let mut header = vec![0; header_len as usize];
    body.read_exact(&mut header)?;
    let header: Header = rmp_serde::from_slice(&header).map_err(Unfit::bad)?;
    if header.state_format > state::FORMAT {
        let (found, known) = (u64::from(header.state_format), u64::from(state::FORMAT));
        return Err(Unfit::Newer { found, known });
    }
    Ok((header, body))
}

/// Checks the digest that follows `content` bytes.
fn check_digest(source: &mut (impl Read + Seek), content: u64) -> Result<(), Unfit> {
    source.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = content;
    while left > 0 {
        let piece = &mut buffer[..left.min(BUFFER_BYTES as u64) as usize];
        source.read_exact(piece)?;
        hash.update(&*piece);
        left -= piece.len() as u64;
    }
    let mut digest = [0; DIGEST_BYTES];
    source.read_exact(&mut digest)?;
    if Digest::from_bytes(hash.finalize().into()) != Digest::from_bytes(digest) {
        return Err(Unfit::bad("its bytes do not fit its digest"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use openraft::vote::RaftLeaderIdExt as _;

    use super::*;

    fn sample() -> Vec<u8> {
        let leader = openraft::alias::LeaderIdOf::<super::super::TypeConfig>::new_committed(3, 1);
        let last_log_id = Some(LogId::new(leader, 7));
        let state = State { applied: 7, plan_basis: 5, ..State::default() };
        let meta = SnapshotMeta { last_log_id, last_membership: Membership::default() };
        let mut bytes = Vec::new();
        encode(&meta, &state, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_snapshot_reads_back() {
        let (meta, state) = decode(Cursor::new(sample())).unwrap();
        assert_eq!(meta.last_log_id.unwrap().index, 7);
        assert_eq!(state.plan_basis, 5);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let whole = sample();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(Cursor::new(bytes)).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(decode(Cursor::new(&whole[..len])).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = sample();
        bytes[8] = 9;
        let unfit = check(Cursor::new(&bytes)).unwrap_err();
        assert!(matches!(unfit, Unfit::Bad(_)), "its digest does not fit: {unfit}");
        let content = bytes.len() - DIGEST_BYTES;
        let digest = Digest::of(&bytes[..content]);
        bytes[content..].copy_from_slice(digest.as_bytes());
        let unfit = decode(Cursor::new(bytes)).unwrap_err();
        assert!(matches!(unfit, Unfit::Newer { found: 9, known: 1 }), "{unfit}");
    }
}
