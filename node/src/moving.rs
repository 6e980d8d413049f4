//! Connections that begin on the threads of the control plane and move to a thread of guests with the first
//! call that comes over them.
//!
//! A call then runs where its connection is, and no other thread has to be woken for it, neither when it comes
//! nor for its answer. It does not say what a call is: whoever answers the requests does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use futures::StreamExt as _;
use hyper_util::server::graceful::GracefulConnection;
use nigh_runtime::{Mover, Threads};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::gateway::aside;

/// Whether something was called over a connection. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Called(Arc<AtomicBool>);

impl Called {
    /// It was: the connection moves as soon as it has nothing to do.
    pub(crate) fn set(&self) {
        self.0.store(true, Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Serves a connection to its end, here until it is called over, then on a thread of guests. Told to `stop`, it
/// takes no more requests.
///
/// # Errors
/// As the connection's.
pub(crate) async fn serve<C>(
    connection: C,
    called: Called,
    mover: Mover,
    threads: &Threads,
    stop: CancellationToken,
) -> Result<(), C::Error>
where
    C: GracefulConnection + Send + 'static,
    C::Error: Send,
{
    let mut connection = Box::pin(connection);
    if let Some(ended) = drive(&mut connection, &stop, Some(&called)).await {
        return ended;
    }
    mover.move_on();
    let seat = threads.seat();
    let there = seat.handle().clone();
    let moved = there.spawn(async move {
        let _seat = seat;
        drive(&mut connection, &stop, None).await
    });
    // It ends with this. A panic has been told of where it happened.
    AbortOnDropHandle::new(moved).await.ok().flatten().unwrap_or(Ok(()))
}

/// Lets a connection go on to its end; none: it is `called` over, and not at its end.
async fn drive<C: GracefulConnection>(
    connection: &mut Pin<Box<C>>,
    stop: &CancellationToken,
    called: Option<&Called>,
) -> Option<Result<(), C::Error>> {
    let mut stopped = aside(stop.cancelled());
    poll_fn(|context| {
        if stopped.poll_next_unpin(context) == Poll::Ready(Some(())) {
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if called.is_some_and(Called::is_set) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Where everything else is done than calls.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    threads: Threads,
    handle: Handle,
}

impl Control {
    /// The scheduler that this is called on, which has none of these threads of guests.
    pub(crate) fn here(threads: Threads) -> Self {
        Self { threads, handle: Handle::current() }
    }

    /// Does something there; none: it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        if !self.threads.is_here() {
            return Some(work.await);
        }
        AbortOnDropHandle::new(self.handle.spawn(work)).await.ok()
    }
}
