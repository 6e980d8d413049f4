//! How a snapshot is written: to a file and to peers the same bytes.
//!
//! ```text
//! | magic (8) | format (4) | header length (4) | body length (8) | header | body | sha256 (32) |
//! ```
//!
//! The header says up to which entry it goes and who the members are; the body is the state. Both
//! are MessagePack with field names. The digest covers all before it.

use bytes::Bytes;
use nigh_model::{Digest, State, state};
use serde::{Deserialize, Serialize};

use super::{LogId, Membership, SnapshotMeta};
use crate::error::Error;

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"nigh-snp";
const PREFIX_BYTES: usize = 24;
const DIGEST_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
struct Header {
    state_format: u32,
    last_log_id: Option<LogId>,
    last_membership: Membership,
}

/// Encodes a snapshot.
pub fn encode(meta: &SnapshotMeta, state: &State) -> Bytes {
    let header = Header {
        state_format: state::FORMAT,
        last_log_id: meta.last_log_id,
        last_membership: meta.last_membership.clone(),
    };
    let header = rmp_serde::to_vec_named(&header).expect("a header is maps and numbers");
    let body = rmp_serde::to_vec_named(state).expect("a state is maps, strings and numbers");
    let mut out = Vec::with_capacity(PREFIX_BYTES + header.len() + body.len() + DIGEST_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(header.len() as u32).to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&body);
    let digest = Digest::of(&out);
    out.extend_from_slice(digest.as_bytes());
    out.into()
}

/// Decodes a snapshot and checks all of it.
///
/// # Errors
/// [`Error::BadSnapshot`] with what does not fit.
pub fn decode(bytes: &[u8]) -> Result<(SnapshotMeta, State), Error> {
    let Opened { header, body } = open(bytes).map_err(Unfit::refused)?;
    let state: State = rmp_serde::from_slice(body).map_err(|error| Unfit::bad(&error).refused())?;
    if header.last_log_id.map_or(0, |id| id.index) != state.applied {
        return Err(Unfit::bad("its state is of another entry than it says").refused());
    }
    Ok((header.meta(), state))
}

/// Checks that the bytes are what was written and says up to which entry they go. The state is
/// not made of them, which would take as much memory again.
///
/// # Errors
/// [`Error::BadSnapshot`] with what does not fit.
pub fn check(bytes: &[u8]) -> Result<SnapshotMeta, Error> {
    Ok(open(bytes).map_err(Unfit::refused)?.header.meta())
}

/// The format of a snapshot that is whole, when this build cannot read it: the one found, and
/// the newest that it can.
pub(super) fn newer(bytes: &[u8]) -> Option<(u64, u64)> {
    match open(bytes) {
        Err(Unfit::Newer { found, known }) => Some((found, known)),
        _ => None,
    }
}

/// A snapshot whose bytes are what was written.
struct Opened<'b> {
    header: Header,
    body: &'b [u8],
}

/// Why bytes are no snapshot for this build.
enum Unfit {
    Bad(String),
    Newer { found: u64, known: u64 },
}

impl Unfit {
    fn bad(why: impl std::fmt::Display) -> Self {
        Self::Bad(why.to_string())
    }

    fn refused(self) -> Error {
        let why = match self {
            Self::Bad(why) => why,
            Self::Newer { found, known } => {
                format!("it has format {found} and this build knows up to {known}")
            }
        };
        Error::BadSnapshot { why }
    }
}

impl Header {
    fn meta(self) -> SnapshotMeta {
        let Self { last_log_id, last_membership, .. } = self;
        SnapshotMeta { last_log_id, last_membership }
    }
}

fn open(bytes: &[u8]) -> Result<Opened<'_>, Unfit> {
    let prefix = bytes.get(..PREFIX_BYTES).ok_or_else(|| Unfit::bad("it is cut short"))?;
    if &prefix[..8] != MAGIC {
        return Err(Unfit::bad("it does not begin as one"));
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = prefix[range].iter().rev();
        digits.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let header_end = PREFIX_BYTES as u64 + number(12..16);
    let body_end = header_end.checked_add(number(16..24));
    let total = body_end.and_then(|end| end.checked_add(DIGEST_BYTES as u64));
    if total != Some(bytes.len() as u64) {
        return Err(Unfit::bad("its length is not the one it says"));
    }
    let (content, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    if Digest::of(content).as_bytes() != digest {
        return Err(Unfit::bad("its bytes do not fit its digest"));
    }
    let format = number(8..12);
    if format > u64::from(FORMAT) {
        return Err(Unfit::Newer { found: format, known: u64::from(FORMAT) });
    }
    let (header, body) = content[PREFIX_BYTES..].split_at(header_end as usize - PREFIX_BYTES);
    let header: Header = rmp_serde::from_slice(header).map_err(|error| Unfit::bad(&error))?;
    if header.state_format > state::FORMAT {
        let (found, known) = (u64::from(header.state_format), u64::from(state::FORMAT));
        return Err(Unfit::Newer { found, known });
    }
    Ok(Opened { header, body })
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderIdExt as _;

    use super::*;

    fn sample() -> Bytes {
        let leader = openraft::alias::LeaderIdOf::<super::super::TypeConfig>::new_committed(3, 1);
        let last_log_id = Some(LogId::new(leader, 7));
        let state = State { applied: 7, plan_basis: 5, ..State::default() };
        encode(&SnapshotMeta { last_log_id, last_membership: Membership::default() }, &state)
    }

    #[test]
    fn a_snapshot_reads_back() {
        let (meta, state) = decode(&sample()).unwrap();
        assert_eq!(meta.last_log_id.unwrap().index, 7);
        assert_eq!(state.plan_basis, 5);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let whole = sample();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(decode(&whole[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = sample().to_vec();
        assert_eq!(newer(&bytes), None);
        bytes[8] = 9;
        assert_eq!(newer(&bytes), None, "its digest does not fit");
        let content = bytes.len() - DIGEST_BYTES;
        let digest = Digest::of(&bytes[..content]);
        bytes[content..].copy_from_slice(digest.as_bytes());
        assert_eq!(newer(&bytes), Some((9, 1)));
        let error = decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("format 9") && error.contains("up to 1"), "{error}");
    }
}
