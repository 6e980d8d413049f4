//! The steps in which a node stops, so that nobody loses a call by it.
//!
//! 1. *leaving*: everything goes on, but others are told to go elsewhere: by gossip, by
//!    `Connection: close` on each HTTP/1.1 answer, by GOAWAY over HTTP/2.
//! 2. *closing*: no new connection; calls that run go on to their end.
//! 3. *parting*: the other nodes are no longer served either.
//!
//! It deliberately says nothing of how long each lasts: that is for whoever stops the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio_util::sync::CancellationToken;

/// How far a node has come in stopping, and whether callers still come. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Stopping {
    /// Others shall go elsewhere.
    pub(crate) leaving: CancellationToken,
    /// No new connection of callers.
    pub(crate) closing: CancellationToken,
    /// No new connection of other nodes.
    pub(crate) parting: CancellationToken,
    came: Arc<AtomicU64>,
}

impl Stopping {
    /// One that closes with this token.
    #[cfg(test)]
    pub(crate) fn closing_with(closing: CancellationToken) -> Self {
        Self { closing, ..Self::default() }
    }

    /// A caller has connected or asked for something.
    pub(crate) fn came(&self) {
        self.came.fetch_add(1, Relaxed);
    }

    /// How often callers came.
    pub(crate) fn comings(&self) -> u64 {
        self.came.load(Relaxed)
    }

    /// All steps at once.
    pub(crate) fn at_once(&self) {
        self.leaving.cancel();
        self.closing.cancel();
        self.parting.cancel();
    }
}
