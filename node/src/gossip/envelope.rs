//! What a gossip message looks like on the wire. Pure.
//!
//! | bytes | |
//! |---|---|
//! | 1 | format |
//! | 8 | id of the key |
//! | 24 | nonce, random |
//! | 16 | tag |
//! | … | sealed with XChaCha20-Poly1305: kind, session, time, then a message or a number |
//!
//! Format, key id and the cluster's id are associated data: what another cluster sealed does not
//! open, whatever key it has. Whatever does not open never reaches chitchat's decoder, and costs
//! one decryption at most, none when the key is not known. This is the one place that knows the
//! wire; the same goes over the peer connection, so that there is one door and not two.
//!
//! Nonces are 24 random bytes: with one key, no two of 2^80 datagrams share one but by a chance of
//! 2^-32. Nothing has to be counted or remembered for that.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{KeyInit as _, Tag, XChaCha20Poly1305, XNonce};
use nigh_model::{ClusterId, GossipKeyId};

use super::keyring::{GossipKey, Keyring};
use super::sessions::{Content, Letter};

/// The first byte: a sealed letter.
const FORMAT_SEALED: u8 = 0xA2;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 24;
/// The format and the key's id: what is associated, before the cluster's id.
const HEADER_BYTES: usize = 1 + 8;
const CLUSTER_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// What comes before the sealed part.
const FRONT_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

const KIND_MESSAGE: u8 = 0;
const KIND_QUESTION: u8 = 1;
const KIND_ANSWER: u8 = 2;

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no nigh datagram, or of a format that this build does not know.
    Format,
    /// The key is not accepted here: it is another cluster's, or a retired one.
    Key,
    /// The seal is not of this key and cluster, or something was changed.
    Seal,
    /// The seal is good and what is under it makes no sense.
    Content,
}

/// Wraps and unwraps the letters of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    cluster: [u8; CLUSTER_BYTES],
}

impl Envelope {
    /// For this cluster.
    pub(super) fn new(cluster: &ClusterId) -> Self {
        let id = u128::from_str_radix(cluster.as_str(), 16);
        let id = id.expect("a cluster id is 32 hexadecimal digits");
        Self { cluster: id.to_be_bytes() }
    }

    /// Seals a letter. The nonce must be drawn anew for each.
    pub(super) fn seal(&self, key: &GossipKey, nonce: [u8; NONCE_BYTES], letter: &Letter) -> Bytes {
        let header = header(key.id());
        let mut datagram = BytesMut::with_capacity(FRONT_BYTES + size(letter));
        datagram.put_slice(&header);
        datagram.put_slice(&nonce);
        datagram.put_bytes(0, TAG_BYTES);
        put_letter(&mut datagram, letter);
        let (front, sealed) = datagram.split_at_mut(FRONT_BYTES);
        let cipher = XChaCha20Poly1305::new(key.secret().into());
        let tag = cipher
            .encrypt_in_place_detached(&nonce.into(), &self.associated(&header), sealed)
            .expect("a datagram is shorter than 256 GiB");
        front[HEADER_BYTES + NONCE_BYTES..].copy_from_slice(&tag);
        datagram.freeze()
    }

    /// Opens a letter in place.
    ///
    /// # Errors
    /// It was not sealed in this cluster with a key of the ring.
    pub(super) fn open(&self, ring: &Keyring, datagram: &mut [u8]) -> Result<Letter, Refused> {
        let (front, sealed) = datagram.split_at_mut_checked(FRONT_BYTES).ok_or(Refused::Format)?;
        let (header, rest) = front.split_first_chunk::<HEADER_BYTES>().ok_or(Refused::Format)?;
        let (nonce, tag) = rest.split_at(NONCE_BYTES);
        let [FORMAT_SEALED, id @ ..] = *header else { return Err(Refused::Format) };
        let key = ring.get(GossipKeyId(u64::from_be_bytes(id))).ok_or(Refused::Key)?;
        let (nonce, tag) = (XNonce::from_slice(nonce), Tag::from_slice(tag));
        XChaCha20Poly1305::new(key.secret().into())
            .decrypt_in_place_detached(nonce, &self.associated(header), sealed, tag)
            .map_err(|_| Refused::Seal)?;
        get_letter(sealed).ok_or(Refused::Content)
    }

    fn associated(&self, header: &[u8; HEADER_BYTES]) -> [u8; HEADER_BYTES + CLUSTER_BYTES] {
        let mut associated = [0; HEADER_BYTES + CLUSTER_BYTES];
        associated[..HEADER_BYTES].copy_from_slice(header);
        associated[HEADER_BYTES..].copy_from_slice(&self.cluster);
        associated
    }
}

fn header(id: GossipKeyId) -> [u8; HEADER_BYTES] {
    let mut header = [FORMAT_SEALED; HEADER_BYTES];
    header[1..].copy_from_slice(&id.0.to_be_bytes());
    header
}

fn size(letter: &Letter) -> usize {
    let content = match &letter.content {
        Content::Message(message) => message.len(),
        Content::Question(_) | Content::Answer(_) => 8,
    };
    1 + 8 + 8 + content
}

fn put_letter(to: &mut BytesMut, letter: &Letter) {
    to.put_u8(match letter.content {
        Content::Message(_) => KIND_MESSAGE,
        Content::Question(_) => KIND_QUESTION,
        Content::Answer(_) => KIND_ANSWER,
    });
    to.put_u64(letter.session);
    to.put_u64(letter.sent_ms);
    match &letter.content {
        Content::Message(message) => to.put_slice(message),
        Content::Question(number) | Content::Answer(number) => to.put_u64(*number),
    }
}

fn get_letter(mut from: &[u8]) -> Option<Letter> {
    let kind = from.try_get_u8().ok()?;
    let (session, sent_ms) = (from.try_get_u64().ok()?, from.try_get_u64().ok()?);
    let content = match kind {
        KIND_MESSAGE => Content::Message(Bytes::copy_from_slice(from)),
        KIND_QUESTION => Content::Question(from.try_get_u64().ok()?),
        KIND_ANSWER => Content::Answer(from.try_get_u64().ok()?),
        _ => return None,
    };
    Some(Letter { session, sent_ms, content })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use zeroize::Zeroizing;

    use super::*;

    const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

    fn envelope(digit: &str) -> Envelope {
        Envelope::new(&ClusterId::new(digit.repeat(32)).unwrap())
    }

    fn key(n: u8) -> GossipKey {
        GossipKey::new(Zeroizing::new([n; 32]))
    }

    fn letter(content: Content) -> Letter {
        Letter { session: 0x1234, sent_ms: 99, content }
    }

    fn message(text: &[u8]) -> Letter {
        letter(Content::Message(Bytes::copy_from_slice(text)))
    }

    #[test]
    fn opens_what_it_sealed_with_any_key_of_the_ring() {
        let ring = Keyring::new([key(1), key(2)]);
        let letters = [b"".as_slice(), b"x", &[7; 5_000]].map(message);
        let numbers = [Content::Question(5), Content::Answer(u64::MAX)].map(letter);
        for letter in letters.into_iter().chain(numbers) {
            for key in [key(1), key(2)] {
                let mut datagram = envelope("a").seal(&key, NONCE, &letter).to_vec();
                assert_eq!(datagram.len(), FRONT_BYTES + size(&letter));
                assert_eq!(envelope("a").open(&ring, &mut datagram), Ok(letter.clone()));
            }
        }
    }

    #[test]
    fn refuses_other_clusters_and_noise() {
        let ring = Keyring::new([key(1)]);
        let sealed = envelope("a").seal(&key(1), NONCE, &message(b"hello"));
        let open = |envelope: Envelope, datagram: &[u8]| {
            envelope.open(&ring, &mut datagram.to_vec()).unwrap_err()
        };
        // Even if it had the same key.
        assert_eq!(open(envelope("b"), &sealed), Refused::Seal);
        let other = envelope("b").seal(&key(2), NONCE, &message(b"hello"));
        assert_eq!(open(envelope("a"), &other), Refused::Key);
        assert_eq!(open(envelope("a"), &sealed[..FRONT_BYTES - 1]), Refused::Format);
        assert_eq!(open(envelope("a"), &[]), Refused::Format);
        let mut plain = sealed.to_vec();
        plain[0] = 0xA1;
        assert_eq!(open(envelope("a"), &plain), Refused::Format);
    }

    #[test]
    fn no_byte_can_be_changed_or_cut_off() {
        let ring = Keyring::new([key(1)]);
        let sealed = envelope("a").seal(&key(1), NONCE, &message(b"hello"));
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.to_vec();
                changed[at] ^= 1 << bit;
                assert!(envelope("a").open(&ring, &mut changed).is_err(), "bit {bit} of byte {at}");
            }
            assert!(envelope("a").open(&ring, &mut sealed[..at].to_vec()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn neither_the_message_nor_the_cluster_can_be_read() {
        let text = b"node 7 is draining";
        let sealed = envelope("a").seal(&key(1), NONCE, &message(text));
        let holds = |part: &[u8]| sealed.windows(part.len()).any(|window| window == part);
        assert!(!holds(text) && !holds(&[0xaa; CLUSTER_BYTES]) && !holds(&[1; 8]));
    }

    #[test]
    fn a_good_seal_around_nonsense_is_refused() {
        for bytes in [&[][..], &[KIND_MESSAGE; 16], &[KIND_QUESTION; 24], &[9; 40]] {
            assert_eq!(get_letter(bytes), None);
        }
    }

    /// Prints what sealing costs; run it with `--release -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn measure_the_cost_of_a_seal() {
        const ROUNDS: u32 = 50_000;
        let (envelope, ring) = (envelope("a"), Keyring::new([key(1)]));
        let letter = message(&[7; 1_200 - FRONT_BYTES - 17]);
        let began = Instant::now();
        for _ in 0..ROUNDS {
            let nonce = crate::clock::random_bytes();
            std::hint::black_box(envelope.seal(&key(1), nonce, &letter));
        }
        let sealing = began.elapsed() / ROUNDS;
        let sealed = envelope.seal(&key(1), NONCE, &letter).to_vec();
        let began = Instant::now();
        for _ in 0..ROUNDS {
            let mut datagram = sealed.clone();
            std::hint::black_box(envelope.open(&ring, &mut datagram)).unwrap();
        }
        let opening = began.elapsed() / ROUNDS;
        let began = Instant::now();
        for _ in 0..ROUNDS {
            let mut datagram = sealed.clone();
            datagram[FRONT_BYTES] ^= 1;
            std::hint::black_box(envelope.open(&ring, &mut datagram)).unwrap_err();
        }
        let refusing = began.elapsed() / ROUNDS;
        println!("1,200 bytes: seal {sealing:?}, open {opening:?}, refuse {refusing:?}");
    }
}
