//! Which keys seal gossip. Only their ids are decided and replicated: a key itself is in the
//! hands of the nodes alone, never in the state, which lies in the clear on every node's disk.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::BadName;
use crate::limits::GOSSIP_KEYS_MAX;
use crate::refusal::Refusal;

/// A gossip key's id: a hash of the key, cut short. It tells nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GossipKeyId(pub u64);

impl fmt::Display for GossipKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for GossipKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GossipKeyId({self})")
    }
}

impl FromStr for GossipKeyId {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        let is_hex = s.len() == 16 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = is_hex.then(|| u64::from_str_radix(s, 16).ok()).flatten();
        id.map(Self).ok_or_else(|| BadName {
            what: "gossip key",
            given: s.chars().take(80).collect(),
            rule: "16 hexadecimal digits",
        })
    }
}

impl TryFrom<String> for GossipKeyId {
    type Error = BadName;
    fn try_from(s: String) -> Result<Self, BadName> {
        s.parse()
    }
}

impl From<GossipKeyId> for String {
    fn from(id: GossipKeyId) -> Self {
        id.to_string()
    }
}

/// A key that opens what other nodes send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedKey {
    /// The key.
    pub id: GossipKeyId,
    /// The log index from which on it is accepted.
    pub since: u64,
}

/// The keys of the cluster's gossip. A rotation accepts a new key everywhere, then sends with it,
/// then retires the old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipKeys {
    /// Keys that open what other nodes send, oldest first; a few at most.
    pub accepted: Vec<AcceptedKey>,
    /// The key to send with, one of the accepted; none before there is a key.
    pub sending: Option<GossipKeyId>,
    /// Keys accepted before this log index are to be replaced: a node that was removed since knows
    /// them, or an operator asked for it.
    pub stale: u64,
}

impl GossipKeys {
    /// Whether the key opens what other nodes send.
    pub fn accepts(&self, id: GossipKeyId) -> bool {
        self.accepted.iter().any(|key| key.id == id)
    }

    /// The key that was accepted last.
    pub fn newest(&self) -> Option<AcceptedKey> {
        self.accepted.last().copied()
    }

    /// Whether a new key is to be made.
    pub fn is_stale(&self) -> bool {
        self.newest().is_none_or(|key| key.since < self.stale)
    }

    /// Accepts a key; the first one is sent with at once. True when that changes anything.
    pub(crate) fn add(&mut self, id: GossipKeyId, index: u64) -> Result<bool, Refusal> {
        if self.accepts(id) {
            return Ok(false);
        }
        if self.accepted.len() >= GOSSIP_KEYS_MAX {
            return Err(Refusal::TooManyGossipKeys);
        }
        self.accepted.push(AcceptedKey { id, since: index });
        self.sending.get_or_insert(id);
        Ok(true)
    }

    /// Sends with an accepted key. True when that changes anything.
    pub(crate) fn send_with(&mut self, id: GossipKeyId) -> Result<bool, Refusal> {
        if !self.accepts(id) {
            return Err(Refusal::NoSuchGossipKey { id });
        }
        Ok(self.sending.replace(id) != Some(id))
    }

    /// Accepts a key no longer, unless it is sent with.
    pub(crate) fn retire(&mut self, id: GossipKeyId) -> Result<bool, Refusal> {
        if !self.accepts(id) {
            return Err(Refusal::NoSuchGossipKey { id });
        }
        if self.sending == Some(id) {
            return Err(Refusal::GossipKeyInUse { id });
        }
        self.accepted.retain(|key| key.id != id);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_reads_back_what_it_prints_and_nothing_else() {
        let id = GossipKeyId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!(id.to_string().parse::<GossipKeyId>().unwrap(), id);
        for bad in ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000ab0"] {
            assert!(bad.parse::<GossipKeyId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rotation_adds_switches_and_retires() {
        let (old, new) = (GossipKeyId(1), GossipKeyId(2));
        let mut keys = GossipKeys::default();
        assert!(keys.is_stale());
        assert_eq!(keys.add(old, 5), Ok(true));
        assert_eq!((keys.sending, keys.is_stale()), (Some(old), false));
        keys.stale = 9;
        assert!(keys.is_stale());
        assert_eq!(keys.send_with(new), Err(Refusal::NoSuchGossipKey { id: new }));
        assert_eq!(keys.add(new, 10), Ok(true));
        assert_eq!((keys.sending, keys.is_stale()), (Some(old), false));
        assert_eq!(keys.retire(old), Err(Refusal::GossipKeyInUse { id: old }));
        assert_eq!(keys.send_with(new), Ok(true));
        assert_eq!(keys.send_with(new), Ok(false));
        assert_eq!(keys.retire(old), Ok(true));
        assert_eq!(keys.retire(old), Err(Refusal::NoSuchGossipKey { id: old }));
        assert_eq!(keys.accepted, [AcceptedKey { id: new, since: 10 }]);
    }

    #[test]
    fn too_many_keys_are_refused() {
        let mut keys = GossipKeys::default();
        for n in 0..GOSSIP_KEYS_MAX as u64 {
            assert_eq!(keys.add(GossipKeyId(n), n), Ok(true));
        }
        assert_eq!(keys.add(GossipKeyId(99), 99), Err(Refusal::TooManyGossipKeys));
        assert_eq!(keys.add(GossipKeyId(0), 99), Ok(false));
    }
}
