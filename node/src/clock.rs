//! The one place where a node asks for the time of day and for randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use nigh_model::access::{Secret, TokenId};
use nigh_model::{ClusterId, RequestId};

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A new request id: 128 random bits.
pub(crate) fn request_id() -> RequestId {
    let mut digits = [0; 32];
    let _ = hex::encode_to_slice(random_bytes::<16>(), &mut digits);
    let text = std::str::from_utf8(&digits).unwrap_or_default();
    RequestId::new(text).expect("32 hexadecimal digits are a request id")
}

/// A new cluster id: 128 random bits.
pub(crate) fn cluster_id() -> ClusterId {
    let text = format!("{:032x}", rand::random::<u128>());
    ClusterId::new(text).expect("32 hexadecimal digits are a cluster id")
}

/// A new token's public and secret half.
pub(crate) fn token() -> (TokenId, Secret) {
    (TokenId::from_bytes(rand::random()), Secret::from_bytes(rand::random()))
}

/// A new key or nonce.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes);
    bytes
}

/// Random bits for jitter, salts and trace ids.
pub(crate) fn random() -> u64 {
    rand::random()
}
