//! Guests that have used up their slice wait here until it is their turn again, one for each time that the
//! thread has looked at its sockets: what has come meanwhile goes first, however many there are that wait.
//!
//! [`Fair`] says whose turn it is.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::fair::{Fair, Waiting};
use crate::slice::Slice;

/// Slices shorter than this are not accounted for: calls of such guests are over before they are in anybody's way,
/// and there may be very many of them.
const SHORT: Duration = Duration::from_micros(125);

thread_local! {
    static HERE: RefCell<Option<Arc<Turns>>> = const { RefCell::new(None) };
}

/// The guests that wait for a thread.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    fair: Mutex<Fair<Waker>>,
    /// Somebody waits, or has run for long.
    begun: Notify,
}

impl Turns {
    /// Has the guests of this thread wait there. The future gives them their turns, and is to be run here.
    pub(crate) fn begin(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        HERE.set(Some(Arc::clone(self)));
        let turns = Arc::clone(self);
        async move {
            loop {
                turns.begun.notified().await;
                let mut short = None;
                loop {
                    // Until the thread has looked at its sockets, and run what it found there.
                    yield_now().await;
                    let next = turns.fair().pick();
                    match next {
                        Some(guest) => {
                            short.get_or_insert_with(Slice::short);
                            guest.wake();
                        }
                        None => break,
                    }
                }
            }
        }
    }

    /// Who waits, and how many of them are of this account.
    pub(crate) fn waiting(&self, account: u64) -> Waiting {
        self.fair().waiting(account)
    }

    /// How far this account is behind those that wait, in ns; below 0: ahead of them. None: nobody waits.
    pub(crate) fn behind_ns(&self, account: u64) -> Option<i64> {
        self.fair().behind_ns(account)
    }

    fn fair(&self) -> MutexGuard<'_, Fair<Waker>> {
        self.fair.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody of this account waits, whom nobody wakes but the loop of the thread.
    #[cfg(test)]
    pub(crate) fn waits(&self, account: u64, wakes: Waker) -> u64 {
        self.fair().wait(account, None, Duration::ZERO, wakes)
    }

    /// An account has run for this long, of which the loop is not told.
    #[cfg(test)]
    pub(crate) fn had(&self, account: u64, time: Duration) {
        self.fair().took(account, time);
    }

    fn took(&self, account: u64, time: Duration) {
        let is_full = self.fair().took(account, time);
        if is_full {
            self.begun.notify_one();
        }
    }
}

/// A guest has run for this long on this thread.
pub(crate) fn took(account: u64, time: Duration) {
    if time >= SHORT {
        HERE.with_borrow(|turns| turns.as_ref().map_or((), |turns| turns.took(account, time)));
    }
}

/// Whether a call has to wait for its turn before it begins on this thread, as its account is ahead of others.
pub(crate) fn is_to_wait(account: u64) -> bool {
    HERE.with_borrow(|turns| turns.as_ref().is_some_and(|turns| !turns.fair().may_begin(account)))
}

/// What a guest waits for; it has waited before by this ticket, and has run for so long.
#[derive(Debug)]
pub(crate) struct Turn {
    account: u64,
    first: Option<u64>,
    ran: Duration,
    /// Where it waits, by which ticket.
    place: Option<(Arc<Turns>, u64)>,
    /// Whether it has given a thread away on which nobody takes turns.
    yielded: bool,
}

impl Turn {
    pub(crate) const fn of(account: u64, first: Option<u64>, ran: Duration) -> Self {
        Self { account, first, ran, place: None, yielded: false }
    }
}

impl Future for Turn {
    /// The ticket of its call.
    type Output = Option<u64>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u64>> {
        let Self { account, first, ran, place, yielded } = &mut *self;
        if let Some((turns, ticket)) = place {
            return match turns.fair().waiter(*account, *ticket) {
                Some(waker) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                None => Poll::Ready(first.or(Some(*ticket))),
            };
        }
        let Some(turns) = HERE.with_borrow(Clone::clone) else {
            if std::mem::replace(yielded, true) {
                return Poll::Ready(*first);
            }
            // Whoever lets go of a guest elsewhere polls it there once: it goes on where it is moved to.
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        let ticket = turns.fair().wait(*account, *first, *ran, context.waker().clone());
        turns.begun.notify_one();
        *place = Some((turns, ticket));
        Poll::Pending
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((turns, ticket)) = self.place.take() {
            turns.fair().leave(self.account, ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::{LocalSet, yield_now};

    use super::*;
    use crate::ticker::TICK;

    /// Runs on a thread that gives turns.
    fn taking_turns(work: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let turns = Arc::<Turns>::default();
        LocalSet::new().block_on(&runtime, async move {
            tokio::task::spawn_local(turns.begin());
            work().await;
        });
        HERE.set(None);
    }

    #[test]
    fn between_two_turns_all_that_is_ready_runs() {
        taking_turns(async || {
            let seen = Rc::new(RefCell::new(Vec::new()));
            for (name, account) in [("a", 1), ("b", 1), ("c", 2)] {
                let seen = Rc::clone(&seen);
                tokio::task::spawn_local(async move {
                    let mut first = None;
                    for n in 0..50 {
                        first = Turn::of(account, first, n * TICK).await;
                        seen.borrow_mut().push(name);
                        took(account, TICK);
                    }
                });
            }
            while seen.borrow().len() < 60 {
                let before = seen.borrow().len();
                yield_now().await;
                assert!(seen.borrow().len() <= before + 1, "{:?}", seen.borrow());
            }
            let share = seen.borrow().iter().filter(|name| **name == "c").count();
            assert!((29..=31).contains(&share), "{share} of 60 for one of two accounts");
        });
    }

    #[test]
    fn a_guest_that_goes_while_it_waits_is_not_waited_for() {
        taking_turns(async || {
            let turns = HERE.with_borrow(Clone::clone).unwrap();
            let mut turn = Box::pin(Turn::of(1, None, TICK));
            assert!(futures::poll!(turn.as_mut()).is_pending());
            assert_eq!(turns.waiting(1).own, 1);
            drop(turn);
            assert_eq!(turns.waiting(1).own, 0);
            assert!(Turn::of(2, None, TICK).await.is_some());
        });
    }

    #[test]
    fn a_guest_that_is_let_go_of_elsewhere_gives_that_thread_away_and_waits_where_it_is_moved_to() {
        let mut turn = Box::pin(Turn::of(1, None, TICK));
        let mut context = Context::from_waker(Waker::noop());
        assert!(turn.as_mut().poll(&mut context).is_pending());
        taking_turns(async || {
            let turns = HERE.with_borrow(Clone::clone).unwrap();
            assert!(futures::poll!(turn.as_mut()).is_pending());
            assert_eq!(turns.waiting(1).own, 1);
            assert!(turn.await.is_some());
        });
    }

    #[test]
    fn who_has_had_more_than_others_waits_to_begin() {
        taking_turns(async || {
            took(1, 2 * TICK);
            assert!(!is_to_wait(1), "it is alone");
            took(2, TICK);
            assert!(is_to_wait(1) && !is_to_wait(2) && !is_to_wait(3), "the round is full");
            // Until the sockets were looked at.
            while is_to_wait(1) {
                yield_now().await;
            }
            let mut turn = Box::pin(Turn::of(2, None, TICK));
            assert!(futures::poll!(turn.as_mut()).is_pending());
            assert!(is_to_wait(1) && !is_to_wait(2) && !is_to_wait(3), "another one waits");
        });
    }
}
