//! A member of a cluster that is played by a test: it holds a key and says what it is told to.

use bytes::Bytes;

use super::*;
use crate::clock;
use crate::gossip::envelope::Envelope;
use crate::gossip::sessions::{Content, Letter};

/// What a member's datagrams are sealed with.
pub(super) struct Seal {
    envelope: Envelope,
    key: GossipKey,
}

impl Seal {
    pub(super) fn of(cluster: &ClusterId, key: GossipKey) -> Self {
        Self { envelope: Envelope::new(cluster), key }
    }

    /// The seal of the test clusters.
    pub(super) fn own() -> Self {
        Self::of(&cluster_id(), key(1))
    }

    pub(super) fn seal(&self, session: u64, sent_ms: u64, content: Content) -> Bytes {
        let letter = Letter { session, sent_ms, content };
        self.envelope.seal(&self.key, clock::random_bytes(), &letter)
    }

    pub(super) fn open(&self, datagram: &[u8]) -> Option<Letter> {
        let ring = Keyring::new([self.key.clone()]);
        self.envelope.open(&ring, &mut datagram.to_vec()).ok()
    }
}

/// A member with a session of its own, which nodes have come to trust.
pub(super) struct Member {
    pub(super) socket: UdpSocket,
    seal: Seal,
    session: u64,
    began: Instant,
}

impl Member {
    pub(super) async fn new() -> Self {
        let socket = free_socket().await;
        Self { socket, seal: Seal::own(), session: clock::random(), began: Instant::now() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        address_of(&self.socket)
    }

    pub(super) fn seal(&self, content: Content) -> Bytes {
        let sent_ms = self.began.elapsed().as_millis() as u64;
        self.seal.seal(self.session, sent_ms, content)
    }

    pub(super) fn message(&self, message: &[u8]) -> Bytes {
        self.seal(Content::Message(Bytes::copy_from_slice(message)))
    }

    /// Answers the node's question, so that it is heard from then on.
    pub(super) async fn meet(&self, node: SocketAddr) {
        self.socket.send_to(&self.message(b"no message"), node).await.unwrap();
        let mut buffer = [0; 2_048];
        loop {
            let received = self.socket.recv_from(&mut buffer);
            let received = tokio::time::timeout(HAPPENED_WITHIN, received).await;
            let (length, from) = received.expect("the node asks").unwrap();
            let letter = self.seal.open(&buffer[..length]);
            if let Some(Letter { content: Content::Question(number), .. }) = letter
                && from == node
            {
                let answer = self.seal(Content::Answer(number));
                self.socket.send_to(&answer, node).await.unwrap();
                return;
            }
        }
    }
}
