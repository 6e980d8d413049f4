//! A thread of guests in virtual time, and callers that ask for too much of it.
//!
//! The thread is what tokio's is: one run queue, first in, first out. Guests give it back after a millisecond, and
//! more often while some wait for their turn, one for each time that it has gone round, as sockets are looked at then. Callers are open loop: they ask at their times, each over a connection that takes one
//! call after the other; where all are taken, they give up. A random order can be replayed by its seed.

use std::collections::VecDeque;
use std::time::Duration;

use nigh_runtime::Fair;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use super::lane::{Lane, Side, Slice, Verdict};

const SEED: u64 = 20;
const MS: Duration = Duration::from_millis(1);
/// How long a guest runs in one go …
const GO_MAX: Duration = MS;
/// … and while others wait for a turn.
const GO_MAX_BESIDE_OTHERS: Duration = Duration::from_micros(250);
/// Reading a request and answering it, as measured of hyper.
const OVERHEAD: Duration = Duration::from_micros(8);

/// Callers of one function.
#[derive(Clone, Copy, Debug)]
struct Callers {
    function: u64,
    /// CPU time of a call.
    cost: Duration,
    per_second: f64,
    connections: usize,
}

#[derive(Debug, Default)]
struct Seen {
    asked: u32,
    /// From the request to the answer.
    answered: Vec<Duration>,
    refused: Vec<Duration>,
}

impl Seen {
    fn p99(delays: &mut [Duration]) -> Duration {
        delays.sort_unstable();
        delays.get(delays.len() * 99 / 100).copied().unwrap_or_default()
    }
}

enum Task {
    /// A request is there.
    Connection {
        of: usize,
        at: usize,
    },
    /// Some guest has its turn.
    Turn,
    Marker,
}

#[derive(Clone, Copy)]
struct Guest {
    of: usize,
    at: usize,
    left: Duration,
    ticket: Option<u64>,
}

struct Thread {
    start: Instant,
    now: Duration,
    queue: VecDeque<Task>,
    turns: Fair<Guest>,
    /// A turn is in the queue.
    gives_turns: bool,
    /// Guests have run for so long that sockets are looked at again.
    is_full: bool,
    lane: Lane,
    guests: Duration,
    random: StdRng,
}

impl Thread {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            now: Duration::ZERO,
            queue: VecDeque::new(),
            turns: Fair::default(),
            gives_turns: false,
            is_full: false,
            lane: Lane::default(),
            guests: Duration::ZERO,
            random: StdRng::seed_from_u64(SEED),
        }
    }

    /// A guest has its turn; whether it is done.
    fn runs(&mut self, function: u64, guest: Guest, slice: Slice, cost: Duration) -> bool {
        let others_wait = self.turns.waiting(function).accounts > 0;
        let go_max = if others_wait { GO_MAX_BESIDE_OTHERS } else { GO_MAX };
        let went = guest.left.min(go_max);
        self.now += went;
        self.guests += went;
        self.lane.worked(function, went, slice);
        self.is_full |= self.turns.took(function, went);
        let left = guest.left - went;
        if left > Duration::ZERO {
            self.waits(function, Guest { left, ..guest }, cost);
        } else {
            self.lane.ended(function, cost);
        }
        left.is_zero()
    }

    fn waits(&mut self, function: u64, guest: Guest, cost: Duration) {
        let ticket = self.turns.wait(function, guest.ticket, cost - guest.left, guest);
        if let Some(waits) = self.turns.waiter(function, ticket) {
            waits.ticket.get_or_insert(ticket);
        }
    }

    /// Lets these callers ask for so long; what they have seen.
    fn serve(&mut self, all: &[Callers], length: Duration) -> Vec<Seen> {
        let mut seen: Vec<Seen> = all.iter().map(|_| Seen::default()).collect();
        let mut sent: Vec<Vec<Option<Duration>>> =
            all.iter().map(|callers| vec![None; callers.connections]).collect();
        let mut next: Vec<Duration> = all.iter().map(|_| self.now).collect();
        let ends = self.now + length;
        while self.now < ends {
            for (of, callers) in all.iter().enumerate() {
                while next[of] <= self.now {
                    let at = self.random.random_range(0..callers.connections);
                    if sent[of][at].is_none() {
                        sent[of][at] = Some(next[of]);
                        seen[of].asked += 1;
                        self.queue.push_back(Task::Connection { of, at });
                    }
                    // Intervals of a Poisson process.
                    let chance: f64 = self.random.random_range(f64::EPSILON..1.0);
                    next[of] += Duration::from_secs_f64(-chance.ln() / callers.per_second);
                }
            }
            let now = self.start + self.now;
            let is_due = self.is_full || self.turns.waiting(0).accounts > 0;
            if is_due && !self.gives_turns {
                self.is_full = false;
                self.gives_turns = true;
                self.queue.push_back(Task::Turn);
            }
            match self.queue.pop_front() {
                None => self.now = next.iter().copied().min().unwrap_or(ends),
                Some(Task::Marker) => self.lane.turn(now, self.guests),
                Some(Task::Connection { of, at }) => {
                    let Callers { function, cost, .. } = all[of];
                    if self.lane.marks(now) {
                        self.queue.push_back(Task::Marker);
                    }
                    let waiting = self.turns.waiting(function);
                    let verdict = self.lane.arrive(Side::Here, now, function, waiting);
                    self.now += OVERHEAD;
                    if verdict == Verdict::Run {
                        let guest = Guest { of, at, left: cost, ticket: None };
                        if !self.turns.may_begin(function) {
                            self.waits(function, guest, cost);
                        } else if self.runs(function, guest, Slice::First, cost) {
                            let delay = sent[of][at].take().map(|sent| self.now - sent);
                            seen[of].answered.extend(delay);
                        }
                    } else {
                        let delay = sent[of][at].take().map(|sent| self.now - sent);
                        seen[of].refused.extend(delay);
                    }
                }
                Some(Task::Turn) => {
                    self.gives_turns = false;
                    let Some(guest) = self.turns.pick() else { continue };
                    let Guest { of, at, left, .. } = guest;
                    let Callers { function, cost, .. } = all[of];
                    let slice = if left == cost { Slice::First } else { Slice::Later };
                    if self.runs(function, guest, slice, cost) {
                        seen[of].answered.extend(sent[of][at].take().map(|sent| self.now - sent));
                    }
                }
            }
        }
        // What waits is forgotten with those who asked.
        self.queue.retain(|task| matches!(task, Task::Marker));
        self.gives_turns = false;
        while self.turns.pick().is_some() {}
        seen
    }
}

/// Callers who ask for so many times what a thread can do.
fn callers(cost: Duration, times: f64, connections: usize) -> Callers {
    let most = 1.0 / (cost + OVERHEAD).as_secs_f64();
    Callers { function: 1, cost, per_second: times * most, connections }
}

/// Callers of another, short function, who ask for little.
const QUIET: Callers =
    Callers { function: 2, cost: Duration::from_micros(40), per_second: 100.0, connections: 10 };

const COSTS: [Duration; 4] =
    [Duration::from_micros(40), Duration::from_micros(400), MS, Duration::from_millis(15)];

#[test]
fn beyond_its_peak_a_thread_does_nearly_as_much_and_refuses_soon() {
    for cost in COSTS {
        for (times, goodput) in [(2.0, 0.90), (5.0, 0.85), (10.0, 0.80)] {
            for connections in [100, 600] {
                let mut thread = Thread::new();
                let length = Duration::from_secs(12);
                let callers = callers(cost, times, connections);
                let mut seen = thread.serve(&[callers], length).remove(0);
                let peak = length.as_secs_f64() / (cost + OVERHEAD).as_secs_f64();
                let did = seen.answered.len() as f64 / peak;
                let refused = Seen::p99(&mut seen.refused);
                let case = format!(
                    "seed {SEED}, {cost:?} a call, {times} times over {connections} connections: \
                     {:.0} % of the peak, {} of {} refused, p99 {refused:?}",
                    did * 100.0,
                    seen.refused.len(),
                    seen.asked
                );
                println!("{case}");
                assert!(did >= goodput, "{case}");
                assert!(refused <= 50 * MS, "{case}");
            }
        }
    }
}

#[test]
fn after_an_overload_all_is_as_before_within_a_second() {
    for cost in COSTS {
        let mut thread = Thread::new();
        thread.serve(&[callers(cost, 10.0, 500)], Duration::from_secs(3));
        thread.serve(&[callers(cost, 0.5, 500)], Duration::from_secs(1));
        let mut after = thread.serve(&[callers(cost, 0.5, 500)], Duration::from_secs(2)).remove(0);
        assert!(after.refused.is_empty(), "seed {SEED}, {cost:?}: {} refused", after.refused.len());
        let p99 = Seen::p99(&mut after.answered);
        assert!(p99 <= 10 * cost + 10 * MS, "seed {SEED}, {cost:?}: {p99:?}");
    }
}

#[test]
fn below_its_peak_nobody_is_refused() {
    for cost in COSTS {
        for connections in [10, 1_000] {
            let mut thread = Thread::new();
            let seen =
                thread.serve(&[callers(cost, 0.8, connections)], Duration::from_secs(3)).remove(0);
            assert!(seen.refused.is_empty(), "seed {SEED}, {cost:?}: {}", seen.refused.len());
        }
    }
}

#[test]
fn a_crowd_that_waits_for_its_answers_is_no_overload() {
    // Beside calls that wait for turns, so that all guests are interrupted more often.
    let longer = Callers { function: 2, cost: 2 * MS, per_second: 50.0, connections: 4 };
    for cost in [40, 300, 500, 2_000].map(Duration::from_micros) {
        let mut thread = Thread::new();
        let crowd = callers(cost, 10.0, 32);
        let mut seen = thread.serve(&[crowd, longer], Duration::from_secs(3)).remove(0);
        let case = format!("seed {SEED}, {cost:?}");
        assert!(seen.refused.is_empty(), "{case}: {} refused", seen.refused.len());
        let p99 = Seen::p99(&mut seen.answered);
        assert!(p99 <= 2 * 32 * (cost + OVERHEAD) + 20 * MS, "{case}: {p99:?}");
    }
}

#[test]
fn who_comes_while_a_flood_fills_the_thread_is_let_in() {
    for cost in COSTS {
        let flood = callers(cost, 10.0, 300);
        let mut thread = Thread::new();
        thread.serve(&[flood], Duration::from_secs(1));
        let seen = thread.serve(&[flood, QUIET], Duration::from_secs(1));
        let (asked, refused) = (seen[1].asked, seen[1].refused.len());
        assert!(refused == 0, "seed {SEED}, {cost:?}: {refused} of {asked} refused");
    }
}

#[test]
fn a_flood_of_one_function_is_refused_and_anothers_calls_are_not() {
    for cost in COSTS {
        let flood = callers(cost, 10.0, 300);
        let mut thread = Thread::new();
        // Until it is known as one.
        thread.serve(&[flood, QUIET], Duration::from_secs(1));
        let mut seen = thread.serve(&[flood, QUIET], Duration::from_secs(3));
        let [flood, quiet] = &mut seen[..] else { unreachable!() };
        let p99 = Seen::p99(&mut quiet.answered);
        println!("seed {SEED}, {cost:?}: quiet p99 {p99:?}, flood {} refused", flood.refused.len());
        assert!(quiet.refused.is_empty(), "seed {SEED}, {cost:?}: {}", quiet.refused.len());
        assert!(p99 <= 50 * MS, "seed {SEED}, {cost:?}: {p99:?}");
    }
}

#[test]
fn beside_a_flood_calls_of_the_same_cost_take_little_longer_than_alone() {
    let cost = 5 * MS;
    let alone = Callers { function: 2, ..callers(cost, 0.25, 10) };
    let flood = callers(cost, 5.0, 100);
    let mut thread = Thread::new();
    let mut before = thread.serve(&[alone], Duration::from_secs(5)).remove(0);
    thread.serve(&[alone, flood], Duration::from_secs(1));
    let mut seen = thread.serve(&[alone, flood], Duration::from_secs(5));
    let (before, beside) = (Seen::p99(&mut before.answered), Seen::p99(&mut seen[0].answered));
    println!("seed {SEED}: p99 {before:?} alone, {beside:?} beside the flood");
    assert!(seen[0].refused.is_empty(), "seed {SEED}: {}", seen[0].refused.len());
    assert!(beside <= before + 4 * MS, "seed {SEED}: {before:?} alone, {beside:?}");
    let flood = seen[1].answered.len() as f64 / (5.0 / cost.as_secs_f64());
    assert!(flood >= 0.65, "seed {SEED}: {flood} of the thread");
}
