//! Whether anything happens on a connection of HTTP/1.1, looked at every now and then: a timer of its own for each
//! request would cost every call.
//!
//! Decided from what the parts of a connection have noted since the last look. The time is counted in looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A connection is looked at this often.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// A request's head must be there by then, counted from when the last answer was over.
const HEAD_WAIT_LOOKS: u32 = 30;
/// So long may an idle connection be kept, in all.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);

/// What happens on a connection; its parts are told of it.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Bytes came or went since the last look.
    moved: AtomicBool,
    /// Bytes wait for the caller to take them.
    blocked: AtomicBool,
    /// Calls that have begun.
    begun: AtomicU32,
    /// Of these, those whose answers are over.
    over: AtomicU32,
    /// A request's body was not read to its end.
    unread: AtomicBool,
}

/// A call on its way: until the last byte of its answer is taken from its function.
#[derive(Debug)]
pub(super) struct Beat(Arc<Pulse>);

impl Pulse {
    /// Bytes came, or the caller has taken some.
    pub(super) fn moved(&self) {
        self.moved.store(true, Relaxed);
    }

    /// Whether bytes wait for the caller to take them.
    pub(super) fn blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Relaxed);
    }

    /// A call begins; whether it has a body.
    pub(super) fn begins(self: &Arc<Self>, has_body: bool) -> Beat {
        self.begun.fetch_add(1, Relaxed);
        self.unread.store(has_body, Relaxed);
        Beat(Arc::clone(self))
    }

    /// The body of its request was read to its end.
    pub(super) fn read(&self) {
        self.unread.store(false, Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.over.fetch_add(1, Relaxed);
    }
}

/// What is to be done with a connection that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Going,
    /// Nothing happens, and nothing is on its way.
    Idle,
    /// The head of a request did not come in time.
    Late,
}

/// What was seen of a connection so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    begun: u32,
    /// Looks since a call was last under way.
    waited: u32,
}

impl Seen {
    /// Looks at a connection.
    pub(super) fn look(&mut self, pulse: &Pulse) -> Verdict {
        let moved = pulse.moved.swap(false, Relaxed);
        let begun = pulse.begun.load(Relaxed);
        let is_called = begun != pulse.over.load(Relaxed);
        if is_called || begun != self.begun {
            *self = Self { begun, waited: 0 };
            return Verdict::Going;
        }
        self.waited += 1;
        if self.waited >= HEAD_WAIT_LOOKS {
            return Verdict::Late;
        }
        if moved || pulse.blocked.load(Relaxed) || pulse.unread.load(Relaxed) {
            return Verdict::Going;
        }
        Verdict::Idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_idle_when_nothing_has_moved_and_nothing_is_on_its_way() {
        let (pulse, mut seen) = (Arc::new(Pulse::default()), Seen::default());
        let call = pulse.begins(true);
        for _ in 0..100 {
            assert_eq!(seen.look(&pulse), Verdict::Going, "it is called");
        }
        drop(call);
        assert_eq!(seen.look(&pulse), Verdict::Going, "its body was not read");
        pulse.read();
        pulse.blocked(true);
        assert_eq!(seen.look(&pulse), Verdict::Going, "its answer was not taken");
        pulse.blocked(false);
        pulse.moved();
        assert_eq!(seen.look(&pulse), Verdict::Going, "it was just taken");
        assert_eq!(seen.look(&pulse), Verdict::Idle);
        drop(pulse.begins(false));
        assert_eq!(seen.look(&pulse), Verdict::Going, "it was called since");
        assert_eq!(seen.look(&pulse), Verdict::Idle);
    }

    #[test]
    fn a_head_that_comes_by_the_drop_is_not_waited_for() {
        let (pulse, mut seen) = (Arc::new(Pulse::default()), Seen::default());
        let looks = (1..).find(|_| {
            pulse.moved();
            seen.look(&pulse) == Verdict::Late
        });
        assert_eq!(looks.unwrap() * LOOK, Duration::from_secs(60));
        let mut seen = Seen::default();
        for _ in 0..1_000 {
            drop(pulse.begins(false));
            assert_eq!(seen.look(&pulse), Verdict::Going, "each of its heads is in time");
        }
    }
}
