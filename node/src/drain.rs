//! Stopping without a failed call: others are told first, then nothing new is taken, then what
//! runs goes on to its end.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::Instrument as _;

use crate::control::hand_over;
use crate::daemon::Node;

/// Calls that run get this long to end at least, and as long as the longest of them may take.
const DRAIN_MIN: Duration = Duration::from_secs(30);
/// Callers and nodes are still served for this long, as they have not all heard yet: news goes
/// round by gossip within five rounds.
const LINGER_MIN: Duration = Duration::from_secs(1);
/// Who still holds a connection, or comes anew, is served for this long: callers over HTTP/1.1 are
/// told with an answer, so that they have to call once more.
const LINGER_MAX: Duration = Duration::from_secs(3);
/// Nobody came for this long: nobody is on the way.
const QUIET: Duration = Duration::from_millis(500);
/// Between two looks at what still goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Node {
    /// Gives everything up that others can do instead, and returns when no call runs here any
    /// more, or when the longest that any may take is over (30 s at least). Leadership is handed
    /// over. Dropped, it has no effect any more but those it had; [`shutdown`](Self::shutdown)
    /// comes next.
    pub async fn drain(&self) {
        let span = self.span.clone();
        async {
            let began = Instant::now();
            let limit = began + self.drain_limit();
            tracing::info!("leaving: others are told");
            self.stopping.leaving.cancel();
            if timeout_at(limit, async {
                tokio::join!(self.linger(began), hand_over(&self.control))
            })
            .await
            .is_err()
            {
                tracing::debug!("nobody took leadership over");
            }
            self.stopping.closing.cancel();
            let ended = timeout_at(limit, async {
                while !self.is_idle() {
                    sleep(LOOK_INTERVAL).await;
                }
            });
            match ended.await {
                Ok(()) => tracing::info!(after = ?began.elapsed(), "no call runs any more"),
                Err(_) => tracing::warn!(
                    calls = self.metrics.calls_under_way(),
                    guests = self.engine.running(),
                    "calls still run and are cut off: the longest time that any may take is over"
                ),
            }
        }
        .instrument(span)
        .await;
    }

    /// How long the calls that run may take by what is deployed.
    fn drain_limit(&self) -> Duration {
        let state = self.control.decided.state();
        let revisions = state.apps.values().flat_map(|app| app.revisions.values());
        let specs = revisions.flat_map(|revision| revision.spec.functions.values());
        let longest_ms = specs.map(|spec| spec.limits.timeout_ms).max().unwrap_or(0);
        LINGER_MAX + DRAIN_MIN.max(Duration::from_millis(longest_ms))
    }

    /// Serves on until everybody has heard that this node leaves.
    async fn linger(&self, began: Instant) {
        sleep_until(began + LINGER_MIN).await;
        let (mut came, mut since) = (self.stopping.comings(), began);
        while began.elapsed() < LINGER_MAX {
            let now = self.stopping.comings();
            if now != came {
                (came, since) = (now, Instant::now());
            }
            if self.metrics.connections().get() == 0 && since.elapsed() >= QUIET {
                return;
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Whether no caller and no other node waits for anything here.
    fn is_idle(&self) -> bool {
        self.metrics.connections().get() == 0
            && self.metrics.calls_under_way() == 0
            && self.engine.running() == 0
    }
}
