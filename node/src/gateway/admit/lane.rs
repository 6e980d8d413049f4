//! Whether a thread of guests takes on another call: decided from times that are handed in.
//!
//! Calls wait at two places. Those that come wait in the thread's run queue and in sockets, where nobody sees
//! them. So a marker goes round: it is put at the end of the run queue when a call comes, and how long it takes to
//! come to its turn is how long any call waits to begin. That delay is a sign of overload (as in DAGOR, Zhou et al.,
//! SoCC 2018); how long functions run says nothing, as each takes what it takes. A delay that passes is a burst;
//! one that stands for an interval is an overload (CoDel, RFC 8289). Then each round has room for so much
//! new work, and what does not fit is refused.
//!
//! Guests that have used up a slice wait for their next turn (`nigh_runtime::Fair`), in which functions get the
//! same. There each function may have so many, and what others have there is nothing to it.
//!
//! docs/decisions/0020 says why it is so.

use std::time::Duration;

use nigh_runtime::Waiting;
use tokio::time::Instant;

use super::share::Shares;
use super::standing::{INTERVAL, Standing};

/// A round longer than this is too long when one function alone runs here: what waits for a turn
/// still answers within 50 ms then, be it a refusal.
pub(super) const TURN_MAX: Duration = Duration::from_millis(20);
/// The same for a function that takes much more than its part: others wait behind it.
pub(super) const TURN_MAX_OF_GREEDY: Duration = Duration::from_millis(5);
/// The same for others where there is more than one: they have room left when the greedy have none.
const TURN_MAX_OF_OTHERS: Duration = Duration::from_millis(40);
/// So many guests of a function may wait for a turn on a thread, whatever its calls cost …
const WAITING_MAX: u32 = 25;
/// … and as many more as are done with in this time …
const WAITED_FOR: Duration = Duration::from_millis(125);
/// … but no more than this: what is known of the cost is of calls that are over, and may be wrong.
const WAITING_MAX_OF_CHEAP: u32 = 100;
/// Guests that wait hold slots: those of one function on all threads one in so many, unless `WAITING_MAX` is more.
const SLOTS_PER_WAITING: u32 = 2;
/// Where many functions have guests waiting, each may have as many as come round in so many turns …
const TURNS_MAX: u32 = 500;
/// … and this many in any case.
const WAITING_MIN: u32 = 4;
/// So many calls are taken on a round, however slow the thread is: a few callers cannot make an overload, and a
/// machine that was busy elsewhere is none. Guests are sliced by the millisecond, so that many take 16 ms at
/// most until they wait.
const CALLS_MIN: u32 = 16;
/// The same of a greedy function in an overload: others wait behind it.
const CALLS_MIN_OF_GREEDY: u32 = 4;
/// Between rounds, as long as they are short: the marker costs a turn of the scheduler.
const PAUSE: Duration = Duration::from_millis(5);
/// What reading a request and answering it takes besides the guest, until it is measured …
const OVERHEAD_GUESS: Duration = Duration::from_micros(10);
/// … and at most, so that a thread that was not scheduled learns nothing wrong.
const OVERHEAD_MAX: Duration = Duration::from_micros(200);
/// A measurement of it counts as one in so many.
const OVERHEAD_WEIGHT: u32 = 8;
/// New work gets so many times what refusing takes, at least: else a thread with very many callers would
/// do nothing but refuse. Their connections hold the others back.
const WORK_PER_REFUSING: u32 = 4;
/// The same for a greedy function while others wait behind it.
const WORK_PER_REFUSING_OF_GREEDY: u32 = 1;
/// What a call from another thread is taken to cost in its round; its time is not measured.
const FROM_AFAR: Duration = Duration::from_micros(100);
/// One call is sent on for as many as are taken on here, so that an overload grows by a fifth at most …
const TAKEN_PER_SENT_ON: u32 = 5;
/// … and this many may be saved up.
const SENT_ON_MAX: u32 = 20;
/// A refused caller is told to come back after so many seconds at most.
const RETRY_AFTER_SECONDS_MAX: u32 = 8;

/// What a call that came may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may run.
    Run,
    /// There is too much to do; when to try again.
    Refused(Duration),
}

/// How a call came to the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It is on it: its guest runs at once, and is measured.
    Here,
    /// From another thread.
    Afar,
}

/// A part of a guest's work, done in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slice {
    /// Its first.
    First,
    /// Another one.
    Later,
}

/// One thread of guests.
#[derive(Debug)]
pub(super) struct Lane {
    /// Since when the marker is in the run queue.
    marked: Option<Instant>,
    /// When it last came to its turn.
    turned: Option<Instant>,
    /// How long it took then.
    turn: Duration,
    /// Time of guests on this thread by then.
    guests: Duration,
    /// What new guests took in this round, up to their first pause.
    fresh: Duration,
    /// Calls of this round.
    taken: u32,
    taken_from_afar: u32,
    refused: u32,
    /// What a request takes besides its guest.
    overhead: Duration,
    long: Standing,
    long_for_greedy: Standing,
    shares: Shares,
    /// Calls asked for, for each that is taken on.
    excess: f64,
    /// Tells refused callers apart.
    refusals: u32,
    /// In parts of `TAKEN_PER_SENT_ON`.
    may_send_on: u32,
    /// Most guests of a function that wait here.
    waiting_max: u32,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            marked: None,
            turned: None,
            turn: Duration::ZERO,
            guests: Duration::ZERO,
            fresh: Duration::ZERO,
            taken: 0,
            taken_from_afar: 0,
            refused: 0,
            overhead: OVERHEAD_GUESS,
            long: Standing::new(TURN_MAX),
            long_for_greedy: Standing::new(TURN_MAX_OF_GREEDY),
            shares: Shares::default(),
            excess: 1.0,
            refusals: 0,
            may_send_on: 0,
            waiting_max: WAITING_MAX_OF_CHEAP,
        }
    }
}

impl Lane {
    /// The lane of one of so many threads, which share these slots.
    pub(super) fn of(threads: usize, slots: u32) -> Self {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        let waiting_max = slots / SLOTS_PER_WAITING / threads;
        Self {
            waiting_max: waiting_max.clamp(WAITING_MAX, WAITING_MAX_OF_CHEAP),
            ..Self::default()
        }
    }

    /// Whether a marker has to be sent round now; it counts as sent.
    pub(super) fn marks(&mut self, now: Instant) -> bool {
        let due = self.marked.is_none()
            && self.turned.is_none_or(|turned| {
                self.turn >= TURN_MAX_OF_GREEDY || now.duration_since(turned) >= PAUSE
            });
        if due {
            self.marked = Some(now);
        }
        due
    }

    /// A call of a function comes while these guests wait for their next turn here.
    pub(super) fn arrive(
        &mut self,
        from: Side,
        now: Instant,
        function: u64,
        waiting: Waiting,
    ) -> Verdict {
        if let Some(marked) = self.marked {
            let so_far = now.duration_since(marked);
            self.long.exceeds(now, so_far);
            self.long_for_greedy.exceeds(now, so_far);
        }
        // Whoever asks waits behind the others, whether it has run yet or not.
        self.shares.add(function, Duration::ZERO);
        let others_wait = self.long_for_greedy.stands && self.shares.is_greedy(function);
        let calls_min = if others_wait { CALLS_MIN_OF_GREEDY } else { CALLS_MIN };
        let fits = self.taken < calls_min
            || match from {
                Side::Here => self.fits(function),
                Side::Afar => self.fits_from_afar(),
            };
        if fits && self.may_wait(function, waiting) {
            self.taken += 1;
            self.taken_from_afar += u32::from(from == Side::Afar);
            self.may_send_on = (self.may_send_on + 1).min(SENT_ON_MAX * TAKEN_PER_SENT_ON);
            return Verdict::Run;
        }
        self.refused += 1;
        self.refusals = self.refusals.wrapping_add(1);
        Verdict::Refused(self.retry_after())
    }

    /// Whether a call that was refused may go to another node; if so, that is accounted for.
    pub(super) fn may_send_on(&mut self) -> bool {
        let left = self.may_send_on.checked_sub(TAKEN_PER_SENT_ON);
        self.may_send_on = left.unwrap_or(self.may_send_on);
        left.is_some()
    }

    /// Whether another guest of the function may wait for a turn beside those that do. Of calls that are not known yet
    /// as many as of cheap ones: a first burst is no overload.
    fn may_wait(&self, function: u64, waiting: Waiting) -> bool {
        if waiting.own < WAITING_MIN {
            return true;
        }
        let done_with = |cost: Duration| {
            let calls = WAITED_FOR.as_nanos().checked_div(cost.as_nanos());
            calls.and_then(|calls| u32::try_from(calls).ok()).unwrap_or(u32::MAX)
        };
        let calls = self.shares.cost(function).map_or(u32::MAX, done_with);
        let calls = calls.clamp(WAITING_MAX, self.waiting_max);
        waiting.own < calls.min(TURNS_MAX / waiting.accounts.max(1))
    }

    /// A call is over whose guest has run for so long in all.
    pub(super) fn ended(&mut self, function: u64, time: Duration) {
        self.shares.ended(function, time);
    }

    /// A guest has run for some time in one go.
    pub(super) fn worked(&mut self, function: u64, time: Duration, slice: Slice) {
        if slice == Slice::First {
            self.fresh += time;
        }
        self.shares.add(function, time);
    }

    /// The marker comes to its turn; guests have run on this thread for so long by now.
    pub(super) fn turn(&mut self, now: Instant, guests: Duration) {
        let Some(marked) = self.marked.take() else { return };
        self.turn = now.duration_since(marked);
        let ran = guests.saturating_sub(self.guests);
        self.guests = guests;
        let came = self.taken + self.refused;
        if let Some(each) = self.turn.saturating_sub(ran).checked_div(came) {
            let each = each.min(OVERHEAD_MAX);
            self.overhead = (self.overhead * (OVERHEAD_WEIGHT - 1) + each) / OVERHEAD_WEIGHT;
        }
        let excess = f64::from(came.max(1)) / f64::from(self.taken.max(1));
        self.excess += (excess - self.excess) / f64::from(OVERHEAD_WEIGHT);
        for long in [&mut self.long, &mut self.long_for_greedy] {
            if self.turn >= long.limit {
                long.exceeds(now, self.turn);
            } else if self.refused == 0 {
                long.holds(now);
            }
        }
        self.shares.age(now);
        self.turned = Some(now);
        self.fresh = Duration::ZERO;
        (self.taken, self.taken_from_afar, self.refused) = (0, 0, 0);
    }

    /// How long a call that comes now waits for its turn.
    pub(super) fn delay(&self, now: Instant) -> Duration {
        let so_far = self.marked.map_or(Duration::ZERO, |marked| now.duration_since(marked));
        let old = self.turned.is_none_or(|turned| now.duration_since(turned) > 10 * INTERVAL);
        if old { so_far } else { so_far.max(self.turn) }
    }

    /// Whether this round has room for a call whose guest runs at once.
    fn fits(&self, function: u64) -> bool {
        let (limit, overloaded, work) = if self.shares.is_greedy(function) {
            let overloaded = self.long_for_greedy.stands;
            (TURN_MAX_OF_GREEDY, overloaded, WORK_PER_REFUSING_OF_GREEDY)
        } else if self.shares.is_alone(function) {
            (TURN_MAX, self.long.stands, WORK_PER_REFUSING)
        } else {
            (TURN_MAX_OF_OTHERS, self.long.stands, WORK_PER_REFUSING)
        };
        let room = limit.max(self.overhead * self.refused * work);
        !overloaded || self.fresh < room
    }

    /// The same for one that comes from another thread. Its refusal costs this one nothing.
    fn fits_from_afar(&self) -> bool {
        !self.long.stands || FROM_AFAR * self.taken_from_afar < TURN_MAX
    }

    /// Callers come back one after the other, over as many seconds as there are times too many of them.
    fn retry_after(&self) -> Duration {
        let seconds = (self.excess.ceil() as u32).clamp(1, RETRY_AFTER_SECONDS_MAX);
        Duration::from_secs((1 + self.refusals % seconds).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const F: u64 = 1;

    /// A lane whose rounds take this long until it is overloaded, and the time by then.
    fn overloaded() -> (Lane, Instant) {
        let (mut lane, mut now) = (Lane::default(), Instant::now());
        while !lane.long.stands {
            round(&mut lane, &mut now, 25 * MS);
        }
        (lane, now)
    }

    /// A round of which guests take nothing.
    fn round(lane: &mut Lane, now: &mut Instant, length: Duration) {
        *now += PAUSE;
        assert!(lane.marks(*now));
        *now += length;
        lane.turn(*now, lane.guests);
    }

    /// A call comes while no guest waits.
    fn here(lane: &mut Lane, now: Instant, function: u64) -> Verdict {
        lane.arrive(Side::Here, now, function, Waiting::default())
    }

    /// As many calls as are no few.
    fn many(lane: &mut Lane, now: Instant) {
        for _ in 0..CALLS_MIN {
            assert_eq!(here(lane, now, F), Verdict::Run);
        }
    }

    #[test]
    fn a_burst_is_no_overload_and_what_stands_is() {
        let (mut lane, mut now) = (Lane::default(), Instant::now());
        for _ in 0..10 {
            round(&mut lane, &mut now, 60 * MS);
            assert!(!lane.long.stands);
            round(&mut lane, &mut now, MS);
        }
        for _ in 0..4 {
            assert!(!lane.long.stands);
            round(&mut lane, &mut now, 25 * MS);
        }
        assert!(lane.long.stands);
        round(&mut lane, &mut now, MS);
        assert!(lane.long.stands, "it does not pass at once");
        let calm = now;
        while lane.long.stands {
            round(&mut lane, &mut now, MS);
        }
        assert!(now - calm <= INTERVAL + 2 * (PAUSE + MS));
    }

    #[test]
    fn in_an_overload_a_round_has_room_for_so_much_and_a_few_come_in_always() {
        let (mut lane, now) = overloaded();
        many(&mut lane, now);
        lane.worked(F, 19 * MS, Slice::First);
        assert_eq!(here(&mut lane, now, F), Verdict::Run);
        lane.worked(F, 2 * MS, Slice::First);
        assert!(matches!(here(&mut lane, now, F), Verdict::Refused(_)));
    }

    #[test]
    fn a_function_has_so_many_guests_waiting_whatever_others_have() {
        let comes = |each: Duration, own, accounts| {
            let (mut lane, now) = (Lane::default(), Instant::now());
            lane.worked(F, each, Slice::First);
            lane.ended(F, each);
            lane.arrive(Side::Here, now, F, Waiting { own, accounts }) == Verdict::Run
        };
        for cost in [5 * MS, 500 * MS] {
            assert!(comes(cost, 24, 1) && !comes(cost, 25, 1));
            assert!(comes(cost, 24, 20) && !comes(cost, 25, 20));
            assert!(comes(cost, 9, 50) && !comes(cost, 10, 50));
            assert!(comes(cost, 3, 10_000) && !comes(cost, 4, 10_000));
        }
        let short = 5 * MS / 2;
        assert!(comes(short, 49, 1) && !comes(short, 50, 1), "125 ms of work");
        assert!(comes(short, 24, 20) && !comes(short, 25, 20));
        assert!(comes(MS / 100, 99, 1) && !comes(MS / 100, 100, 1));
    }

    #[test]
    fn guests_of_a_function_that_wait_leave_slots_to_others() {
        let waiting_max = |threads, slots| {
            let (mut lane, now) = (Lane::of(threads, slots), Instant::now());
            let mut own = 0;
            while lane.arrive(Side::Here, now, F, Waiting { own, accounts: 1 }) == Verdict::Run {
                own += 1;
            }
            own
        };
        assert_eq!((waiting_max(1, 64), waiting_max(2, 1_000)), (32, 100));
        assert_eq!((waiting_max(16, 1_000), waiting_max(64, 1_000)), (31, WAITING_MAX));
    }

    #[test]
    fn a_first_burst_is_let_in() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        let mut comes = |own| {
            lane.worked(F, MS, Slice::First);
            lane.arrive(Side::Here, now, F, Waiting { own, accounts: 1 }) == Verdict::Run
        };
        assert!(comes(99) && !comes(100));
    }

    #[test]
    fn refusing_does_not_take_all_of_a_round() {
        let (mut lane, now) = overloaded();
        lane.overhead = Duration::from_micros(10);
        many(&mut lane, now);
        lane.worked(F, 20 * MS, Slice::First);
        let mut refused = 0;
        while here(&mut lane, now, F) != Verdict::Run {
            refused += 1;
        }
        assert_eq!(refused, 501, "20 ms of work for 5 ms of refusing");
    }

    #[test]
    fn a_flood_is_refused_where_others_are_not() {
        let (mut lane, now) = overloaded();
        many(&mut lane, now);
        lane.worked(F, 10 * MS, Slice::First);
        assert_eq!(here(&mut lane, now, F), Verdict::Run, "it is alone");
        lane.worked(2, MS, Slice::First);
        assert!(matches!(here(&mut lane, now, F), Verdict::Refused(_)));
        assert_eq!(here(&mut lane, now, 2), Verdict::Run);
    }

    #[test]
    fn who_comes_after_a_flood_is_let_in_before_it_has_run() {
        let (mut lane, now) = overloaded();
        many(&mut lane, now);
        lane.worked(F, 30 * MS, Slice::First);
        assert!(matches!(here(&mut lane, now, F), Verdict::Refused(_)));
        assert_eq!(here(&mut lane, now, 2), Verdict::Run);
        assert!(lane.shares.is_greedy(F), "somebody else waits now");
    }

    #[test]
    fn how_long_a_round_takes_is_known_while_it_is_under_way() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        assert!(lane.marks(now) && !lane.marks(now));
        lane.worked(F, 3 * MS, Slice::First);
        lane.turn(now + 10 * MS, 9 * MS);
        assert_eq!(lane.delay(now + 11 * MS), 10 * MS);
        assert!(lane.marks(now + 11 * MS), "rounds follow each other when they are long");
        assert_eq!(lane.delay(now + 41 * MS), 30 * MS);
    }

    #[test]
    fn refused_callers_come_back_one_after_the_other() {
        let (mut lane, mut now) = overloaded();
        for _ in 0..50 {
            many(&mut lane, now);
            lane.worked(F, 500 * MS, Slice::First);
            for _ in 0..3 * CALLS_MIN {
                assert!(matches!(here(&mut lane, now, F), Verdict::Refused(_)));
            }
            round(&mut lane, &mut now, 25 * MS);
        }
        assert!((lane.excess - 4.0).abs() < 0.1, "{}", lane.excess);
        many(&mut lane, now);
        lane.worked(F, 500 * MS, Slice::First);
        let mut seconds: Vec<u64> = (0..400)
            .map(|_| match here(&mut lane, now, F) {
                Verdict::Refused(after) => after.as_secs(),
                Verdict::Run => panic!("there is no room"),
            })
            .collect();
        seconds.sort_unstable();
        assert_eq!((seconds[0], seconds[200], seconds[399]), (1, 3, 4));
    }

    #[test]
    fn only_a_few_are_sent_on() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        assert!(!lane.may_send_on());
        for _ in 0..10 {
            here(&mut lane, now, F);
        }
        assert!(lane.may_send_on() && lane.may_send_on() && !lane.may_send_on());
        for _ in 0..10_000 {
            here(&mut lane, now, F);
        }
        assert_eq!((0..100).filter(|_| lane.may_send_on()).count(), SENT_ON_MAX as usize);
    }

    #[test]
    fn calls_from_other_threads_are_counted_by_a_guess() {
        let (mut lane, now) = overloaded();
        for _ in 0..200 {
            assert_eq!(lane.arrive(Side::Afar, now, F, Waiting::default()), Verdict::Run);
        }
        let told = lane.arrive(Side::Afar, now, F, Waiting::default());
        assert!(matches!(told, Verdict::Refused(_)));
    }
}
