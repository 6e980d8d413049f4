//! The threads that run guests, each with a scheduler, sockets and timers of its own: what begins on
//! one stays there.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::fair::Waiting;
use crate::turns::Turns;
use crate::{Error, gather};

/// A thread looks at sockets and timers after this many slices of guests: with the tick, timers are
/// late by 8 ms at most however busy the guests are.
const SLICES_PER_POLL: u32 = 8;
/// What comes from other threads, as new connections do, is looked at this often: by default it waits for
/// 31 slices, which are as many milliseconds beside busy guests.
const SLICES_PER_ARRIVAL: u32 = 2;
/// A thread has much more to do than another one when it is more by this part.
const MUCH_MORE: usize = 4;
/// An account that is behind all that wait by this much needs no other thread: most calls are over by then.
const BEHIND_MIN_NS: i64 = 6_000_000;
/// Threads for name look-ups of guests' outbound calls, for each thread of guests.
const LOOKUP_THREADS_MAX: usize = 16;

thread_local! {
    /// Of which set of threads this one is, 0: of none; and which of them.
    static SET: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// The threads of one engine. A clone is the same set.
#[derive(Clone, Debug)]
pub struct Threads {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: u64,
    workers: Vec<Worker>,
    /// Whose turn it is to be given something.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// What was given to it and has not ended.
    load: Arc<AtomicUsize>,
    turns: Arc<Turns>,
}

/// Keeps the threads going; they end when it is dropped, with all that runs on them.
#[derive(Debug)]
pub(crate) struct Going(#[expect(dead_code, reason = "dropped")] Vec<oneshot::Sender<()>>);

/// A place on one of the threads, for a connection or a guest; hold it as long as that lives.
#[derive(Debug)]
pub struct Seat {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

impl Threads {
    pub(crate) fn start(count: usize) -> Result<(Self, Going), Error> {
        static SETS: AtomicU64 = AtomicU64::new(1);
        let id = SETS.fetch_add(1, Relaxed);
        let internal = |error| Error::Internal { why: format!("guest threads: {error}") };
        let (mut workers, mut going) = (Vec::new(), Vec::new());
        for n in 0..count {
            let name = format!("guest-{n}");
            let runtime = Builder::new_current_thread()
                .max_blocking_threads(LOOKUP_THREADS_MAX)
                .thread_name(format!("{name}-lookup"))
                .event_interval(SLICES_PER_POLL)
                .global_queue_interval(SLICES_PER_ARRIVAL)
                .enable_all()
                .build()
                .map_err(internal)?;
            let turns = Arc::<Turns>::default();
            workers.push(Worker {
                handle: runtime.handle().clone(),
                load: Arc::default(),
                turns: Arc::clone(&turns),
            });
            let (sender, stopped) = oneshot::channel::<()>();
            going.push(sender);
            let work = move || {
                SET.set((id, n));
                runtime.spawn(turns.begin());
                match gather::begin() {
                    Some(gathering) => drop(runtime.spawn(gathering)),
                    None => tracing::info!("no io_submit here: each answer is sent by itself"),
                }
                // Nothing is ever sent.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            };
            thread::Builder::new().name(name).spawn(work).map_err(internal)?;
        }
        Ok((
            Self { inner: Arc::new(Inner { id, workers, next: AtomicUsize::new(0) }) },
            Going(going),
        ))
    }

    /// Whether this is one of them: who calls a function here runs it on the spot.
    pub fn is_here(&self) -> bool {
        self.here().is_some()
    }

    /// Which of them this is, in the order of [`handles`](Self::handles).
    pub fn here(&self) -> Option<usize> {
        let (set, n) = SET.get();
        (set == self.inner.id).then_some(n)
    }

    /// The scheduler of each.
    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.inner.workers.iter().map(|worker| &worker.handle)
    }

    /// Who waits for a turn on a thread, in the order of [`handles`](Self::handles), and how many of them are of
    /// this account.
    pub fn waiting(&self, thread: usize, account: u64) -> Waiting {
        let worker = self.inner.workers.get(thread);
        worker.map_or_else(Waiting::default, |worker| worker.turns.waiting(account))
    }

    /// A place on another thread for a guest of this account, if too many others go before it on this one and fewer
    /// there: where a connection sits says nothing of what comes over it. An account that waits on all of them
    /// stays where it is.
    pub(crate) fn better(&self, account: u64) -> Option<Seat> {
        let here = self.here()?;
        let workers = &self.inner.workers;
        let behind = workers[here].turns.behind_ns(account)?;
        if behind >= BEHIND_MIN_NS {
            return None;
        }
        let others = workers.iter().filter(|worker| worker.turns.waiting(account).own == 0);
        let best = others
            .map(|worker| (worker.turns.behind_ns(account).unwrap_or(i64::MAX), worker))
            .max_by_key(|(behind, _)| *behind);
        best.filter(|(there, _)| *there > behind).map(|(_, worker)| worker.seat())
    }

    /// A place on the next thread in turn, or where that has much more than another, on the one with the least: of
    /// few, each counts. In turn, since connections differ: many that come together, as one caller's do, shall not
    /// all sit where a few others have just gone.
    pub fn seat(&self) -> Seat {
        let Inner { workers, next, .. } = &*self.inner;
        let load = |worker: &Worker| worker.load.load(Relaxed);
        let least = workers.iter().map(load).min().unwrap_or_default();
        let in_turn = &workers[next.fetch_add(1, Relaxed) % workers.len()];
        let idlest = || workers.iter().min_by_key(|worker| load(worker)).unwrap_or(in_turn);
        let much_more = load(in_turn) > least + least / MUCH_MORE;
        if much_more { idlest().seat() } else { in_turn.seat() }
    }
}

impl Worker {
    fn seat(&self) -> Seat {
        self.load.fetch_add(1, Relaxed);
        Seat { handle: self.handle.clone(), load: Arc::clone(&self.load) }
    }
}

impl Seat {
    /// Where to spawn what sits here.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_spread_and_a_thread_that_has_little_gets_more() {
        let (threads, _going) = Threads::start(2).unwrap();
        assert!(!threads.is_here());
        let on = |seats: &[Seat]| {
            let ids: Vec<_> = threads.handles().map(Handle::id).collect();
            let at = |id| seats.iter().filter(|seat| seat.handle().id() == id).count();
            (at(ids[0]), at(ids[1]))
        };
        let mut seats: Vec<Seat> = (0..200).map(|_| threads.seat()).collect();
        assert_eq!(on(&seats), (100, 100));
        let first = threads.handles().next().unwrap().id();
        // A few go on one thread.
        let mut gone = 0;
        seats.retain(|seat| {
            seat.handle().id() != first || {
                gone += 1;
                gone > 15
            }
        });
        assert_eq!(on(&seats), (85, 100));
        let more: Vec<Seat> = (0..20).map(|_| threads.seat()).collect();
        assert_eq!(on(&more), (10, 10), "what comes together is spread");
        drop(more);
        seats.retain(|seat| seat.handle().id() != first);
        let more: Vec<Seat> = (0..60).map(|_| threads.seat()).collect();
        assert_eq!(on(&more), (60, 0), "it has nothing to do");
    }

    #[test]
    fn a_guest_runs_where_the_least_goes_before_it() {
        let (threads, _going) = Threads::start(2).unwrap();
        let [first, second] = &threads.inner.workers[..] else { panic!() };
        let noop = || std::task::Waker::noop().clone();
        let long = std::time::Duration::from_millis(20);
        let better = |account| {
            let (threads, (sender, found)) = (threads.clone(), std::sync::mpsc::channel());
            first.handle.spawn(async move {
                let seat = threads.better(account).map(|seat| seat.handle().id());
                sender.send(seat).unwrap();
            });
            found.recv().unwrap()
        };
        assert!(threads.better(1).is_none(), "this is none of them");
        assert!(better(1).is_none(), "nobody waits");
        let _waiting = [first.turns.waits(7, noop()), second.turns.waits(7, noop())];
        first.turns.had(7, 2 * long);
        second.turns.had(7, 2 * long);
        assert!(better(1).is_none(), "it has had nothing yet");
        first.turns.had(1, 2 * long);
        assert_eq!(better(1), Some(second.handle.id()));
        assert!(better(7).is_none(), "it waits on both");
        second.turns.had(1, 2 * long);
        assert!(better(1).is_none(), "it has had as much there");
    }

    #[test]
    fn a_thread_knows_its_set_and_ends_with_it() {
        let (threads, going) = Threads::start(1).unwrap();
        let (others, _going) = Threads::start(1).unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        let here = threads.clone();
        let seat = threads.seat();
        seat.handle().spawn(async move {
            sender.send((here.is_here(), others.is_here())).unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(seen.recv().unwrap(), (true, false));
        drop(going);
        // The task goes with its thread, and its end of the channel with the task.
        assert!(seen.recv().is_err());
    }
}
