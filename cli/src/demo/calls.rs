//! Where the callers of each traced function are, and the calls that follow.

use std::time::Duration;

use nigh_model::{AppName, Region};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::load::trace::Trace;
use crate::load::{Planned, traced};
use crate::local::layout::Place;

/// The share of a function's callers that are in its home region; the others are anywhere.
const AT_HOME: f64 = 0.7;
/// One function in this many may run in one region only.
const RESTRICTED_ONE_IN: usize = 3;

/// Where callers are and where functions may run; all of it follows from the seed.
pub(crate) struct Mix {
    /// The places of each region, by their index.
    regions: Vec<(Region, Vec<usize>)>,
    /// By function.
    functions: Vec<Function>,
    seed: u64,
}

struct Function {
    /// Where most of its callers are.
    home: usize,
    /// The only region where it may run.
    only: Option<usize>,
}

impl Mix {
    /// Draws homes and restrictions. By number of calls, every third function is restricted,
    /// beginning with the second busiest: the busiest makes three calls in four, and whether
    /// those had to cross would decide everything.
    pub(crate) fn draw(places: &[Place], trace: &Trace, seed: u64) -> Self {
        let mut regions: Vec<(Region, Vec<usize>)> = Vec::new();
        for (index, place) in places.iter().enumerate() {
            match regions.iter_mut().find(|(region, _)| *region == place.region) {
                Some((_, nodes)) => nodes.push(index),
                None => regions.push((place.region.clone(), vec![index])),
            }
        }
        let mut random = StdRng::seed_from_u64(seed);
        let mut by_calls: Vec<usize> = (0..trace.functions.len()).collect();
        by_calls.sort_by_key(|function| std::cmp::Reverse(trace.functions[*function].calls()));
        let functions = (0..trace.functions.len())
            .map(|function| {
                let rank = by_calls.iter().position(|other| *other == function);
                let home = random.random_range(0..regions.len());
                let only = random.random_range(0..regions.len());
                let restricted = rank.is_some_and(|rank| rank % RESTRICTED_ONE_IN == 1);
                Function { home, only: restricted.then_some(only) }
            })
            .collect();
        Self { regions, functions, seed }
    }

    /// The only region where a function may run, if it is restricted.
    pub(crate) fn only_region(&self, function: usize) -> Option<&Region> {
        self.functions[function].only.map(|region| &self.regions[region].0)
    }

    /// How many functions are restricted.
    pub(crate) fn restricted(&self) -> usize {
        self.functions.iter().filter(|function| function.only.is_some()).count()
    }

    /// The calls of the first part of a replay.
    pub(crate) fn calls(
        &self,
        app: &AppName,
        trace: &Trace,
        speed: f64,
        length: Duration,
    ) -> Vec<Planned> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(1));
        let mut calls = Vec::new();
        for call in trace.replay(speed, self.seed.wrapping_add(2)) {
            if call.at >= length {
                break;
            }
            let home = self.functions[call.function].home;
            let region = match random.random::<f64>() < AT_HOME {
                true => home,
                false => random.random_range(0..self.regions.len()),
            };
            let nodes = &self.regions[region].1;
            calls.push(Planned {
                at: call.at,
                entry: nodes[random.random_range(0..nodes.len())],
                function: call.function,
                path: traced::path(app, trace, call.function, call.runs),
            });
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{DURATIONS, INVOCATIONS, SPEED};
    use crate::local::layout::deal;

    fn drawn(seed: u64) -> (Mix, Trace) {
        let names = ["eu-west-1", "us-east-1", "ap-northeast-1"];
        let regions: Vec<Region> = names.iter().map(|name| Region::new(name).unwrap()).collect();
        let trace = Trace::parse(INVOCATIONS, DURATIONS).unwrap();
        (Mix::draw(&deal(5, &regions, None).unwrap(), &trace, seed), trace)
    }

    #[test]
    fn a_third_of_the_functions_may_run_in_one_region_only() {
        let (mix, trace) = drawn(1);
        assert_eq!(mix.restricted(), 33);
        let restricted: u64 = (0..100)
            .filter(|function| mix.only_region(*function).is_some())
            .map(|function| trace.functions[function].calls())
            .sum();
        assert!(restricted * 10 > trace.calls(), "{restricted}: enough of them to cross");
    }

    #[test]
    fn the_same_seed_makes_the_same_calls_at_every_node() {
        let app = AppName::new("azure").unwrap();
        let calls = |seed| {
            let (mix, trace) = drawn(seed);
            mix.calls(&app, &trace, SPEED, Duration::from_secs(40))
        };
        let first = calls(1);
        assert_eq!(first.len(), 18_558);
        assert_eq!(first, calls(1));
        assert_ne!(first, calls(2));
        for node in 0..5 {
            assert!(first.iter().filter(|call| call.entry == node).count() > 100, "{node}");
        }
        let (mix, trace) = drawn(1);
        let short = mix.calls(&app, &trace, SPEED, Duration::from_secs(4));
        assert_eq!(short, first[..short.len()]);
    }
}
