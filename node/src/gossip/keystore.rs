//! Where a node keeps the keys of gossip: in a file that only its owner reads, and in memory.
//!
//! Not in the replicated state, which lies in the clear on every node's disk and in backups. One
//! line holds a key and its id, which is a hash of it: a damaged line is seen, left out, and
//! brought again by peers. It decides nothing and fetches nothing; who does is `control`.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use nigh_model::{GossipKeyId, GossipKeys};
use nigh_storage::{DataDir, SecretFile, SecretFolder};
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::keyring::{GossipKey, KEY_BYTES, Keyring};
use crate::clock;
use crate::error::Error;

/// The file within the folder of secrets.
const FILE_NAME: &str = "gossip.keys";
/// Its first line.
const HEAD: &str = "nigh gossip keys 1";

/// The keys of a node. A clone is the same keys.
#[derive(Clone)]
pub(crate) struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    ring: ArcSwap<Keyring>,
    version: watch::Sender<u64>,
    file: Option<SecretFile>,
    /// A key that was made here and is not accepted yet. Held by whoever changes the ring.
    pending: Mutex<Option<GossipKeyId>>,
}

impl Keys {
    /// The keys in a data folder; none in a new one. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn open(data: &DataDir) -> Result<Self, Error> {
        let file = SecretFolder::open(data)?.file(FILE_NAME);
        let text = Zeroizing::new(file.read()?.unwrap_or_default());
        let (ring, damaged) = parse(&text);
        if damaged > 0 {
            let path = file.path().display();
            tracing::warn!(%path, damaged, "damaged gossip keys are left out; peers have them");
        }
        Ok(Self::new(ring, Some(file)))
    }

    /// These keys, kept in memory alone.
    #[cfg(test)]
    pub(crate) fn in_memory(ring: Keyring) -> Self {
        Self::new(ring, None)
    }

    fn new(ring: Keyring, file: Option<SecretFile>) -> Self {
        let inner = Inner {
            ring: ArcSwap::from_pointee(ring),
            version: watch::channel(0).0,
            file,
            pending: Mutex::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The keys as they are now; keep them only for a moment.
    pub(crate) fn ring(&self) -> Guard<Arc<Keyring>> {
        self.inner.ring.load()
    }

    /// Follows changes of the keys and of what is decided of them.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// Makes a key, to be proposed: it is on disk when this returns. While one that was made before
    /// is not accepted yet, it is that one.
    ///
    /// # Errors
    /// It cannot be stored; then it is not used.
    pub(crate) async fn make(&self) -> Result<GossipKeyId, Error> {
        let mut pending = self.inner.pending.lock().await;
        if let Some(id) = *pending {
            return Ok(id);
        }
        let key = GossipKey::new(Zeroizing::new(clock::random_bytes()));
        let id = key.id();
        let mut ring = (**self.ring()).clone();
        if !ring.insert(key) {
            return Err(Error::Internal("as many gossip keys are held as may be".to_owned()));
        }
        self.store(&ring).await?;
        self.publish(ring);
        *pending = Some(id);
        Ok(id)
    }

    /// Takes in keys that others have given. They are used even if they cannot be stored.
    ///
    /// # Errors
    /// They are not on disk.
    pub(crate) async fn take_in(&self, keys: Vec<GossipKey>) -> Result<(), Error> {
        let _held = self.inner.pending.lock().await;
        let mut ring = (**self.ring()).clone();
        let taken = keys.into_iter().filter(|key| ring.insert(key.clone())).count();
        if taken == 0 {
            return Ok(());
        }
        self.publish(ring.clone());
        self.store(&ring).await
    }

    /// Goes along with what is decided.
    ///
    /// # Errors
    /// Keys that are accepted no longer are still on disk.
    pub(crate) async fn follow(&self, decided: &GossipKeys) -> Result<(), Error> {
        if *self.ring().decided() == *decided {
            return Ok(());
        }
        let mut pending = self.inner.pending.lock().await;
        if pending.is_some_and(|id| decided.accepts(id)) {
            *pending = None;
        }
        let mut ring = (**self.ring()).clone();
        let forgotten = ring.follow(decided, *pending);
        self.publish(ring.clone());
        if forgotten { self.store(&ring).await } else { Ok(()) }
    }

    fn publish(&self, ring: Keyring) {
        self.inner.ring.store(Arc::new(ring));
        self.inner.version.send_modify(|version| *version += 1);
    }

    async fn store(&self, ring: &Keyring) -> Result<(), Error> {
        let Some(file) = self.inner.file.clone() else { return Ok(()) };
        let text = format(ring);
        let written = tokio::task::spawn_blocking(move || file.write(text.as_bytes())).await;
        written.map_err(|error| Error::Internal(error.to_string()))?.map_err(Error::from)
    }
}

fn format(ring: &Keyring) -> Zeroizing<String> {
    // Made at its full size: a string that grows would leave secrets behind where it was.
    let line_bytes = 16 + 1 + 2 * KEY_BYTES + 1;
    let mut text = String::with_capacity(HEAD.len() + 1 + ring.keys().len() * line_bytes);
    text.push_str(HEAD);
    text.push('\n');
    for key in ring.keys() {
        let secret = Zeroizing::new(hex::encode(key.secret()));
        for part in [&key.id().to_string(), " ", secret.as_str(), "\n"] {
            text.push_str(part);
        }
    }
    Zeroizing::new(text)
}

/// The keys in a file, and how many of its lines are damaged.
fn parse(text: &[u8]) -> (Keyring, usize) {
    if text.is_empty() {
        return (Keyring::default(), 0);
    }
    let mut lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
    let mut damaged = usize::from(lines.next() != Some(HEAD.as_bytes()));
    let mut ring = Keyring::default();
    for line in lines {
        match parse_line(line) {
            Some(key) if ring.insert(key.clone()) => {}
            _ => damaged += 1,
        }
    }
    (ring, damaged)
}

fn parse_line(line: &[u8]) -> Option<GossipKey> {
    let (id, secret) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    hex::decode_to_slice(secret, bytes.as_mut_slice()).ok()?;
    let key = GossipKey::new(bytes);
    (id.parse().ok() == Some(key.id())).then_some(key)
}

#[cfg(test)]
mod tests {
    use nigh_model::AcceptedKey;

    use super::*;

    fn decided(ids: &[GossipKeyId]) -> GossipKeys {
        let accepted = (1..).zip(ids).map(|(since, id)| AcceptedKey { id: *id, since }).collect();
        GossipKeys { accepted, sending: ids.last().copied(), stale: 0 }
    }

    fn held(keys: &Keys) -> Vec<GossipKeyId> {
        keys.ring().keys().iter().map(GossipKey::id).collect()
    }

    #[tokio::test]
    async fn keys_are_on_disk_when_they_are_used_and_gone_from_it_when_retired() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let keys = Keys::open(&data).unwrap();
        let first = keys.make().await.unwrap();
        assert_eq!(keys.make().await.unwrap(), first, "it waits to be accepted");
        keys.follow(&decided(&[first])).await.unwrap();
        let second = keys.make().await.unwrap();
        assert_eq!(held(&Keys::open(&data).unwrap()), [first, second]);
        keys.follow(&decided(&[first, second])).await.unwrap();
        keys.follow(&decided(&[second])).await.unwrap();
        assert_eq!(held(&keys), [second]);
        assert_eq!(held(&Keys::open(&data).unwrap()), [second]);
        let other = Keys::in_memory(Keyring::default());
        other.follow(&decided(&[second])).await.unwrap();
        other.take_in(keys.ring().for_a_new_node()).await.unwrap();
        assert_eq!(other.ring().sending(), keys.ring().sending());
    }

    #[tokio::test]
    async fn a_damaged_line_is_left_out_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let keys = Keys::open(&data).unwrap();
        let first = keys.make().await.unwrap();
        keys.follow(&decided(&[first])).await.unwrap();
        let second = keys.make().await.unwrap();
        let path = folder.path().join("identity").join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            let (ring, count) = parse(&damaged);
            assert!(count > 0 && ring.keys().iter().all(|key| held(&keys).contains(&key.id())));
            let (ring, _) = parse(&whole[..at]);
            assert!(ring.keys().iter().all(|key| held(&keys).contains(&key.id())));
        }
        let first_key = HEAD.len() + 30;
        let mut damaged = whole;
        damaged[first_key] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(held(&Keys::open(&data).unwrap()), [second]);
    }
}
