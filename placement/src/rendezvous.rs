//! Weighted rendezvous hashing: which nodes are a key's homes.
//!
//! Each node gets a score from the key, its id and its weight; the highest scores win. Adding
//! or losing a node moves only the keys that it wins or had won, and no table is shared.
//!
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
//! Transactions on Networking 6(1), 1998. Weights by the logarithmic method: Schindelhauer and
//! Schomaker, "Weighted distributed hash tables", SPAA 2005.
//!
//! The hashes are part of what a plan means: they must stay the same in every version and on
//! every machine, which golden values in the tests hold.

use nigh_model::NodeId;

/// The odd integer nearest to 2⁶⁴ divided by the golden ratio: spreads neighbouring inputs.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes the parts of a name to a key. Parts are kept apart: `["ab", "c"]` is not `["a", "bc"]`.
///
/// FNV-1a (Fowler, Noll and Vo) with 64 bits over each part's bytes and its length, mixed at
/// the end. Not for input by which an attacker could gain from collisions.
pub fn key(parts: &[&str]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET;
    for part in parts {
        let length = (part.len() as u64).to_le_bytes();
        for byte in part.bytes().chain(length) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    mix(hash)
}

/// Joins two hashes to a third, in this order.
pub fn join(a: u64, b: u64) -> u64 {
    mix(a.rotate_left(32) ^ mix(b.wrapping_add(GOLDEN)))
}

/// A node's score for a key: of two nodes the higher one wins, each with a chance in
/// proportion to its weight. Weight 0 scores below every other.
///
/// `-weight / ln(u)`, where `u` is the hash of key and node as a fraction between 0 and 1.
pub fn score(key: u64, node: NodeId, weight: u32) -> f64 {
    -f64::from(weight) / fraction(join(key, node.0)).ln()
}

/// The node that wins a key; of equals, which only weight 0 can make, the lowest id.
pub fn home(key: u64, nodes: impl IntoIterator<Item = (NodeId, u32)>) -> Option<NodeId> {
    let scored = nodes.into_iter().map(|(node, weight)| (score(key, node, weight), node));
    scored.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, node)| node)
}

/// The upper 53 bits as a fraction, never 0 and never 1.
fn fraction(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// Spreads a change of any bit over all bits (the finaliser of MurmurHash3, Appleby 2011).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> Vec<(NodeId, u32)> {
        (1..=count).map(|id| (NodeId(id), 1)).collect()
    }

    #[test]
    fn hashes_are_the_same_in_every_version() {
        assert_eq!(key(&[]), 0xefd0_1f60_ba99_2926);
        assert_eq!(key(&["shop", "checkout"]), 0x9f78_55e8_dcc6_b079);
        assert_eq!(join(1, 2), 0x9bc4_05cd_51e5_adec);
        assert_eq!(home(key(&["shop", "checkout"]), nodes(100)), Some(NodeId(76)));
    }

    #[test]
    fn parts_of_a_key_are_kept_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
        assert_ne!(join(1, 2), join(2, 1));
    }

    #[test]
    fn a_new_node_takes_only_its_share() {
        let (before, after) = (nodes(10), nodes(11));
        let mut moved = 0;
        for key in (0..10_000).map(mix) {
            let (old, new) = (home(key, before.clone()), home(key, after.clone()));
            if old != new {
                assert_eq!(new, Some(NodeId(11)), "a key moved between old nodes");
                moved += 1;
            }
        }
        assert!((800..1_020).contains(&moved), "{moved} of 10000 moved, 909 are its share");
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let weighted = [(NodeId(1), 1), (NodeId(2), 2), (NodeId(3), 5), (NodeId(4), 0)];
        let mut count = [0; 5];
        for key in (0..8_000).map(mix) {
            count[home(key, weighted).unwrap().0 as usize] += 1;
        }
        assert_eq!(count[4], 0, "weight 0 wins nothing");
        for (node, share) in [(1, 1_000), (2, 2_000), (3, 5_000)] {
            assert!(i32::abs(count[node] - share) < share / 10, "{count:?}");
        }
        assert_eq!(home(7, [(NodeId(4), 0)]), Some(NodeId(4)), "unless nothing else is left");
        assert_eq!(home(7, []), None);
    }
}
