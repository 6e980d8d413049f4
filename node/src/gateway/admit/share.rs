//! How much of a thread each function has taken of late, which one takes too much, and what a call of each costs.
//!
//! Only the functions that take the most are remembered: the others are not the ones that matter
//! (Metwally et al., "Efficient computation of frequent and top-k elements", ICDT 2005).

use std::time::Duration;

use tokio::time::Instant;

/// Functions remembered of a thread (32 bytes each): a scan of so many costs some 30 ns.
const FUNCTIONS_MAX: usize = 64;
/// What was taken counts half after this long: a flood is known as one soon, and forgiven soon.
const HALF_LIFE: Duration = Duration::from_millis(500);
/// Ages are looked at this often at most.
const AGE_STEP: Duration = Duration::from_millis(20);
/// What counts less is forgotten: half a call of a short function.
const SECONDS_MIN: f64 = 20e-6;
/// What a call costs counts as one in so many.
const COST_WEIGHT: f64 = 8.0;
/// A function takes too much when it takes as many times the mean …
const GREEDY_TIMES_MEAN: f64 = 1.5;
/// … and this part of all: the most called of many equals is no flood.
const GREEDY_PART: f64 = 0.25;

/// Accounts of the functions that run on a thread.
#[derive(Debug, Default)]
pub(super) struct Shares {
    taken: Vec<Taken>,
    total: f64,
    aged: Option<Instant>,
}

/// What is known of a function.
#[derive(Debug)]
struct Taken {
    function: u64,
    /// Seconds, decaying.
    seconds: f64,
    /// Seconds that its calls have taken each; none before one has ended.
    each: Option<f64>,
}

impl Shares {
    /// A function has run for this long.
    pub(super) fn add(&mut self, function: u64, time: Duration) {
        let seconds = time.as_secs_f64();
        self.total += seconds;
        if let Some(taken) = self.known(function) {
            taken.seconds += seconds;
        } else if self.taken.len() < FUNCTIONS_MAX {
            self.taken.push(Taken { function, seconds, each: None });
        } else {
            let least = self.taken.iter_mut().min_by(|a, b| a.seconds.total_cmp(&b.seconds));
            if let Some(least) = least {
                self.total -= least.seconds;
                *least = Taken { function, seconds, each: None };
            }
        }
    }

    /// A call of a function is over that has run for so long in all.
    pub(super) fn ended(&mut self, function: u64, time: Duration) {
        if let Some(taken) = self.known(function) {
            let (seconds, before) = (time.as_secs_f64(), taken.each);
            let each = |before| before + (seconds - before) / COST_WEIGHT;
            taken.each = Some(before.map_or(seconds, each));
        }
    }

    /// How long a call of the function runs; none: nothing is known of it.
    pub(super) fn cost(&self, function: u64) -> Option<Duration> {
        let taken = self.taken.iter().find(|taken| taken.function == function)?;
        taken.each.map(Duration::from_secs_f64)
    }

    fn known(&mut self, function: u64) -> Option<&mut Taken> {
        self.taken.iter_mut().find(|taken| taken.function == function)
    }

    /// Whether the function takes much more than its part, and there are others to take it from.
    pub(super) fn is_greedy(&self, function: u64) -> bool {
        if self.taken.len() < 2 {
            return false;
        }
        let taken = self.taken.iter().find(|taken| taken.function == function);
        let taken = taken.map_or(0.0, |taken| taken.seconds);
        let mean = self.total / self.taken.len() as f64;
        taken >= GREEDY_TIMES_MEAN * mean && taken >= GREEDY_PART * self.total
    }

    /// Whether no other function has run here of late.
    pub(super) fn is_alone(&self, function: u64) -> bool {
        self.taken.iter().all(|taken| taken.function == function)
    }

    /// Lets what was taken count less as time goes by.
    pub(super) fn age(&mut self, now: Instant) {
        let since = now.duration_since(*self.aged.get_or_insert(now));
        if since < AGE_STEP {
            return;
        }
        self.aged = Some(now);
        let left = (-since.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        for taken in &mut self.taken {
            taken.seconds *= left;
        }
        self.taken.retain(|taken| taken.seconds >= SECONDS_MIN);
        self.total = self.taken.iter().map(|taken| taken.seconds).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_flood_is_greedy_and_nobody_else_and_nobody_alone() {
        let mut shares = Shares::default();
        shares.add(1, 100 * MS);
        assert!(
            shares.is_alone(1) && !shares.is_alone(2) && !shares.is_greedy(1),
            "there is nobody to take it from"
        );
        shares.add(2, 2 * MS);
        assert!(shares.is_greedy(1) && !shares.is_greedy(2) && !shares.is_greedy(3));
        shares.add(2, 90 * MS);
        assert!(!shares.is_greedy(1), "two that take about the same");
        let mut many = Shares::default();
        for function in 0..20 {
            many.add(function, (10 + function as u32) * MS);
        }
        assert!((0..20).all(|function| !many.is_greedy(function)));
    }

    #[test]
    fn what_was_taken_is_forgotten() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        shares.age(now);
        shares.add(1, 100 * MS);
        shares.add(2, MS);
        assert!(shares.is_greedy(1));
        shares.age(now + HALF_LIFE);
        assert!((shares.total - 0.0505).abs() < 1e-6, "{shares:?}");
        shares.age(now + 20 * HALF_LIFE);
        assert!(shares.is_alone(1));
    }

    #[test]
    fn what_a_call_costs_is_known_once_one_has_ended_and_follows_those_that_come() {
        let mut shares = Shares::default();
        shares.ended(1, MS);
        assert_eq!(shares.cost(1), None, "it has never run here");
        shares.add(1, MS);
        assert_eq!(shares.cost(1), None);
        shares.ended(1, 8 * MS);
        assert_eq!((shares.cost(1), shares.cost(2)), (Some(8 * MS), None));
        for _ in 0..50 {
            shares.ended(1, MS);
        }
        assert!(shares.cost(1).is_some_and(|cost| cost < 2 * MS), "{shares:?}");
    }

    #[test]
    fn only_so_many_are_remembered_and_the_greatest_stay() {
        let mut shares = Shares::default();
        shares.add(0, 100 * MS);
        for function in 1..1_000 {
            shares.add(function, MS);
        }
        assert_eq!(shares.taken.len(), FUNCTIONS_MAX);
        assert!(shares.is_greedy(0));
        assert!((shares.total - 0.163).abs() < 1e-6, "{}", shares.total);
    }
}
