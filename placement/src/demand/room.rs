//! Which loaded components make room for others: a cache under a budget in bytes.
//!
//! GreedyDual-Size-Frequency (Cherkasova, 1998), as FaasCache keeps functions warm (Fuerst and
//! Sharma, ASPLOS 2021): what is used often, costs much to load again for what it takes, or was used
//! lately stays. When each was used is told here at a *look*; no call does more than note its time.

/// Loading takes about this long however small the component, in µs …
const LOAD_US: f64 = 60.0;
/// … and this much longer for each MiB of it.
const LOAD_US_PER_MIB: f64 = 600.0;
const MIB: f64 = 1_048_576.0;

/// One use counts within this time, in ms: a burst of calls is one reason to stay, not a thousand.
pub const USE_MS: u64 = 1_000;

/// What is remembered of a loaded component between two looks. New: loaded, and not yet looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rank {
    /// The lowest goes first.
    priority: f64,
    uses: u32,
    /// The last use that counted, in ms.
    used_ms: u64,
}

/// A loaded component, as the rule sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resident {
    /// What it takes of memory, in bytes.
    pub bytes: u64,
    /// When it was last called, or loaded if it never was, in ms.
    pub last_call_ms: u64,
    /// Whether it must stay: a function of it is promised to be warm, or a call of it runs.
    pub keep: bool,
    /// What is remembered of it.
    pub rank: Rank,
}

/// The rule, with the one thing that it remembers of what has gone.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// The priority of what went last: who is used now begins above it, and who is not used any more
    /// is overtaken, however often it was.
    clock: f64,
}

impl Room {
    /// Takes note of the use since the last look.
    pub fn look(&self, resident: &mut Resident) {
        let Resident { bytes, last_call_ms, rank, .. } = resident;
        if rank.uses == 0 || last_call_ms.saturating_sub(rank.used_ms) >= USE_MS {
            rank.uses = rank.uses.saturating_add(1);
            rank.used_ms = *last_call_ms;
            rank.priority = self.clock + f64::from(rank.uses) * worth(*bytes);
        }
    }

    /// Which residents go, as indices, so that at most `bytes_max` are left: those of the lowest
    /// priority, and of equals those called longest ago; none that must stay, even if more is left
    /// then. `out` is emptied before.
    pub fn make(&mut self, residents: &mut [Resident], bytes_max: u64, out: &mut Vec<usize>) {
        out.clear();
        let mut bytes = 0_u64;
        for (at, resident) in residents.iter_mut().enumerate() {
            self.look(resident);
            bytes = bytes.saturating_add(resident.bytes);
            if !resident.keep {
                out.push(at);
            }
        }
        out.sort_unstable_by(|&a, &b| {
            let of = |at: usize| (residents[at].rank.priority, residents[at].last_call_ms);
            let ((a_priority, a_call_ms), (b_priority, b_call_ms)) = (of(a), of(b));
            a_priority.total_cmp(&b_priority).then(a_call_ms.cmp(&b_call_ms)).then(a.cmp(&b))
        });
        let mut gone = 0;
        while bytes > bytes_max && gone < out.len() {
            let goes = &residents[out[gone]];
            bytes = bytes.saturating_sub(goes.bytes);
            self.clock = self.clock.max(goes.rank.priority);
            gone += 1;
        }
        out.truncate(gone);
    }
}

/// What a use is worth: the time that loading it again would take, for each MiB that it takes.
fn worth(bytes: u64) -> f64 {
    let mib = (bytes.max(1) as f64) / MIB;
    LOAD_US / mib + LOAD_US_PER_MIB
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1 << 10;

    fn resident(kib: u64, last_call_ms: u64) -> Resident {
        Resident { bytes: kib * KIB, last_call_ms, keep: false, rank: Rank::default() }
    }

    fn gone(room: &mut Room, residents: &mut [Resident], kib_max: u64) -> Vec<usize> {
        let mut out = vec![99];
        room.make(residents, kib_max * KIB, &mut out);
        out
    }

    #[test]
    fn nothing_goes_while_there_is_room() {
        let mut all = [resident(100, 1), resident(100, 2)];
        assert_eq!(gone(&mut Room::default(), &mut all, 200), Vec::<usize>::new());
    }

    #[test]
    fn of_equals_the_least_recently_called_goes_first() {
        let mut all = [resident(100, 3), resident(100, 1), resident(100, 2)];
        assert_eq!(gone(&mut Room::default(), &mut all, 150), [1, 2]);
    }

    #[test]
    fn a_large_one_goes_before_small_ones_used_as_often() {
        let mut all = [resident(100, 1), resident(10_000, 2), resident(100, 3)];
        assert_eq!(gone(&mut Room::default(), &mut all, 500), [1]);
    }

    #[test]
    fn what_is_used_often_stays_and_a_burst_is_one_use() {
        let room = Room::default();
        let (mut often, mut burst) = (resident(100, 0), resident(100, 0));
        for second in 0..5 {
            often.last_call_ms = second * USE_MS;
            room.look(&mut often);
            burst.last_call_ms = second;
            room.look(&mut burst);
        }
        burst.last_call_ms = 4 * USE_MS - 1;
        let mut all = [often, burst];
        assert_eq!(gone(&mut Room::default(), &mut all, 100), [1]);
    }

    #[test]
    fn what_was_used_often_once_is_overtaken_in_the_end() {
        let mut room = Room::default();
        let mut famous = resident(100, 0);
        for second in 0..20 {
            famous.last_call_ms = second * USE_MS;
            room.look(&mut famous);
        }
        // Others come, each called once, with room for one beside it.
        for turn in 0..30 {
            let mut all = [famous, resident(100, (20 + turn) * USE_MS), resident(100, 1)];
            let out = gone(&mut room, &mut all, 200);
            if out == [0] {
                assert!(turn > 5, "so soon as {turn}");
                return;
            }
            famous = all[0];
        }
        panic!("it stays for ever");
    }

    #[test]
    fn what_must_stay_stays_even_beyond_the_budget() {
        let mut all = [resident(100, 1), resident(100, 2), resident(100, 3)];
        all[0].keep = true;
        all[2].keep = true;
        assert_eq!(gone(&mut Room::default(), &mut all, 0), [1]);
    }

    proptest! {
        #[test]
        fn the_budget_is_held_by_no_more_than_it_takes(
            given in prop::collection::vec((1_u64..5_000, 0_u64..100_000, any::<bool>()), 0..40),
            kib_max in 0_u64..50_000,
        ) {
            let mut all: Vec<Resident> = given.iter()
                .map(|(kib, at_ms, keep)| Resident { keep: *keep, ..resident(*kib, *at_ms) })
                .collect();
            let out = gone(&mut Room::default(), &mut all, kib_max);
            let kib = |at: &usize| given[*at].0;
            let total: u64 = given.iter().map(|(kib, ..)| kib).sum();
            let left = total - out.iter().map(kib).sum::<u64>();
            prop_assert!(out.iter().all(|at| !all[*at].keep));
            let free = all.iter().filter(|resident| !resident.keep).count();
            prop_assert!(left <= kib_max || out.len() == free);
            if let Some(last) = out.last() {
                prop_assert!(left + kib(last) > kib_max, "the last one went for nothing");
            }
        }
    }
}
