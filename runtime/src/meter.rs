//! What a call may still use: decided from times that are handed in.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::Failure;
use crate::clock::Stopwatch;
use crate::ticker;
use crate::turns::{self, Turn};

thread_local! {
    static GUEST_TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// For how long guests have run on this thread, all of them together.
pub fn guest_time() -> Duration {
    GUEST_TIME.get()
}

/// What a call has used; shared with whoever holds its answer.
#[derive(Debug)]
pub struct Usage {
    account: u64,
    /// Whether the guest was seen busy for a whole tick.
    busy: AtomicBool,
    state: Mutex<State>,
}

impl Usage {
    pub(crate) fn new(account: u64, meter: Meter) -> Self {
        let state = State {
            meter,
            slice: None,
            ticket: None,
            memory_bytes_peak: 0,
            ended: false,
            failure: None,
        };
        Self { account, busy: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// CPU time so far; final when [`ended`](Self::ended).
    pub fn cpu(&self) -> Duration {
        self.state().meter.cpu
    }

    /// Most linear memory at once, in bytes; known when [`ended`](Self::ended).
    pub fn memory_bytes_peak(&self) -> u64 {
        self.state().memory_bytes_peak
    }

    /// Whether the guest has ended.
    pub fn ended(&self) -> bool {
        self.state().ended
    }

    /// How the guest failed in the end, even if its answer was complete by then.
    pub fn failure(&self) -> Option<Failure> {
        self.state().failure.clone()
    }

    /// Whether it has run for a whole tick once, and will take its thread for as long again.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Relaxed)
    }

    /// Waits until the guest has its next turn on this thread.
    pub(crate) async fn turn(self: Arc<Self>) {
        let (ticket, ran) = {
            let state = self.state();
            (state.ticket, state.meter.cpu)
        };
        let ticket = Turn::of(self.account, ticket, ran).await;
        self.state().ticket = ticket;
    }

    /// The guest gets a thread, if it may go on.
    pub(crate) fn slice_begins(&self) -> Verdict {
        let mut state = self.state();
        state.slice = Some(Stopwatch::start(self.is_busy()));
        state.meter.judge(Duration::ZERO, Instant::now())
    }

    /// The guest leaves its thread.
    pub(crate) fn slice_ends(&self) -> Verdict {
        let mut state = self.state();
        let slice = state.slice.take().map_or(Duration::ZERO, |slice| slice.elapsed());
        state.meter.settle(slice);
        let verdict = state.meter.judge_cpu(Duration::ZERO);
        drop(state);
        GUEST_TIME.set(GUEST_TIME.get().saturating_add(slice));
        turns::took(self.account, slice);
        verdict
    }

    /// An epoch has passed while the guest ran.
    pub(crate) fn tick(&self) -> Verdict {
        if self.busy.swap(true, Relaxed) {
            ticker::goes_on();
        }
        let state = self.state();
        let slice = state.slice.as_ref().map_or(Duration::ZERO, Stopwatch::elapsed);
        state.meter.judge(slice, Instant::now())
    }

    pub(crate) fn end(&self, memory_bytes_peak: u64, failure: Option<Failure>) {
        let mut state = self.state();
        state.memory_bytes_peak = memory_bytes_peak;
        state.failure = failure;
        state.ended = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct State {
    meter: Meter,
    /// The slice that runs now.
    slice: Option<Stopwatch>,
    /// By which it has waited for its turn first.
    ticket: Option<u64>,
    memory_bytes_peak: u64,
    ended: bool,
    failure: Option<Failure>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("meter", &self.meter).field("ended", &self.ended).finish()
    }
}

/// Whether a guest may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may.
    Go,
    /// Its CPU time is used up.
    Cpu,
    /// Its time is over.
    Deadline,
}

/// One call's account of time.
#[derive(Debug)]
pub(crate) struct Meter {
    deadline: Instant,
    cpu_max: Duration,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn new(deadline: Instant, cpu_max: Duration) -> Self {
        Self { deadline, cpu_max, cpu: Duration::ZERO }
    }

    /// Books a slice that has ended.
    fn settle(&mut self, slice: Duration) {
        self.cpu = self.cpu.saturating_add(slice);
    }

    /// Judges a guest whose current slice has lasted this long.
    fn judge(&self, slice: Duration, now: Instant) -> Verdict {
        if now >= self.deadline { Verdict::Deadline } else { self.judge_cpu(slice) }
    }

    fn judge_cpu(&self, slice: Duration) -> Verdict {
        if self.cpu.saturating_add(slice) > self.cpu_max { Verdict::Cpu } else { Verdict::Go }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slices_add_up_to_the_cpu_limit() {
        let start = Instant::now();
        let mut meter = Meter::new(start + 100 * MS, 10 * MS);
        meter.settle(6 * MS);
        assert_eq!(meter.judge(4 * MS, start), Verdict::Go);
        assert_eq!(meter.judge(5 * MS, start), Verdict::Cpu);
        meter.settle(5 * MS);
        assert_eq!(meter.judge_cpu(Duration::ZERO), Verdict::Cpu);
    }

    #[test]
    fn the_deadline_goes_before_the_cpu_limit() {
        let start = Instant::now();
        let meter = Meter::new(start + 10 * MS, 5 * MS);
        assert_eq!(meter.judge(MS, start + 9 * MS), Verdict::Go);
        assert_eq!(meter.judge(MS, start + 10 * MS), Verdict::Deadline);
        assert_eq!(meter.judge(9 * MS, start + 10 * MS), Verdict::Deadline);
    }
}
