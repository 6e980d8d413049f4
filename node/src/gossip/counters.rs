//! What gossip counts.

use crate::count::Count;

/// What happened to messages since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Sent as a datagram.
    pub(crate) sent: Count,
    /// Sent over the peer connection because they fit no datagram.
    pub(crate) overflowed: Count,
    /// Of those: not answered, or refused.
    pub(crate) overflow_failed: Count,
    /// Not sent: too many were on their way, or the system refused.
    pub(crate) send_dropped: Count,
    /// Not sent: fits no datagram and no peer connection leads there.
    pub(crate) too_large: Count,
    /// Not sent: this node holds no accepted key.
    pub(crate) no_key: Count,
    /// Senders asked whether they are there: at first acquaintance, and when something old comes.
    pub(crate) questions: Count,
    /// Received, either way, and handed on.
    pub(crate) received: Count,
    /// Dropped: no nigh datagram, or of an unknown format.
    pub(crate) not_ours: Count,
    /// Dropped without a decryption: sealed with a key that is not accepted here: another cluster's
    /// or a retired one.
    pub(crate) unknown_key: Count,
    /// Dropped after one decryption: the seal is not of the key that it names and of this cluster.
    pub(crate) forged: Count,
    /// Dropped: too old, or of a sender that is no longer there or has not yet answered.
    pub(crate) stale: Count,
    /// Dropped: its content does not decode.
    pub(crate) undecodable: Count,
    /// Dropped: more were delivered over peer connections than could be taken in.
    pub(crate) inbox_full: Count,
    /// Gossip started again after a failure inside.
    pub(crate) restarts: Count,
}

impl Counters {
    /// What was refused, by kind: the values of a metric's label.
    pub(crate) fn refused(&self) -> [(&'static str, u64); 6] {
        [
            ("not_ours", self.not_ours.get()),
            ("unknown_key", self.unknown_key.get()),
            ("forged", self.forged.get()),
            ("stale", self.stale.get()),
            ("undecodable", self.undecodable.get()),
            ("inbox_full", self.inbox_full.get()),
        ]
    }
}
