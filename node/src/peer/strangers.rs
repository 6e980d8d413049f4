//! Counts those who were turned away at the peer port, by why.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why somebody was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The TLS handshake failed: no TLS, a foreign or expired certificate.
    Handshake,
    /// A request for members only came without a certificate.
    NoCertificate,
    /// The certificate is that of a node that was removed.
    Removed,
    /// More connections than there is room for.
    TooMany,
    /// A message that names another sender than the certificate does.
    OtherSender,
}

/// How many were turned away.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    handshake: AtomicU64,
    no_certificate: AtomicU64,
    removed: AtomicU64,
    too_many: AtomicU64,
    other_sender: AtomicU64,
}

impl Strangers {
    /// One more was turned away.
    pub(crate) fn turned(&self, why: Turned) {
        self.counter(why).fetch_add(1, Relaxed);
    }

    /// All that were turned away, by the name of why.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 5] {
        [
            ("handshake", Turned::Handshake),
            ("no_certificate", Turned::NoCertificate),
            ("removed", Turned::Removed),
            ("too_many", Turned::TooMany),
            ("other_sender", Turned::OtherSender),
        ]
        .map(|(name, why)| (name, self.counter(why).load(Relaxed)))
    }

    fn counter(&self, why: Turned) -> &AtomicU64 {
        match why {
            Turned::Handshake => &self.handshake,
            Turned::NoCertificate => &self.no_certificate,
            Turned::Removed => &self.removed,
            Turned::TooMany => &self.too_many,
            Turned::OtherSender => &self.other_sender,
        }
    }
}
