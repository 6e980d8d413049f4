//! A set of functions small enough for gossip: a Bloom filter (Bloom, 1970).

use std::fmt;

use nigh_model::FunctionRef;

/// Bits per function: 1 wrong answer in about 3,000 with the hashes below.
const BITS_PER_FUNCTION: usize = 16;
/// Hashes per function.
const HASHES: u64 = 6;
/// Most bytes of a filter: with base64 two of them leave room in 2 KB for what else is said.
const FILTER_BYTES_MAX: usize = 560;
/// Most bytes of a filter that is read: nodes of the builds before say as many.
const FILTER_READ_BYTES_MAX: usize = 576;

/// A set of functions: no false negatives, few false positives.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    bits: Vec<u8>,
}

impl Filter {
    /// The filter of these functions.
    pub(crate) fn of<'f>(functions: impl ExactSizeIterator<Item = &'f FunctionRef>) -> Self {
        let bytes = (functions.len() * BITS_PER_FUNCTION).div_ceil(8).min(FILTER_BYTES_MAX);
        let mut filter = Self { bits: vec![0; bytes] };
        for function in functions {
            for bit in filter.places(function) {
                filter.bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    /// Whether the function is in the set; sometimes true when it is not.
    pub(crate) fn contains(&self, function: &FunctionRef) -> bool {
        !self.bits.is_empty()
            && self.places(function).all(|bit| self.bits[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// The filter as it is gossiped.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// A filter as it was gossiped; one that is too large is taken as empty.
    pub(crate) fn from_bytes(bits: Vec<u8>) -> Self {
        if bits.len() > FILTER_READ_BYTES_MAX { Self::default() } else { Self { bits } }
    }

    /// Double hashing (Kirsch and Mitzenmacher, 2006).
    fn places(&self, function: &FunctionRef) -> impl Iterator<Item = usize> + use<> {
        let bits = self.bits.len() as u64 * 8;
        let (first, second) = hashes(function);
        (0..HASHES).map(move |k| (first.wrapping_add(k.wrapping_mul(second)) % bits) as usize)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} bytes)", self.bits.len())
    }
}

/// Two hashes that are the same on every node: FNV-1a, finished as in SplitMix64.
fn hashes(function: &FunctionRef) -> (u64, u64) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let revision = function.revision.0.to_le_bytes();
    for byte in revision.iter().chain(function.function.as_str().as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    (mix(hash), mix(hash ^ 0x9e37_79b9_7f4a_7c15) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::{FunctionName, RevisionId};

    fn functions(revisions: std::ops::Range<u64>) -> Vec<FunctionRef> {
        let name = FunctionName::new("f").unwrap();
        revisions.map(|n| FunctionRef { revision: RevisionId(n), function: name.clone() }).collect()
    }

    #[test]
    fn holds_what_was_put_in_and_little_else() {
        let inside = functions(0..300);
        let filter = Filter::of(inside.iter());
        let filter = Filter::from_bytes(filter.as_bytes().to_vec());
        assert!(inside.iter().all(|function| filter.contains(function)));
        let wrong = functions(300..10_300).iter().filter(|f| filter.contains(f)).count();
        assert!(wrong < 30, "{wrong} of 10000 are wrong");
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        let none: [FunctionRef; 0] = [];
        assert!(!Filter::of(none.iter()).contains(&functions(0..1)[0]));
        assert_eq!(Filter::from_bytes(vec![255; FILTER_READ_BYTES_MAX + 1]), Filter::default());
    }
}
