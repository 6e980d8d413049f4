//! Which node gets this call: candidates in, their order out.
//!
//! The caller lists the nodes that may run the function; [`pick`] orders them by [`cost`],
//! best first. It keeps no memory and allocates nothing. It deliberately does not decide who
//! is alive, measure anything, or retry.

use std::cmp::Ordering;

use nigh_model::NodeId;

use crate::rendezvous;

/// What a hop to another node costs besides the way, in ms: two more passes through sockets
/// and a queue on each side.
pub const HOP_MS: f64 = 0.5;

/// Candidates whose costs differ by no more than this are equals, in ms: estimates of round
/// trips are no finer, and it is far below the way to another region.
pub const NEAR_EQUAL_MS: f64 = 1.0;

/// What loading a compiled artifact costs, in ms: 0.1 measured from a warm page cache, the
/// rest for a disk that has to be read.
pub const LOAD_MS: f64 = 1.0;

/// What fetching a compiled artifact from a peer costs at least, in ms: a few MB over a WAN
/// connection that has to open its window.
pub const FETCH_MS: f64 = 100.0;

/// How many round trips a fetch adds, as the peer that holds it may be as far as we are.
pub const FETCH_ROUND_TRIPS: f64 = 3.0;

/// What compiling a component costs, in ms: a second for small ones, several for those of
/// interpreted languages.
pub const COMPILE_MS: f64 = 2_000.0;

/// The share of CPU above which calls begin to slow each other down.
pub const CPU_BUSY: f64 = 0.9;

/// What a call waits on a node whose CPU is used up, in ms: the length of a scheduler's turn.
pub const CPU_WAIT_MS: f64 = 10.0;

/// Stands for a figure that is not a number, in ms: such a candidate comes last, but comes.
const UNKNOWN_MS: f64 = 1e9;

/// What has to happen on a node before the function can run there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Nothing: it is loaded.
    Warm,
    /// Its compiled artifact is on disk.
    Ready,
    /// Its compiled artifact is on another node.
    Fetch,
    /// There is no compiled artifact for it yet.
    Compile,
}

/// A node that may run the function, as seen by the one that picks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Whether it is the node that picks: no way and no hop.
    pub local: bool,
    /// The round trip to it, in ms; not looked at for the local node.
    pub distance_ms: f64,
    /// What has to happen there first.
    pub start: Start,
    /// Calls that run or wait there.
    pub in_flight: u32,
    /// Calls that can run there at once.
    pub capacity: u32,
    /// How long calls waited there lately, in ms, by its own account; 0 if not known.
    pub queue_ms: f64,
    /// The share of its CPU in use, 0 to 1; 0 if not known.
    pub cpu: f64,
    /// What its recent failures count for, in ms; 0 if there were none.
    pub penalty_ms: f64,
    /// Whether it failed so that no call should go there for now, or is believed dead.
    pub ejected: bool,
    /// Whether it is about to leave.
    pub draining: bool,
}

impl Candidate {
    /// A candidate with capacity to spare and nothing against it.
    pub const fn new(node: NodeId, distance_ms: f64, start: Start) -> Self {
        Self {
            node,
            local: false,
            distance_ms,
            start,
            in_flight: 0,
            capacity: 1,
            queue_ms: 0.0,
            cpu: 0.0,
            penalty_ms: 0.0,
            ejected: false,
            draining: false,
        }
    }

    fn standing(&self) -> Standing {
        match (self.ejected, self.draining) {
            (false, false) => Standing::Usable,
            (false, true) => Standing::Leaving,
            (true, _) => Standing::Ejected,
        }
    }
}

/// Who picks, and for what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Viewpoint {
    /// How long a call of this function typically runs, in ms.
    pub exec_ms: f64,
    /// Decides between near-equals. A salt per node and function keeps a caller with its
    /// choice while others choose otherwise; a salt per call spreads each caller's calls.
    pub salt: u64,
}

/// What an order consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Usable candidates.
    Usable,
    /// No candidate is usable: those about to leave, then those ejected.
    LastResort,
    /// There is no candidate.
    Nothing,
}

/// What a call would wait for on a candidate, part by part, in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The way there and back, and the hop.
    pub distance_ms: f64,
    /// The expected wait for a free slot and CPU.
    pub wait_ms: f64,
    /// The start.
    pub start_ms: f64,
    /// The penalty for recent failures.
    pub penalty_ms: f64,
}

impl Cost {
    /// The whole, in ms.
    pub fn total_ms(&self) -> f64 {
        self.distance_ms + self.wait_ms + self.start_ms + self.penalty_ms
    }
}

/// The cost of a candidate:
///
/// ```text
/// cost     = distance + wait + start + penalty
/// distance = 0 here, else rtt + HOP_MS
/// wait     = max(queue, exec × max(0, in_flight + 1 − capacity) / capacity)
///          + CPU_WAIT_MS × max(0, cpu − CPU_BUSY) / (1 − CPU_BUSY)
/// start    = 0 warm | LOAD_MS ready | FETCH_MS + FETCH_ROUND_TRIPS × rtt | COMPILE_MS
/// ```
pub fn cost(view: &Viewpoint, candidate: &Candidate) -> Cost {
    let rtt_ms = if candidate.local { 0.0 } else { sane_ms(candidate.distance_ms) };
    let capacity = candidate.capacity.max(1);
    let ahead = (candidate.in_flight.saturating_add(1)).saturating_sub(capacity);
    let slot_ms = sane_ms(view.exec_ms) * f64::from(ahead) / f64::from(capacity);
    let cpu = if candidate.cpu.is_finite() { candidate.cpu.clamp(CPU_BUSY, 1.0) } else { 1.0 };
    Cost {
        distance_ms: if candidate.local { 0.0 } else { rtt_ms + HOP_MS },
        wait_ms: sane_ms(candidate.queue_ms).max(slot_ms)
            + CPU_WAIT_MS * (cpu - CPU_BUSY) / (1.0 - CPU_BUSY),
        start_ms: match candidate.start {
            Start::Warm => 0.0,
            Start::Ready => LOAD_MS,
            Start::Fetch => FETCH_MS + FETCH_ROUND_TRIPS * rtt_ms,
            Start::Compile => COMPILE_MS,
        },
        penalty_ms: sane_ms(candidate.penalty_ms),
    }
}

/// Orders candidates, best first, as indices into `candidates`; `out` is emptied before.
///
/// The usable ones stand in `out`, cheapest first. Those within [`NEAR_EQUAL_MS`] of the
/// cheapest among them are equals, and so on for the rest: of equals the local node comes
/// first, then the order is by rendezvous hash of salt and node, so that callers with one
/// view do not all choose the same node. Only if none is usable, the others are the answer.
pub fn pick(view: &Viewpoint, candidates: &[Candidate], out: &mut Vec<usize>) -> Choice {
    let usable = candidates.iter().any(|c| c.standing() == Standing::Usable);
    let asked = |c: &Candidate| !usable || c.standing() == Standing::Usable;
    out.clear();
    out.extend((0..candidates.len()).filter(|&at| asked(&candidates[at])));

    let total_ms = |at: usize| cost(view, &candidates[at]).total_ms();
    out.sort_unstable_by(|&a, &b| {
        let standing = candidates[a].standing().cmp(&candidates[b].standing());
        standing.then(total_ms(a).total_cmp(&total_ms(b))).then(by_id(candidates, a, b))
    });

    let mut rest = out.as_mut_slice();
    while let Some(&first) = rest.first() {
        let (standing, limit_ms) = (candidates[first].standing(), total_ms(first) + NEAR_EQUAL_MS);
        let equals = rest.partition_point(|&at| {
            candidates[at].standing() == standing && total_ms(at) <= limit_ms
        });
        let (group, others) = rest.split_at_mut(equals.max(1));
        group.sort_unstable_by(|&a, &b| {
            let by_hash = hash(view, candidates, b).cmp(&hash(view, candidates, a));
            let local_first = candidates[b].local.cmp(&candidates[a].local);
            local_first.then(by_hash).then(by_id(candidates, a, b))
        });
        rest = others;
    }

    match (usable, out.is_empty()) {
        (true, _) => Choice::Usable,
        (false, false) => Choice::LastResort,
        (false, true) => Choice::Nothing,
    }
}

/// Whether calls may go there, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Usable,
    Leaving,
    Ejected,
}

fn hash(view: &Viewpoint, candidates: &[Candidate], at: usize) -> u64 {
    rendezvous::join(view.salt, candidates[at].node.0)
}

fn by_id(candidates: &[Candidate], a: usize, b: usize) -> Ordering {
    candidates[a].node.cmp(&candidates[b].node).then(a.cmp(&b))
}

fn sane_ms(ms: f64) -> f64 {
    if ms.is_finite() { ms.clamp(0.0, UNKNOWN_MS) } else { UNKNOWN_MS }
}

#[cfg(test)]
mod tests;
