//! The threads of guests as calls meet them: which one a call is on, its marker, and its measurements.
//!
//! [`Lane`] decides. A thread takes its own lane's lock mostly alone: others come only with the first call over a
//! connection of gRPC or of a peer.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nigh_runtime::{Threads, guest_time};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lane::{Lane, Side, Slice, Verdict};

/// A call is refused since the threads have too much to do; when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Overloaded(pub(in crate::gateway) Duration);

/// All threads of guests.
pub(super) struct Lanes {
    threads: Threads,
    lanes: Vec<Arc<Shared>>,
}

struct Shared {
    lane: Mutex<Lane>,
    /// Sends the marker round.
    mark: Notify,
}

/// A call that was let onto a thread, until the head of its answer is there.
pub(in crate::gateway) struct Pass {
    lane: Arc<Shared>,
    function: u64,
    here: bool,
}

impl Lanes {
    pub(super) fn new(threads: &Threads, slots: u32) -> Self {
        let lane = |handle: &tokio::runtime::Handle| {
            let lane = Mutex::new(Lane::of(threads.handles().count(), slots));
            let shared = Arc::new(Shared { lane, mark: Notify::new() });
            // It ends with its thread.
            handle.spawn(go_round(Arc::clone(&shared)));
            shared
        };
        Self { threads: threads.clone(), lanes: threads.handles().map(lane).collect() }
    }

    pub(super) fn pass(&self, function: u64) -> Result<Pass, Overloaded> {
        let now = Instant::now();
        let (n, side) = self.lane(now);
        let shared = &self.lanes[n];
        let waiting = self.threads.waiting(n, function);
        let (marks, verdict) = {
            let mut lane = shared.lane();
            (lane.marks(now), lane.arrive(side, now, function, waiting))
        };
        if marks {
            shared.mark.notify_one();
        }
        match verdict {
            Verdict::Run => {
                Ok(Pass { lane: Arc::clone(shared), function, here: side == Side::Here })
            }
            Verdict::Refused(after) => Err(Overloaded(after)),
        }
    }

    pub(super) fn may_send_on(&self) -> bool {
        let (n, _) = self.lane(Instant::now());
        self.lanes[n].lane().may_send_on()
    }

    pub(super) fn turn(&self) -> Duration {
        let now = Instant::now();
        let delays = self.lanes.iter().map(|shared| shared.lane().delay(now));
        delays.max().unwrap_or(Duration::ZERO)
    }

    /// The lane of this thread; from another thread, the one that is gone round the fastest.
    fn lane(&self, now: Instant) -> (usize, Side) {
        if let Some(n) = self.threads.here() {
            return (n, Side::Here);
        }
        let fastest = (0..self.lanes.len()).min_by_key(|n| self.lanes[*n].lane().delay(now));
        (fastest.expect("an engine has a thread at least"), Side::Afar)
    }
}

/// The marker of a thread: put at the end of its run queue when it is told to.
async fn go_round(shared: Arc<Shared>) {
    loop {
        shared.mark.notified().await;
        shared.lane().turn(Instant::now(), guest_time());
    }
}

impl Shared {
    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Does what the call is for, and measures what its guest takes of this thread.
    pub(in crate::gateway) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        if !self.here {
            return work.await;
        }
        let mut work = pin!(work);
        let mut first = true;
        let mut in_all = Duration::ZERO;
        poll_fn(|context| {
            let before = guest_time();
            let poll = work.as_mut().poll(context);
            let took = guest_time().saturating_sub(before);
            let slice = if first { Slice::First } else { Slice::Later };
            in_all += took;
            let mut lane = self.lane.lane();
            lane.worked(self.function, took, slice);
            if poll.is_ready() {
                lane.ended(self.function, in_all);
            }
            // A call that waits for its turn has not begun.
            first &= took.is_zero();
            poll
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_runtime::{Engine, EngineConfig};

    fn engine() -> Engine {
        let config = EngineConfig { slots: 1, threads: 2, ..EngineConfig::default() };
        Engine::new(config).unwrap()
    }

    #[tokio::test]
    async fn a_call_is_on_the_lane_of_its_thread_and_its_marker_comes_round() {
        let engine = engine();
        let lanes = Arc::new(Lanes::new(engine.threads(), engine.slots()));
        for (n, handle) in engine.threads().handles().enumerate() {
            let lanes = Arc::clone(&lanes);
            let on = handle.spawn(async move {
                let pass = lanes.pass(0).ok().unwrap();
                assert!(pass.here && Arc::ptr_eq(&pass.lane, &lanes.lanes[n]));
                let waits = lanes.lanes[n].lane().delay(Instant::now() + Duration::from_secs(9));
                assert!(waits >= Duration::from_secs(9), "its marker is on its way");
                // It stands before whatever is woken now.
                while lanes.lanes[n].lane().delay(Instant::now() + Duration::from_secs(9))
                    > Duration::from_secs(8)
                {
                    tokio::task::yield_now().await;
                }
                pass.watch(async { 7 }).await
            });
            assert_eq!(on.await.unwrap(), 7);
        }
    }

    #[tokio::test]
    async fn a_call_from_elsewhere_goes_by_the_lane_that_is_the_fastest() {
        let engine = engine();
        let lanes = Lanes::new(engine.threads(), engine.slots());
        // A marker that nobody takes back: that thread hangs.
        assert!(lanes.lanes[0].lane().marks(Instant::now() - Duration::from_secs(1)));
        let pass = lanes.pass(0).ok().unwrap();
        assert!(!pass.here && Arc::ptr_eq(&pass.lane, &lanes.lanes[1]));
        assert!(lanes.turn() >= Duration::from_secs(1));
    }
}
