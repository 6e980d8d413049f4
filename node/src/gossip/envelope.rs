//! What a gossip message looks like on the wire. Pure.
//!
//! One byte of format and the cluster's id, then the message as chitchat writes it. Whatever
//! does not begin so never reaches chitchat's decoder. This is the one place that knows the
//! wire: sealing a message is another format here, opened in place.

use bytes::{BufMut as _, Bytes, BytesMut};
use nigh_model::ClusterId;

/// The first byte: a message in the open.
const FORMAT_PLAIN: u8 = 0xA1;
/// The format and the cluster id.
const HEADER_BYTES: usize = 1 + 16;

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no nigh datagram, or of a format that this build does not know.
    Format,
    /// It is another cluster's.
    Cluster,
}

/// Wraps and unwraps the messages of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    cluster: [u8; 16],
}

impl Envelope {
    /// For this cluster.
    pub(super) fn new(cluster: &ClusterId) -> Self {
        let id = u128::from_str_radix(cluster.as_str(), 16);
        let id = id.expect("a cluster id is 32 hexadecimal digits");
        Self { cluster: id.to_be_bytes() }
    }

    /// Wraps a message.
    pub(super) fn seal(&self, message: &[u8]) -> Bytes {
        let mut datagram = BytesMut::with_capacity(HEADER_BYTES + message.len());
        datagram.put_u8(FORMAT_PLAIN);
        datagram.put_slice(&self.cluster);
        datagram.put_slice(message);
        datagram.freeze()
    }

    /// Unwraps a message in place.
    ///
    /// # Errors
    /// When it is not one of this cluster.
    pub(super) fn open<'d>(&self, datagram: &'d mut [u8]) -> Result<&'d [u8], Refused> {
        let (header, message) = datagram.split_at_checked(HEADER_BYTES).ok_or(Refused::Format)?;
        match header {
            [FORMAT_PLAIN, cluster @ ..] if *cluster == self.cluster => Ok(message),
            [FORMAT_PLAIN, ..] => Err(Refused::Cluster),
            _ => Err(Refused::Format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(digit: &str) -> Envelope {
        Envelope::new(&ClusterId::new(digit.repeat(32)).unwrap())
    }

    #[test]
    fn opens_what_it_sealed() {
        for message in [&b""[..], b"x", &[7; 5_000]] {
            let mut datagram = envelope("a").seal(message).to_vec();
            assert_eq!(envelope("a").open(&mut datagram), Ok(message));
        }
    }

    #[test]
    fn refuses_other_clusters_and_noise() {
        let mut datagram = envelope("a").seal(b"hello").to_vec();
        assert_eq!(envelope("b").open(&mut datagram), Err(Refused::Cluster));
        assert_eq!(envelope("a").open(&mut datagram[..HEADER_BYTES - 1]), Err(Refused::Format));
        datagram[0] ^= 1;
        assert_eq!(envelope("a").open(&mut datagram), Err(Refused::Format));
        assert_eq!(envelope("a").open(&mut []), Err(Refused::Format));
    }
}
