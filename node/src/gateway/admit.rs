//! Who may come in: calls of one function running on this node, and a short queue before it.
//!
//! [`Counts`] decides and knows no time; a [`Door`] lets in, keeps waiting and hands places on
//! in the order of arrival. What does not fit the queue is refused at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use nigh_model::spec::OutboundRule;
use nigh_model::{FunctionRef, FunctionSpec};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Longest wait for a place: a burst passes in that time, an overload does not.
pub(crate) const QUEUE_WAIT_MAX: Duration = Duration::from_millis(100);
/// Most calls of one function that wait; no more than may run at once, either.
pub(crate) const QUEUE_LENGTH_MAX: u32 = 256;
/// When a refused caller should try again: by then a call of a typical length has ended.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Doors kept before those that nobody stands at are let go (a few hundred bytes each).
const DOORS_MAX: usize = 4_096;

/// How many run and wait, and how many may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    running: u32,
    running_max: u32,
    waiting: u32,
    waiting_max: u32,
}

/// What an arriving call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Run,
    Wait,
    Refused,
}

impl Counts {
    fn new(running_max: u32) -> Self {
        let waiting_max = running_max.min(QUEUE_LENGTH_MAX);
        Self { running: 0, running_max, waiting: 0, waiting_max }
    }

    fn arrive(&mut self) -> Verdict {
        if self.running < self.running_max {
            self.running += 1;
            Verdict::Run
        } else if self.waiting < self.waiting_max {
            self.waiting += 1;
            Verdict::Wait
        } else {
            Verdict::Refused
        }
    }

    /// A call has ended: whether its place goes to one that waits.
    fn leave(&mut self) -> bool {
        let handed_on = self.waiting > 0;
        if handed_on {
            self.waiting -= 1;
        } else {
            self.running -= 1;
        }
        handed_on
    }

    /// A call has waited for long enough.
    fn give_up(&mut self) {
        self.waiting -= 1;
    }
}

/// The way in to one function, with what each call of it brings along.
pub(crate) struct Door {
    /// Its environment.
    pub(crate) env: Arc<[(String, String)]>,
    /// Where it may connect to.
    pub(crate) outbound: Arc<[OutboundRule]>,
    queue: Mutex<Queue>,
}

struct Queue {
    counts: Counts,
    tickets: u64,
    /// Those that wait, in the order of arrival; as many as `counts` says.
    turns: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// The function runs as often at once as it may, and the queue is full or too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Door {
    fn new(spec: &FunctionSpec) -> Self {
        let queue = Queue {
            counts: Counts::new(spec.limits.concurrency),
            tickets: 0,
            turns: VecDeque::new(),
        };
        Self {
            env: spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            outbound: spec.outbound.iter().cloned().collect(),
            queue: Mutex::new(queue),
        }
    }

    /// Lets a call in, after a wait that ends by `until`.
    ///
    /// # Errors
    /// There is no place and no room to wait, or the wait was over first.
    pub(crate) async fn enter(self: &Arc<Self>, until: Instant) -> Result<Place, Full> {
        let (ticket, turn) = {
            let mut queue = self.queue();
            match queue.counts.arrive() {
                Verdict::Run => return Ok(Place { door: Arc::clone(self) }),
                Verdict::Refused => return Err(Full),
                Verdict::Wait => queue.draw_ticket(),
            }
        };
        let mut waiting = Waiting { door: self, ticket: Some(ticket) };
        match timeout_at(until, turn).await {
            Ok(Ok(())) => {
                waiting.ticket = None;
                Ok(Place { door: Arc::clone(self) })
            }
            Ok(Err(_)) | Err(_) => Err(Full),
        }
    }

    /// A place becomes free.
    fn leave(&self) {
        let mut queue = self.queue();
        if queue.counts.leave() {
            // One that has given up since will find its ticket gone and pass the place on.
            if let Some((_, turn)) = queue.turns.pop_front() {
                let _ = turn.send(());
            }
        }
    }

    /// A call stops waiting.
    fn give_up(&self, ticket: u64) {
        let mut queue = self.queue();
        match queue.turns.iter().position(|(drawn, _)| *drawn == ticket) {
            Some(at) => {
                queue.turns.remove(at);
                queue.counts.give_up();
            }
            None => {
                drop(queue);
                self.leave();
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn draw_ticket(&mut self) -> (u64, oneshot::Receiver<()>) {
        let (sender, turn) = oneshot::channel();
        self.tickets += 1;
        self.turns.push_back((self.tickets, sender));
        (self.tickets, turn)
    }
}

/// A call that waits, whatever becomes of it.
struct Waiting<'d> {
    door: &'d Door,
    ticket: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.door.give_up(ticket);
        }
    }
}

/// A place of a running call; free again when dropped.
pub(crate) struct Place {
    door: Arc<Door>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.leave();
    }
}

/// The doors of the functions called on this node.
#[derive(Default)]
pub(crate) struct Admission {
    doors: RwLock<HashMap<FunctionRef, Arc<Door>>>,
}

impl Admission {
    /// Calls that wait for a place, at all doors.
    pub(crate) fn waiting(&self) -> u64 {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        doors.values().map(|door| u64::from(door.queue().counts.waiting)).sum()
    }

    /// The door of a function; its spec never changes, as it is part of a revision.
    pub(crate) fn door(&self, function: &FunctionRef, spec: &FunctionSpec) -> Arc<Door> {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = doors.get(function) {
            return Arc::clone(door);
        }
        drop(doors);
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        if doors.len() >= DOORS_MAX {
            doors.retain(|_, door| Arc::strong_count(door) > 1);
        }
        Arc::clone(doors.entry(function.clone()).or_insert_with(|| Arc::new(Door::new(spec))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::{Digest, FunctionName, RevisionId};

    fn door(concurrency: u32) -> Arc<Door> {
        let mut spec = FunctionSpec::new(Digest::of(b"x"), 1);
        spec.limits.concurrency = concurrency;
        Arc::new(Door::new(&spec))
    }

    fn soon() -> Instant {
        Instant::now() + QUEUE_WAIT_MAX
    }

    #[test]
    fn arrivals_run_then_wait_then_are_refused() {
        let mut counts = Counts::new(2);
        let verdicts: Vec<Verdict> = (0..5).map(|_| counts.arrive()).collect();
        use Verdict::{Refused, Run, Wait};
        assert_eq!(verdicts, [Run, Run, Wait, Wait, Refused]);
        assert!(counts.leave(), "the place goes to one that waits");
        counts.give_up();
        assert!(!counts.leave() && !counts.leave());
        assert_eq!(counts, Counts::new(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_goes_to_the_one_that_waits_longest() {
        let door = door(1);
        let first = door.enter(soon()).await.ok().unwrap();
        let waiting = tokio::spawn({
            let door = Arc::clone(&door);
            async move { door.enter(soon()).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(door.enter(soon()).await.is_err(), "one waits, as one may run");
        let admission = Admission::default();
        let function =
            FunctionRef { revision: RevisionId(1), function: FunctionName::new("f").unwrap() };
        admission.doors.write().unwrap().insert(function, Arc::clone(&door));
        assert_eq!(admission.waiting(), 1);
        drop(first);
        assert!(waiting.await.unwrap());
        assert_eq!(door.queue().counts, Counts::new(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused_and_leaves_no_trace() {
        let door = door(1);
        let first = door.enter(soon()).await.ok().unwrap();
        assert!(door.enter(soon()).await.is_err());
        assert_eq!(door.queue().counts.waiting, 0);
        // Handed a place and gone before it could be taken.
        let mut turn = Box::pin(door.enter(soon()));
        assert!(futures::poll!(turn.as_mut()).is_pending());
        drop(first);
        drop(turn);
        assert_eq!(door.queue().counts, Counts::new(1));
    }

    #[test]
    fn doors_that_nobody_stands_at_are_let_go() {
        let admission = Admission::default();
        let spec = FunctionSpec::new(Digest::of(b"x"), 1);
        let function =
            |n| FunctionRef { revision: RevisionId(n), function: FunctionName::new("f").unwrap() };
        let held = admission.door(&function(0), &spec);
        for n in 1..=DOORS_MAX as u64 {
            admission.door(&function(n), &spec);
        }
        assert_eq!(admission.doors.read().unwrap().len(), 2);
        assert!(Arc::ptr_eq(&held, &admission.door(&function(0), &spec)));
    }
}
