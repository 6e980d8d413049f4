//! Whose turn it is among guests that wait for a thread: decided from times that are handed in.
//!
//! Each account, which is a function to whoever runs a node, has gone so far in virtual time: as far as the time it has
//! taken. The one that has gone the least far goes next, so that all that want it get the same (start-time fair
//! queueing, Goyal et al., SIGCOMM 1996). Whoever asks for less than its part is behind, and finds no queue; it
//! stays behind by so much at most, so that nothing can be saved up.
//!
//! Within an account, calls that have not run for long go on in the order they came in, so that the first is soon over; those that have
//! take turns behind them (the levels of Corbató et al., AFIPS 1962), and get some of them whatever else comes.
//!
//! Turns come in rounds: one for each time that the thread has looked at its sockets.

use std::time::Duration;

use crate::ticker::TICK;

/// How far behind an account stays at most: a burst of so much goes before all others. With less, the calls of others that
/// come in bursts would wait for a flood that lasts.
const CREDIT: Duration = Duration::from_millis(50);
/// The same of one that is new: a call or two go before all others, and a flood that begins does not.
const CREDIT_OF_NEW: Duration = Duration::from_millis(5);
/// Who has not run while others had this much is as good as new.
const NEW_AFTER: Duration = Duration::from_millis(500);
/// A call that has run for longer takes turns with others like it.
const LONG: Duration = Duration::from_millis(20);
/// Of the turns of an account, one in so many goes to who has waited the longest.
const TURNS_PER_ANY: u32 = 4;
/// What accounts that are ahead of others may take of a round.
const ROUND_MAX: Duration = TICK;
/// Accounts that are remembered although nobody waits; some 100 bytes each.
const IDLE_MAX: usize = 256;

/// Those that wait for one thread, each with whatever wakes it.
#[derive(Debug)]
pub struct Fair<T> {
    accounts: Vec<Account<T>>,
    /// Where those that go next are in virtual time.
    now: Duration,
    tickets: u64,
    waiting: usize,
    /// What guests have run in this round.
    round: Duration,
}

#[derive(Debug)]
struct Account<T> {
    id: u64,
    at: Duration,
    turns: u32,
    guests: Vec<Guest<T>>,
}

#[derive(Debug)]
struct Guest<T> {
    ticket: u64,
    /// The first ticket of its call: the order in which calls came.
    first: u64,
    ran: Duration,
    wakes: T,
}

/// Who waits for a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Guests of the account that was asked for.
    pub own: u32,
    /// Accounts that have guests waiting.
    pub accounts: u32,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self {
            accounts: Vec::new(),
            now: Duration::ZERO,
            tickets: 0,
            waiting: 0,
            round: Duration::ZERO,
        }
    }
}

impl<T> Fair<T> {
    /// A guest waits that has run for so long by now; `first` is what this returned when its call waited
    /// first, none if it has not yet. The number to ask for it by.
    pub fn wait(&mut self, account: u64, first: Option<u64>, ran: Duration, wakes: T) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.waiting += 1;
        let guest = Guest { ticket, first: first.unwrap_or(ticket), ran, wakes };
        self.account(account).guests.push(guest);
        ticket
    }

    /// What wakes a guest that still waits.
    pub fn waiter(&mut self, account: u64, ticket: u64) -> Option<&mut T> {
        let account = self.accounts.iter_mut().find(|known| known.id == account)?;
        let guest = account.guests.iter_mut().find(|guest| guest.ticket == ticket)?;
        Some(&mut guest.wakes)
    }

    /// A guest waits no longer.
    pub fn leave(&mut self, account: u64, ticket: u64) {
        let Some(account) = self.accounts.iter_mut().find(|known| known.id == account) else {
            return;
        };
        let before = account.guests.len();
        account.guests.retain(|guest| guest.ticket != ticket);
        self.waiting -= before - account.guests.len();
    }

    /// A round begins: who goes next. It waits no longer.
    pub fn pick(&mut self) -> Option<T> {
        self.round = Duration::ZERO;
        let waiting = self.accounts.iter_mut().filter(|account| !account.guests.is_empty());
        let account = waiting.min_by_key(|account| account.at)?;
        self.now = self.now.max(account.at);
        account.turns = account.turns.wrapping_add(1);
        let any = account.turns.is_multiple_of(TURNS_PER_ANY);
        let order = |guest: &Guest<T>| {
            let long = any || guest.ran >= LONG;
            (!any && long, if long { guest.ticket } else { guest.first })
        };
        let at = (0..account.guests.len()).min_by_key(|at| order(&account.guests[*at]))?;
        self.waiting -= 1;
        Some(account.guests.swap_remove(at).wakes)
    }

    /// A guest has run for this long. Whether the round is full by that.
    pub fn took(&mut self, account: u64, time: Duration) -> bool {
        let is_quiet = self.waiting == 0;
        let account = self.account(account);
        account.at += time;
        let at = account.at;
        if is_quiet {
            // Nobody has gone short of it: it is not held against it later.
            self.now = self.now.max(at);
        }
        let before = self.round;
        self.round += time;
        before < ROUND_MAX && self.round >= ROUND_MAX
    }

    /// Whether a call may begin at once, and need not wait for a turn: its account has had less than those that wait,
    /// and this round has room for it.
    pub fn may_begin(&self, account: u64) -> bool {
        let known = self.accounts.iter().find(|known| known.id == account);
        if self.round >= ROUND_MAX && self.is_ahead(account) {
            return false;
        }
        let waiting = self.accounts.iter().filter(|account| !account.guests.is_empty());
        let next = waiting.map(|account| account.at).min();
        known.is_none_or(|known| next.is_none_or(|next| known.at <= next))
    }

    /// How far an account is behind those that wait, in ns; below 0: ahead of them. None: nobody waits.
    pub fn behind_ns(&self, account: u64) -> Option<i64> {
        let waiting = self.accounts.iter().filter(|account| !account.guests.is_empty());
        let next = waiting.map(|account| account.at).min()?;
        let known = self.accounts.iter().find(|known| known.id == account);
        let at = self.at(known);
        let ns = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Some(ns(next.saturating_sub(at)) - ns(at.saturating_sub(next)))
    }

    /// Whether some account has had less of late than this one, which has had something.
    fn is_ahead(&self, account: u64) -> bool {
        let known = self.accounts.iter().find(|known| known.id == account);
        known.is_some_and(|known| self.accounts.iter().any(|other| other.at < known.at))
    }

    /// Who waits, and how many of them are of this account.
    pub fn waiting(&self, account: u64) -> Waiting {
        if self.waiting == 0 {
            return Waiting::default();
        }
        let mut waiting = Waiting::default();
        for known in self.accounts.iter().filter(|known| !known.guests.is_empty()) {
            waiting.accounts += 1;
            if known.id == account {
                waiting.own = u32::try_from(known.guests.len()).unwrap_or(u32::MAX);
            }
        }
        waiting
    }

    /// Where an account is, which is behind by so much at most.
    fn at(&self, known: Option<&Account<T>>) -> Duration {
        match known {
            Some(known) if !known.guests.is_empty() => known.at,
            Some(known) if known.at + NEW_AFTER > self.now => {
                known.at.max(self.now.saturating_sub(CREDIT))
            }
            _ => self.now.saturating_sub(CREDIT_OF_NEW),
        }
    }

    /// The account with this number, as far behind as it may be.
    fn account(&mut self, id: u64) -> &mut Account<T> {
        let position = self.accounts.iter().position(|known| known.id == id);
        let at = self.at(position.map(|position| &self.accounts[position]));
        let position = position.unwrap_or_else(|| {
            let now = self.now;
            self.accounts.retain(|known| !known.guests.is_empty() || known.at + NEW_AFTER > now);
            if self.accounts.len() >= IDLE_MAX {
                self.accounts.retain(|known| !known.guests.is_empty());
            }
            self.accounts.push(Account { id, at, turns: 0, guests: Vec::new() });
            self.accounts.len() - 1
        });
        let account = &mut self.accounts[position];
        account.at = at;
        account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Guests that never end, so many of each account: how many of these turns each account gets.
    fn share(accounts: &[(u64, usize)], turns: usize) -> Vec<usize> {
        let mut fair = Fair::default();
        let mut got = vec![0; accounts.len()];
        for (n, (account, guests)) in accounts.iter().enumerate() {
            for _ in 0..*guests {
                fair.wait(*account, None, Duration::ZERO, n);
            }
        }
        for _ in 0..turns {
            let n = fair.pick().unwrap();
            got[n] += 1;
            fair.took(accounts[n].0, MS);
            fair.wait(accounts[n].0, None, MS, n);
        }
        got
    }

    #[test]
    fn accounts_get_the_same_however_many_guests_they_have() {
        assert_eq!(share(&[(7, 1), (8, 30)], 100), [50, 50]);
        assert_eq!(share(&[(1, 3), (2, 1), (3, 9)], 99), [33, 33, 33]);
    }

    #[test]
    fn an_account_is_behind_by_what_others_have_had() {
        let mut fair = Fair::default();
        assert_eq!(fair.behind_ns(1), None);
        fair.wait(1, None, Duration::ZERO, ());
        fair.took(1, 30 * MS);
        assert_eq!((fair.behind_ns(1), fair.behind_ns(2)), (Some(0), Some(30_000_000)));
        fair.took(2, 20 * MS);
        assert_eq!(fair.behind_ns(2), Some(10_000_000));
        fair.took(2, 20 * MS);
        assert_eq!(fair.behind_ns(2), Some(-10_000_000));
        fair.took(1, CREDIT);
        fair.pick();
        fair.wait(1, None, Duration::ZERO, ());
        assert_eq!(fair.behind_ns(3), Some(CREDIT_OF_NEW.as_nanos() as i64), "it is new");
    }

    #[test]
    fn who_asks_for_less_than_its_part_never_waits_for_more_than_one_turn() {
        let mut fair = Fair::default();
        for n in 0..30 {
            fair.wait(1, None, Duration::ZERO, n);
        }
        let go_on = |fair: &mut Fair<u32>, turns| {
            for _ in 0..turns {
                let flood = fair.pick().unwrap();
                assert!(flood < 30);
                fair.took(1, MS);
                fair.wait(1, None, MS, flood);
            }
        };
        // Until the flood has had more than others could have been owed.
        go_on(&mut fair, 100);
        for _ in 0..20 {
            // Five turns of twenty.
            for turn in 0..5 {
                if turn == 0 {
                    assert!(fair.may_begin(2));
                } else {
                    assert_eq!(fair.pick(), Some(100), "turn {turn}");
                }
                fair.took(2, MS);
                fair.wait(2, None, turn * MS, 100);
            }
            assert_eq!(fair.pick(), Some(100));
            go_on(&mut fair, 15);
        }
    }

    /// An account runs for so many turns, always with one guest that waits.
    fn runs_alone(fair: &mut Fair<u32>, account: u64, turns: u32) {
        for _ in 0..turns {
            fair.wait(account, None, Duration::ZERO, 0);
            assert_eq!(fair.pick(), Some(0));
            fair.took(account, MS);
        }
    }

    /// How many turns another account has before it is this one's turn.
    fn turns_before(fair: &mut Fair<u32>, account: u64, other: u64) -> u32 {
        fair.wait(account, None, Duration::ZERO, 1);
        let mut before = 0;
        loop {
            fair.wait(other, None, Duration::ZERO, 2);
            if fair.pick() == Some(1) {
                return before;
            }
            fair.took(other, MS);
            before += 1;
        }
    }

    #[test]
    fn nothing_is_saved_up_and_nothing_held_against_who_was_alone() {
        let mut fair = Fair::default();
        runs_alone(&mut fair, 1, 10_000);
        fair.took(2, MS);
        runs_alone(&mut fair, 1, 400);
        let before = turns_before(&mut fair, 1, 2);
        assert!((45..=51).contains(&before), "{before} turns went before");
    }

    #[test]
    fn who_is_new_or_has_not_run_for_long_has_little_before_others() {
        let mut fair = Fair::default();
        runs_alone(&mut fair, 1, 10_000);
        let before = turns_before(&mut fair, 1, 2);
        assert!((4..=6).contains(&before), "{before} turns of a new one");
        let mut fair = Fair::default();
        fair.took(2, MS);
        runs_alone(&mut fair, 1, 600);
        let before = turns_before(&mut fair, 1, 2);
        assert!((4..=6).contains(&before), "{before} turns of one that was gone");
    }

    #[test]
    fn within_an_account_the_first_call_ends_first_and_long_ones_do_not_starve() {
        let mut fair = Fair::default();
        let calls: Vec<u64> = (0..3).map(|n| fair.wait(1, None, Duration::ZERO, n)).collect();
        let mut order = Vec::new();
        for _ in 0..3 {
            let n = fair.pick().unwrap();
            order.push(n);
            fair.wait(1, Some(calls[n as usize]), MS, n);
        }
        assert_eq!(order, [0, 0, 0]);
        assert_eq!(fair.pick(), Some(1), "it has waited the longest");

        let mut fair = Fair::default();
        fair.wait(1, None, 2 * LONG, 100);
        let mut turns_of_long = 0;
        for n in 0..100 {
            fair.wait(1, None, Duration::ZERO, n);
            if fair.pick() == Some(100) {
                turns_of_long += 1;
                fair.wait(1, Some(1), 2 * LONG, 100);
            }
        }
        assert!((1..=25).contains(&turns_of_long), "{turns_of_long}");
    }

    #[test]
    fn who_has_had_more_waits_to_begin_and_who_leaves_is_not_waited_for() {
        let mut fair = Fair::default();
        assert!(fair.may_begin(1));
        fair.took(1, 5 * MS);
        assert!(!fair.is_ahead(1), "of nobody");
        fair.took(2, MS);
        assert!(fair.is_ahead(1) && !fair.is_ahead(2) && !fair.is_ahead(3));
        let ticket = fair.wait(2, None, MS, ());
        assert!(!fair.may_begin(1) && fair.may_begin(2) && fair.may_begin(3));
        assert_eq!(fair.waiting(2), Waiting { own: 1, accounts: 1 });
        assert_eq!(fair.waiting(1), Waiting { own: 0, accounts: 1 });
        assert!(fair.waiter(2, ticket).is_some());
        fair.leave(2, ticket);
        assert!(fair.waiter(2, ticket).is_none() && fair.pick().is_none());
    }

    #[test]
    fn accounts_that_nobody_needs_are_forgotten() {
        let mut fair = Fair::<()>::default();
        for id in 0..10_000 {
            fair.took(id, MS);
        }
        assert!(fair.accounts.len() <= IDLE_MAX, "{}", fair.accounts.len());
    }
}
