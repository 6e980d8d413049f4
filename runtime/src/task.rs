//! A guest that runs: on its caller's thread, as part of what its caller does, or as a task of its own.
//!
//! A caller on a guest thread runs its guest itself: no other task has to be woken for it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::threads::{Seat, Threads};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running guest. It is stopped when this goes, unless it was let go.
pub(crate) struct Task {
    threads: Threads,
    state: State,
}

enum State {
    /// It runs when this is polled.
    Here(Work),
    /// The same, and goes on without its caller in the end.
    LeftBehind(Work),
    /// It runs by itself.
    There(AbortHandle),
    /// It has ended, or nobody waits for its end.
    Gone,
}

impl Task {
    /// Starts a guest of an account: here, if this is a guest thread and no other is better for it.
    pub(crate) fn start(
        threads: &Threads,
        account: u64,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let state = match threads.better(account) {
            Some(seat) => State::There(spawn(seat, work)),
            None if threads.is_here() => State::Here(Box::pin(work)),
            None => State::There(spawn(threads.seat(), work)),
        };
        Self { threads: threads.clone(), state }
    }

    /// Lets a guest that runs here go on.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) {
        let (State::Here(work) | State::LeftBehind(work)) = &mut self.state else { return };
        if work.as_mut().poll(context).is_ready() {
            self.state = State::Gone;
        }
    }

    /// Lets it go on until something has come.
    pub(crate) async fn until<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        poll_fn(|context| {
            self.poll(context);
            what.as_mut().poll(context)
        })
        .await
    }

    /// Has a guest that runs here run by itself, on this thread: who takes what it writes may stop taking,
    /// and its time must end all the same.
    pub(crate) fn stand_alone(&mut self) {
        if !matches!(self.state, State::Here(_)) {
            return;
        }
        let Ok(here) = Handle::try_current() else { return };
        if let State::Here(work) = std::mem::replace(&mut self.state, State::Gone) {
            self.state = State::There(here.spawn(work).abort_handle());
        }
    }

    /// Lets the guest end by itself, within its limits, when its caller goes.
    pub(crate) fn let_go(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Here(work) => State::LeftBehind(work),
            State::LeftBehind(work) => State::LeftBehind(work),
            State::There(_) | State::Gone => State::Gone,
        };
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Here(_) | State::Gone => {}
            State::There(guest) => guest.abort(),
            State::LeftBehind(mut work) => {
                // Most have nothing left to do but to end.
                let seat = self.threads.seat();
                let entered = seat.handle().enter();
                let mut context = Context::from_waker(Waker::noop());
                let poll = work.as_mut().poll(&mut context);
                drop(entered);
                if poll.is_pending() {
                    spawn(seat, work);
                }
            }
        }
    }
}

/// Runs a guest by itself.
fn spawn(seat: Seat, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let handle = seat.handle().clone();
    let task = handle.spawn(async move {
        let _seat = seat;
        work.await;
    });
    task.abort_handle()
}
