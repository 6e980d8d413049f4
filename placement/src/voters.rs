//! Which nodes vote, and how to get there one change at a time.
//!
//! [`target_voters`] says who should vote, [`next_step`] the next change on the way there. The
//! caller decides who is alive, makes the change, and asks again. A leader that would be
//! removed hands over first: that is the caller's task too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use nigh_model::{NodeId, Region, Zone};

/// A registered node, as the choice of voters sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterCandidate {
    /// Its id.
    pub id: NodeId,
    /// Its region.
    pub region: Region,
    /// Its zone, if it has one. Nodes without one count as one zone.
    pub zone: Option<Zone>,
    /// Whether it is alive; false only after a grace period, as this may replace it.
    pub alive: bool,
    /// Whether it has been alive for long enough to be counted on. One that has not becomes a
    /// voter only where a number would be missing else, and not for a better spread.
    pub steady: bool,
    /// Whether it is about to leave.
    pub draining: bool,
    /// Whether it votes now.
    pub is_voter: bool,
}

impl VoterCandidate {
    fn usable(&self) -> bool {
        self.alive && !self.draining
    }
}

/// How many voters a cluster of so many registered nodes should have: 1 below three, 3 below
/// seven, else 5. One failure of three voters is survived, two of five; more voters would only
/// slow each write.
pub const fn voters_wanted(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    }
}

/// The nodes that should vote.
///
/// They are chosen one by one: from the region with the fewest chosen so far, there a present
/// voter first, then from the zone with the fewest, then the lowest id. So a present voter
/// stays unless the spread over regions gets better without it. Those that are not steady (and
/// do not vote) are chosen after all others. Dead and draining nodes are
/// not chosen; present voters among them stay only for want of others. The number is odd, as
/// an even one survives no more failures: where it cannot be reached, it is the next lower.
pub fn target_voters(nodes: &[VoterCandidate]) -> BTreeSet<NodeId> {
    let mut open: Vec<&VoterCandidate> = nodes.iter().filter(|node| node.usable()).collect();
    let mut stuck: Vec<&VoterCandidate> =
        nodes.iter().filter(|node| node.is_voter && !node.usable()).collect();
    stuck.sort_by_key(|node| (Reverse(node.alive), node.id));

    let fillable = open.len() + stuck.len();
    let odd = if fillable.is_multiple_of(2) { fillable.saturating_sub(1) } else { fillable };
    let wanted = voters_wanted(nodes.len()).min(odd);

    let mut target = BTreeSet::new();
    let mut in_region: BTreeMap<&Region, usize> = BTreeMap::new();
    let mut in_zone: BTreeMap<(&Region, &Option<Zone>), usize> = BTreeMap::new();
    while target.len() < wanted {
        let best = open.iter().enumerate().min_by_key(|(_, node)| {
            let region = in_region.get(&node.region).copied().unwrap_or_default();
            let zone = in_zone.get(&(&node.region, &node.zone)).copied().unwrap_or_default();
            (!node.steady && !node.is_voter, region, !node.is_voter, zone, node.id)
        });
        let Some((at, node)) = best.map(|(at, node)| (at, *node)) else { break };
        *in_region.entry(&node.region).or_default() += 1;
        *in_zone.entry((&node.region, &node.zone)).or_default() += 1;
        target.insert(node.id);
        open.swap_remove(at);
    }
    let missing = wanted - target.len();
    target.extend(stuck.iter().take(missing).map(|node| node.id));
    target
}

/// What the raft group consists of now.
#[derive(Clone, Copy, Debug)]
pub struct Membership<'a> {
    /// Those that vote.
    pub voters: &'a BTreeSet<NodeId>,
    /// Those that are sent the log but do not vote.
    pub learners: &'a BTreeSet<NodeId>,
    /// Learners of which the log is close to the leader's: they can vote without holding
    /// commits up.
    pub caught_up: &'a BTreeSet<NodeId>,
    /// Nodes that answer now. No grace here: a quorum is counted on it.
    pub alive: &'a BTreeSet<NodeId>,
}

/// One change of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the log to a node that will vote.
    AddLearner(NodeId),
    /// Let a learner vote.
    Promote(NodeId),
    /// Let a learner vote in place of a voter, in one joint change.
    Replace {
        /// The learner.
        add: NodeId,
        /// The voter.
        remove: NodeId,
    },
    /// Let a voter vote no more.
    Demote(NodeId),
}

/// The next change on the way to the target; none if it is reached, if a learner has to catch
/// up first, or if the change would be a danger.
///
/// A change needs a live majority before and after it. While the quorum is thin (not one voter
/// more alive than a majority of three or more) no live voter is removed; the dead go first
/// anyway. An odd number grows only when the next promotion can follow at once, since an even
/// number survives no more failures.
pub fn next_step(now: &Membership<'_>, target: &BTreeSet<NodeId>) -> Option<Step> {
    let spare_before = spare(now.voters, now.alive)?;
    let alive = |id: &&NodeId| now.alive.contains(id);
    let adds: Vec<NodeId> = target.difference(now.voters).filter(alive).copied().collect();
    if let Some(new) = adds.iter().find(|id| !now.learners.contains(id)) {
        return Some(Step::AddLearner(*new));
    }
    let mut able = adds.iter().filter(|id| now.caught_up.contains(id)).copied();
    let add = able.next();
    let another = able.next().is_some();
    let remove = now.voters.difference(target).min_by_key(|id| (alive(id), Reverse(**id))).copied();

    let (have, want) = (now.voters.len(), target.len());
    let step = match (add, remove) {
        (Some(add), Some(remove)) if have >= want => Step::Replace { add, remove },
        (Some(add), _) if have.is_multiple_of(2) || another || have + 1 == want => {
            Step::Promote(add)
        }
        (None, Some(remove)) if have > want && want > 0 => Step::Demote(remove),
        _ => return None,
    };
    let removed = match step {
        Step::Replace { remove, .. } | Step::Demote(remove) => Some(remove),
        Step::AddLearner(_) | Step::Promote(_) => None,
    };
    let thin = spare_before == 0 && have >= 3;
    if thin && removed.is_some_and(|id| now.alive.contains(&id)) {
        return None;
    }
    spare(&after(now.voters, step), now.alive).map(|_| step)
}

/// The voters after a step.
pub fn after(voters: &BTreeSet<NodeId>, step: Step) -> BTreeSet<NodeId> {
    let mut voters = voters.clone();
    match step {
        Step::AddLearner(_) => {}
        Step::Promote(add) => {
            voters.insert(add);
        }
        Step::Replace { add, remove } => {
            voters.remove(&remove);
            voters.insert(add);
        }
        Step::Demote(remove) => {
            voters.remove(&remove);
        }
    }
    voters
}

/// Why a node cannot be removed from the voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRemovable {
    /// There would be no voter left.
    #[error("it is the only voter")]
    OnlyVoter,
    /// The rest could decide nothing.
    #[error("of the {rest} voters that stay, {alive} answer, and {majority} are a majority")]
    NoMajority {
        /// Voters without it.
        rest: usize,
        /// Of them alive.
        alive: usize,
        /// Of them needed.
        majority: usize,
    },
}

/// Whether the cluster can decide without this node, and can decide to be without it.
///
/// # Errors
/// Why not.
pub fn removable(
    id: NodeId,
    voters: &BTreeSet<NodeId>,
    alive: &BTreeSet<NodeId>,
) -> Result<(), NotRemovable> {
    if !voters.contains(&id) {
        return Ok(());
    }
    let rest: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| *voter != id).collect();
    if rest.is_empty() {
        return Err(NotRemovable::OnlyVoter);
    }
    match spare(&rest, alive) {
        Some(_) => Ok(()),
        None => Err(NotRemovable::NoMajority {
            rest: rest.len(),
            alive: rest.intersection(alive).count(),
            majority: rest.len() / 2 + 1,
        }),
    }
}

/// How many more voters are alive than a majority needs; none if there is no live majority.
fn spare(voters: &BTreeSet<NodeId>, alive: &BTreeSet<NodeId>) -> Option<usize> {
    voters.intersection(alive).count().checked_sub(voters.len() / 2 + 1)
}

#[cfg(test)]
mod tests;
