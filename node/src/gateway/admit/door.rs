//! The way in to one function: so many calls of it at once, and a short queue before that.
//!
//! [`Counts`] decides and reads no clock; a [`Door`] lets in, keeps waiting and hands places on. As long
//! as the queue only takes up bursts, the first to come is the first to go in, and may wait a while. A
//! queue that has not been empty for a while will not become so by waiting: then the last to come goes in
//! first, as its caller is the most likely to be there still, and nobody waits for long (adaptive LIFO with
//! CoDel, "Fail at Scale", ACM Queue 13(8), 2015). What does not fit is refused at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nigh_model::FunctionSpec;
use nigh_model::spec::OutboundRule;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Longest wait for a place: a burst passes in that time, an overload does not.
const QUEUE_WAIT_MAX: Duration = Duration::from_millis(100);
/// The same in a queue that stands: what comes meanwhile keeps the places busy.
const STANDING_WAIT_MAX: Duration = Duration::from_millis(5);
/// A queue stands when it has not been empty for as long: the interval of CoDel (RFC 8289 §4.2).
const STANDING_AFTER: Duration = Duration::from_millis(100);
/// Longest wait of calls that have waited for their function to be loaded, and of those that come right
/// after them: they come all at once, and none of them is one too many.
const LOADED_WAIT_MAX: Duration = Duration::from_secs(2);
/// For how long after a load.
const LOADED_FOR: Duration = Duration::from_secs(1);
/// Most calls of one function that wait; no more than may run at once, either.
const QUEUE_LENGTH_MAX: u32 = 256;
/// Most calls that wait on a node, of all functions: some 2 KiB each.
const WAITING_MAX: u32 = 16_384;

/// How many run and wait, how many may, and since when there is a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    running: u32,
    running_max: u32,
    waiting: u32,
    waiting_max: u32,
    queued_since: Option<Instant>,
    /// When the last call came in that had waited for a load.
    loaded: Option<Instant>,
}

/// How a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Patience {
    /// As any call does.
    Short,
    /// It has waited for a load, with all others that came meanwhile.
    Loaded,
}

/// What an arriving call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Run,
    /// It waits for so long.
    Wait(Duration),
    Refused,
}

impl Counts {
    fn new(running_max: u32) -> Self {
        let waiting_max = running_max.min(QUEUE_LENGTH_MAX);
        Self { running: 0, running_max, waiting: 0, waiting_max, queued_since: None, loaded: None }
    }

    fn arrive(&mut self, patience: Patience, now: Instant) -> Verdict {
        if patience == Patience::Loaded {
            self.loaded = Some(now);
        }
        let is_loaded = self.loaded.is_some_and(|at| now.duration_since(at) < LOADED_FOR);
        if self.running < self.running_max {
            self.running += 1;
            return Verdict::Run;
        }
        let wait = match () {
            () if is_loaded => LOADED_WAIT_MAX,
            () if self.waiting >= self.waiting_max => return Verdict::Refused,
            () if self.stands(now) => STANDING_WAIT_MAX,
            () => QUEUE_WAIT_MAX,
        };
        self.waiting += 1;
        self.queued_since.get_or_insert(now);
        Verdict::Wait(wait)
    }

    /// A call has ended: whether its place goes to one that waits.
    fn leave(&mut self) -> bool {
        let handed_on = self.waiting > 0;
        if handed_on {
            self.give_up();
        } else {
            self.running -= 1;
        }
        handed_on
    }

    /// A call waits no longer.
    fn give_up(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.queued_since = None;
        }
    }

    /// Whether the queue has not been empty for too long to be a burst.
    fn stands(&self, now: Instant) -> bool {
        self.queued_since.is_some_and(|since| now.duration_since(since) >= STANDING_AFTER)
    }
}

/// The way in to one function, with what each call of it brings along.
pub(in crate::gateway) struct Door {
    /// Its environment.
    pub(in crate::gateway) env: Arc<[(String, String)]>,
    /// Where it may connect to.
    pub(in crate::gateway) outbound: Arc<[OutboundRule]>,
    /// Tells it from others in the accounts of the threads.
    id: u64,
    queue: Mutex<Queue>,
    /// Calls that wait on this node, at all doors.
    waiting: Arc<AtomicU32>,
}

struct Queue {
    counts: Counts,
    tickets: u64,
    /// Those that wait, in the order of arrival; as many as `counts` says.
    turns: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// The function runs as often at once as it may, and the queue is full or too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Full;

impl Door {
    /// The door of a function with this spec, on a node where so many wait.
    pub(super) fn new(spec: &FunctionSpec, waiting: Arc<AtomicU32>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let queue = Queue {
            counts: Counts::new(spec.limits.concurrency),
            tickets: 0,
            turns: VecDeque::new(),
        };
        Self {
            env: spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            outbound: spec.outbound.iter().cloned().collect(),
            id: IDS.fetch_add(1, Relaxed),
            queue: Mutex::new(queue),
            waiting,
        }
    }

    /// Tells it from others.
    pub(in crate::gateway) fn id(&self) -> u64 {
        self.id
    }

    /// Lets a call in, after a wait that ends by its deadline.
    ///
    /// # Errors
    /// There is no place and no room to wait, or the wait was over first.
    pub(in crate::gateway) async fn enter(
        self: &Arc<Self>,
        deadline: Instant,
        patience: Patience,
    ) -> Result<Place, Full> {
        let (ticket, turn, until) = {
            let now = Instant::now();
            let mut queue = self.queue();
            match queue.counts.arrive(patience, now) {
                Verdict::Run => return Ok(Place { door: Arc::clone(self) }),
                Verdict::Refused => return Err(Full),
                Verdict::Wait(_) if self.waiting.load(Relaxed) >= WAITING_MAX => {
                    queue.counts.give_up();
                    return Err(Full);
                }
                Verdict::Wait(wait) => {
                    self.waiting.fetch_add(1, Relaxed);
                    let (ticket, turn) = queue.draw_ticket();
                    (ticket, turn, deadline.min(now + wait))
                }
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
        let last_first = queue.counts.waiting > 0 && queue.counts.stands(Instant::now());
        if queue.counts.leave() {
            let next = if last_first { queue.turns.pop_back() } else { queue.turns.pop_front() };
            // One that has given up since will find its ticket gone and pass the place on.
            if let Some((_, turn)) = next {
                let _ = turn.send(());
            }
        }
    }

    /// A call stops waiting.
    fn give_up(&self, ticket: u64) {
        let mut queue = self.queue();
        match queue.turns.binary_search_by_key(&ticket, |(drawn, _)| *drawn) {
            Ok(at) => {
                queue.turns.remove(at);
                queue.counts.give_up();
            }
            Err(_) => {
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
        self.door.waiting.fetch_sub(1, Relaxed);
        if let Some(ticket) = self.ticket {
            self.door.give_up(ticket);
        }
    }
}

/// A place of a running call; free again when dropped.
pub(in crate::gateway) struct Place {
    door: Arc<Door>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::Digest;

    const MS: Duration = Duration::from_millis(1);

    fn door(concurrency: u32) -> Arc<Door> {
        let mut spec = FunctionSpec::new(Digest::of(b"x"), 1);
        spec.limits.concurrency = concurrency;
        Arc::new(Door::new(&spec, Arc::default()))
    }

    /// A call that has all the time there is.
    async fn enter(door: &Arc<Door>, patience: Patience) -> Result<Place, Full> {
        door.enter(Instant::now() + Duration::from_secs(60), patience).await
    }

    /// The same, until it waits or is through.
    async fn begin(
        door: &Arc<Door>,
        patience: Patience,
    ) -> tokio::task::JoinHandle<Result<Place, Full>> {
        let door = Arc::clone(door);
        let call = tokio::spawn(async move { enter(&door, patience).await });
        tokio::task::yield_now().await;
        call
    }

    #[test]
    fn arrivals_run_then_wait_then_are_refused() {
        let now = Instant::now();
        let mut counts = Counts::new(2);
        let verdicts: Vec<Verdict> = (0..5).map(|_| counts.arrive(Patience::Short, now)).collect();
        use Verdict::{Refused, Run, Wait};
        let wait = Wait(QUEUE_WAIT_MAX);
        assert_eq!(verdicts, [Run, Run, wait, wait, Refused]);
        assert!(counts.leave(), "the place goes to one that waits");
        counts.give_up();
        assert!(!counts.leave() && !counts.leave());
        assert_eq!(counts, Counts::new(2));
    }

    #[test]
    fn nobody_waits_for_long_in_a_queue_that_stands() {
        let now = Instant::now();
        let mut counts = Counts::new(2);
        counts.arrive(Patience::Short, now);
        counts.arrive(Patience::Short, now);
        assert_eq!(counts.arrive(Patience::Short, now), Verdict::Wait(QUEUE_WAIT_MAX));
        let later = now + STANDING_AFTER;
        assert!(!counts.stands(later - MS) && counts.stands(later));
        assert_eq!(counts.arrive(Patience::Short, later), Verdict::Wait(STANDING_WAIT_MAX));
        counts.give_up();
        assert!(counts.stands(later), "one still waits");
        counts.leave();
        assert!(!counts.stands(later + STANDING_AFTER), "it was empty");
        assert_eq!(counts.arrive(Patience::Short, later), Verdict::Wait(QUEUE_WAIT_MAX));
    }

    #[test]
    fn whoever_waited_for_a_load_is_not_refused_for_the_length_of_the_queue() {
        let now = Instant::now();
        let mut counts = Counts::new(1);
        counts.arrive(Patience::Short, now);
        for _ in 0..1_000 {
            assert_eq!(counts.arrive(Patience::Loaded, now), Verdict::Wait(LOADED_WAIT_MAX));
        }
        let soon = now + LOADED_FOR - MS;
        assert_eq!(counts.arrive(Patience::Short, soon), Verdict::Wait(LOADED_WAIT_MAX));
        assert_eq!(counts.arrive(Patience::Short, now + LOADED_FOR), Verdict::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_goes_to_the_one_that_waits_longest() {
        let door = door(1);
        let first = enter(&door, Patience::Short).await.ok().unwrap();
        let waiting = begin(&door, Patience::Short).await;
        assert!(enter(&door, Patience::Short).await.is_err(), "one waits, as one may run");
        assert_eq!(door.waiting.load(Relaxed), 1);
        drop(first);
        assert!(waiting.await.unwrap().is_ok());
        assert_eq!(door.queue().counts, Counts::new(1));
        assert_eq!(door.waiting.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_queue_that_stands_the_last_to_come_goes_in_first() {
        let door = door(2);
        let first = enter(&door, Patience::Short).await.ok().unwrap();
        let _second = enter(&door, Patience::Short).await.ok().unwrap();
        let old = begin(&door, Patience::Loaded).await;
        tokio::time::advance(STANDING_AFTER).await;
        let new = begin(&door, Patience::Short).await;
        drop(first);
        let place = new.await.unwrap().ok().unwrap();
        assert!(!old.is_finished());
        drop(place);
        assert!(old.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused_and_leaves_no_trace() {
        let door = door(1);
        let first = enter(&door, Patience::Short).await.ok().unwrap();
        let began = Instant::now();
        assert!(door.enter(began + 7 * MS, Patience::Short).await.is_err());
        assert!(began.elapsed() < QUEUE_WAIT_MAX / 2, "it waits no longer than its deadline");
        assert!(enter(&door, Patience::Short).await.is_err());
        assert_eq!(door.queue().counts.waiting, 0);
        // Handed a place and gone before it could be taken.
        let mut turn = Box::pin(enter(&door, Patience::Short));
        assert!(futures::poll!(turn.as_mut()).is_pending());
        drop(first);
        drop(turn);
        assert_eq!(door.queue().counts, Counts::new(1));
        assert_eq!(door.waiting.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_keeps_only_so_many_waiting() {
        let door = door(1);
        let _first = enter(&door, Patience::Short).await.ok().unwrap();
        door.waiting.store(WAITING_MAX, Relaxed);
        assert!(enter(&door, Patience::Loaded).await.is_err());
        assert_eq!(door.queue().counts.waiting, 0);
    }
}
