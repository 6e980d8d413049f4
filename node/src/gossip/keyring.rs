//! The keys that seal gossip, as a node holds them. Pure.
//!
//! Which of them are accepted, and which one is sent with, the replicated state says; here they
//! are told apart by their ids. It neither stores nor fetches them: that is for `keystore`.

use std::fmt;

use nigh_model::{GossipKeyId, GossipKeys};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::seen::KeysInUse;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;
/// Keys held at once: all that can be accepted, those that a rotation is about to add, and room
/// for what a damaged or older file holds. What is beyond is not taken.
pub(crate) const KEYS_HELD_MAX: usize = 8;
/// What an id is the hash of, before the key: so that it is the hash of nothing else.
const ID_CONTEXT: &[u8] = b"nigh gossip key id 1";

/// A secret that seals gossip. Wiped from memory when dropped; never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct GossipKey {
    id: GossipKeyId,
    secret: Zeroizing<[u8; KEY_BYTES]>,
}

impl GossipKey {
    /// A key of these random bytes.
    pub(crate) fn new(secret: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let hash = Sha256::new().chain_update(ID_CONTEXT).chain_update(secret.as_slice());
        let hash: [u8; 32] = hash.finalize().into();
        let (short, _) = hash.split_first_chunk().expect("32 bytes begin with 8");
        Self { id: GossipKeyId(u64::from_be_bytes(*short)), secret }
    }

    /// A key as it was stored or sent; none when it has another length.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        (bytes.len() == KEY_BYTES).then(|| secret.copy_from_slice(bytes))?;
        Some(Self::new(secret))
    }

    /// The secret itself.
    pub(crate) fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    /// Its id: a hash of it, cut short.
    pub(crate) const fn id(&self) -> GossipKeyId {
        self.id
    }
}

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GossipKey({})", self.id)
    }
}

/// The keys that a node holds, and what is decided of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring {
    keys: Vec<GossipKey>,
    decided: GossipKeys,
}

impl Keyring {
    /// These keys. While nothing is decided the last one is sent with.
    #[cfg(test)]
    pub(crate) fn new(keys: impl IntoIterator<Item = GossipKey>) -> Self {
        let mut ring = Self::default();
        for key in keys {
            ring.insert(key);
        }
        ring
    }

    /// Takes a key in; false when it was there or there is no room.
    pub(crate) fn insert(&mut self, key: GossipKey) -> bool {
        let taken = self.get(key.id()).is_none() && self.keys.len() < KEYS_HELD_MAX;
        if taken {
            self.keys.push(key);
        }
        taken
    }

    /// Goes along with what is decided, and forgets what is accepted no longer, but for `pending`,
    /// which is about to be accepted. While nothing is decided all keys stay. True when keys were
    /// forgotten.
    pub(crate) fn follow(&mut self, decided: &GossipKeys, pending: Option<GossipKeyId>) -> bool {
        self.decided.clone_from(decided);
        if decided.accepted.is_empty() {
            return false;
        }
        let held = self.keys.len();
        self.keys.retain(|key| decided.accepts(key.id()) || Some(key.id()) == pending);
        self.keys.len() < held
    }

    /// What is decided, as far as this ring was told.
    pub(crate) const fn decided(&self) -> &GossipKeys {
        &self.decided
    }

    /// The accepted keys that are not held.
    pub(crate) fn missing(&self) -> Vec<GossipKeyId> {
        let ids = self.decided.accepted.iter().map(|key| key.id);
        ids.filter(|id| self.get(*id).is_none()).collect()
    }

    /// The key of this id.
    pub(crate) fn get(&self, id: GossipKeyId) -> Option<&GossipKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// The newest accepted key that is held.
    pub(crate) fn newest(&self) -> Option<&GossipKey> {
        self.decided.accepted.iter().rev().find_map(|key| self.get(key.id))
    }

    /// The key to send with: the one decided, else the newest that others accept.
    pub(crate) fn sending(&self) -> Option<&GossipKey> {
        if self.decided.accepted.is_empty() {
            return self.keys.last();
        }
        self.decided.sending.and_then(|id| self.get(id)).or_else(|| self.newest())
    }

    /// What this node tells others of it.
    pub(crate) fn in_use(&self) -> KeysInUse {
        let id = |key: Option<&GossipKey>| key.map(GossipKey::id);
        KeysInUse { newest: id(self.newest()), sending: id(self.sending()) }
    }

    /// All keys, oldest first.
    pub(crate) fn keys(&self) -> &[GossipKey] {
        &self.keys
    }

    /// The keys for a node that knows nothing yet: those accepted, the one to send with last.
    pub(crate) fn for_a_new_node(&self) -> Vec<GossipKey> {
        let Some(sending) = self.sending() else { return Vec::new() };
        let others = self.decided.accepted.iter().filter_map(|key| self.get(key.id));
        let others = others.filter(|key| key.id() != sending.id());
        others.chain([sending]).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use nigh_model::AcceptedKey;

    use super::*;

    fn key(n: u8) -> GossipKey {
        GossipKey::new(Zeroizing::new([n; KEY_BYTES]))
    }

    fn decided(accepted: &[u8], sending: u8) -> GossipKeys {
        let accepted =
            (1..).zip(accepted).map(|(since, n)| AcceptedKey { id: key(*n).id(), since });
        let accepted = accepted.collect();
        GossipKeys { accepted, sending: Some(key(sending).id()), stale: 0 }
    }

    fn sending(ring: &Keyring) -> Option<GossipKeyId> {
        ring.sending().map(GossipKey::id)
    }

    #[test]
    fn a_rotation_accepts_both_keys_and_then_the_new_one_alone() {
        let mut ring = Keyring::new([key(1)]);
        assert!(!ring.follow(&decided(&[1, 2], 1), None));
        assert_eq!(ring.missing(), [key(2).id()]);
        assert!(ring.insert(key(2)));
        assert_eq!(sending(&ring), Some(key(1).id()));
        assert_eq!(ring.newest(), Some(&key(2)));
        assert!(!ring.follow(&decided(&[1, 2], 2), None));
        assert_eq!(sending(&ring), Some(key(2).id()));
        assert!(ring.get(key(1).id()).is_some());
        assert!(ring.follow(&decided(&[2], 2), None));
        assert!(ring.get(key(1).id()).is_none());
        assert!(ring.missing().is_empty());
    }

    #[test]
    fn who_lacks_the_key_to_send_with_takes_the_newest_accepted_one() {
        let mut ring = Keyring::new([key(1), key(2)]);
        ring.follow(&decided(&[1, 2, 3], 3), None);
        assert_eq!(sending(&ring), Some(key(2).id()));
        ring.follow(&decided(&[3], 3), None);
        assert_eq!((sending(&ring), ring.newest()), (None, None));
        assert!(ring.insert(key(3)));
        assert_eq!(sending(&ring), Some(key(3).id()));
    }

    #[test]
    fn before_anything_is_decided_all_keys_stay_and_the_last_is_sent_with() {
        let mut ring = Keyring::new([key(1), key(2)]);
        assert!(!ring.follow(&GossipKeys::default(), None));
        assert_eq!(sending(&ring), Some(key(2).id()));
        assert_eq!(ring.for_a_new_node(), [key(2)]);
    }

    #[test]
    fn a_key_that_is_about_to_be_accepted_is_kept_and_told_to_nobody() {
        let mut ring = Keyring::new([key(1), key(2)]);
        assert!(!ring.follow(&decided(&[1], 1), Some(key(2).id())));
        assert_eq!(sending(&ring), Some(key(1).id()));
        assert_eq!(ring.for_a_new_node(), [key(1)]);
        assert!(ring.follow(&decided(&[1], 1), None));
    }

    #[test]
    fn a_new_node_gets_the_accepted_keys_the_one_to_send_with_last() {
        let mut ring = Keyring::new([key(1), key(2), key(3)]);
        ring.follow(&decided(&[1, 2, 3], 2), None);
        assert_eq!(ring.for_a_new_node(), [key(1), key(3), key(2)]);
        assert_eq!(sending(&Keyring::new(ring.for_a_new_node())), Some(key(2).id()));
    }

    #[test]
    fn no_more_keys_are_held_than_may_be() {
        let mut ring = Keyring::default();
        assert!((0..KEYS_HELD_MAX as u8).all(|n| ring.insert(key(n))));
        assert!(!ring.insert(key(0)) && !ring.insert(key(200)));
        assert!(GossipKey::from_slice(&[1; 31]).is_none());
        assert_eq!(GossipKey::from_slice(&[1; 32]), Some(key(1)));
    }

    #[test]
    fn no_secret_is_printed() {
        let secret = Zeroizing::new(std::array::from_fn(|n| 100 + n as u8));
        let ring = Keyring::new([GossipKey::new(secret)]);
        let text = format!("{ring:?} {:?}", ring.sending());
        assert!(text.contains(&ring.keys[0].id().to_string()));
        for secret in ["100, 101", "0x64", "6465", "defg", "ZGVm"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
