//! Where functions should be: the problem and the previous plan in, the next plan out.
//!
//! The same problem gives the same plan. It deliberately does not decide who is alive (the
//! caller lets a grace period pass first), how loaded nodes are, or when to plan.
//!
//! The rules and the properties that tests hold are listed in `docs/placement.md`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use nigh_model::spec::{PlacementSpec, Scale};
use nigh_model::{Assignment, FunctionRef, NodeId, Region, Tier, Zone};

use crate::rendezvous;

/// Nodes on which a function is placed at least, where there are so many: one may fail.
pub const NODES_MIN: usize = 2;

/// What there is to place, and where.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// The registered nodes. If an id stands twice, the first one counts.
    pub nodes: Vec<NodeInput>,
    /// The functions to place. If a key stands twice, the last one counts.
    pub functions: Vec<FunctionInput>,
    /// What is assigned now.
    pub previous: BTreeMap<FunctionRef, Assignment>,
}

/// A node, as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInput {
    /// Its id.
    pub id: NodeId,
    /// Its region.
    pub region: Region,
    /// Its zone, if it has one. Nodes without one count as one zone.
    pub zone: Option<Zone>,
    /// Its share of homes relative to others of its region; 0: only if no other is left.
    pub capacity_weight: u32,
    /// Whether it is alive; false only after a grace period, as this moves its functions.
    pub alive: bool,
    /// Whether it is about to leave.
    pub draining: bool,
}

/// A function, as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInput {
    /// What is assigned.
    pub key: FunctionRef,
    /// What its homes are hashed from: the same for all revisions of a function, so that a
    /// new revision finds the old one's homes. See [`home_key`].
    pub home_key: u64,
    /// Where it may and should run.
    pub placement: PlacementSpec,
    /// How it scales.
    pub scale: Scale,
    /// Whether calls go to it or soon will: it is placed warm. Else, kept for a rollback,
    /// it is placed ready.
    pub active: bool,
}

/// The [`FunctionInput::home_key`] of a function of an app.
pub fn home_key(app: &str, function: &str) -> u64 {
    rendezvous::key(&[app, function])
}

/// Where functions should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every function of the problem, with no node if it cannot be placed.
    pub assignments: BTreeMap<FunctionRef, Assignment>,
    /// The functions on fewer nodes than wished, and why.
    pub shortfalls: BTreeMap<FunctionRef, Shortfall>,
}

/// A function that is on fewer nodes than wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// How many nodes were wished.
    pub wanted: usize,
    /// How many it got.
    pub placed: usize,
    /// Why not more.
    pub reason: Reason,
}

/// Why a function is on fewer nodes than wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// No node is registered in a region where it may run.
    #[error("no node is registered in an allowed region")]
    NoNodeInAllowedRegions,
    /// Nodes are registered there, but none is alive and staying.
    #[error("every node of the allowed regions is dead or draining")]
    NoUsableNode,
    /// It is on every node where it may be.
    #[error("the allowed regions have fewer usable nodes than wished")]
    TooFewNodes,
}

/// The difference between a plan and what is assigned now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New and changed assignments.
    pub set: Vec<(FunctionRef, Assignment)>,
    /// Assignments that end, as their functions are not in the problem.
    pub remove: Vec<FunctionRef>,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

impl Plan {
    /// What has to change to get from what is assigned now to this plan.
    pub fn changes(&self, previous: &BTreeMap<FunctionRef, Assignment>) -> Changes {
        let changed = self.assignments.iter().filter(|(key, next)| {
            let none = Assignment::default();
            previous.get(*key).unwrap_or(&none) != *next
        });
        let ended = previous.keys().filter(|key| !self.assignments.contains_key(*key));
        Changes {
            set: changed.map(|(key, next)| (key.clone(), next.clone())).collect(),
            remove: ended.cloned().collect(),
        }
    }
}

/// Makes the next plan.
pub fn plan(problem: &Problem) -> Plan {
    let regions = Regions::of(&problem.nodes);
    let nothing = Assignment::default();
    let mut plan = Plan::default();
    for function in &problem.functions {
        let previous = problem.previous.get(&function.key).unwrap_or(&nothing);
        let (nodes, shortfall) = place(function, &regions, previous);
        let tier = if function.active { Tier::Warm } else { Tier::Ready };
        let nodes = nodes.into_iter().map(|id| (id, tier)).collect();
        plan.assignments.insert(function.key.clone(), Assignment { nodes });
        match shortfall {
            Some(shortfall) => plan.shortfalls.insert(function.key.clone(), shortfall),
            None => plan.shortfalls.remove(&function.key),
        };
    }
    plan
}

/// The regions in which a node is registered.
struct Regions<'a>(BTreeMap<&'a Region, Nodes<'a>>);

struct Nodes<'a> {
    hash: u64,
    /// Those that are alive and staying.
    usable: Vec<&'a NodeInput>,
}

impl<'a> Regions<'a> {
    fn of(nodes: &'a [NodeInput]) -> Self {
        let mut regions = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for node in nodes.iter().filter(|node| seen.insert(node.id)) {
            let here = regions.entry(&node.region).or_insert_with(|| Nodes {
                hash: rendezvous::key(&[node.region.as_str()]),
                usable: Vec::new(),
            });
            if node.alive && !node.draining {
                here.usable.push(node);
            }
        }
        Self(regions)
    }
}

/// A region where a function may run.
struct Site<'a> {
    nodes: &'a [&'a NodeInput],
    /// How many of them have the function now.
    kept: usize,
    /// Decides which regions are chosen where not all are needed.
    hash: u64,
    /// How many nodes it shall have.
    quota: usize,
}

fn place(
    function: &FunctionInput,
    regions: &Regions<'_>,
    previous: &Assignment,
) -> (Vec<NodeId>, Option<Shortfall>) {
    let mut registered = false;
    let mut sites = Vec::new();
    for (region, Nodes { hash, usable: nodes }) in &regions.0 {
        if !function.placement.allows(region) {
            continue;
        }
        registered = true;
        if nodes.is_empty() {
            continue;
        }
        let kept = nodes.iter().filter(|node| previous.nodes.contains_key(&node.id)).count();
        let hash = rendezvous::join(function.home_key, *hash);
        sites.push(Site { nodes, kept, hash, quota: 0 });
    }

    let wanted = wanted(function, sites.len());
    share(&mut sites, wanted);
    let nodes: Vec<_> = sites.iter().flat_map(|site| homes(function, site, previous)).collect();
    let reason = match (registered, nodes.len()) {
        (false, _) => Reason::NoNodeInAllowedRegions,
        (true, 0) => Reason::NoUsableNode,
        (true, _) => Reason::TooFewNodes,
    };
    let short = nodes.len() < wanted;
    let shortfall = short.then_some(Shortfall { wanted, placed: nodes.len(), reason });
    (nodes, shortfall)
}

/// How many nodes a function should be on: what it asks for, else one of each region, but
/// [`NODES_MIN`] and `min_warm` at least.
fn wanted(function: &FunctionInput, regions: usize) -> usize {
    match function.placement.replicas as usize {
        0 => regions.max(NODES_MIN).max(function.scale.min_warm as usize),
        replicas => replicas,
    }
}

/// Deals nodes to regions, one to each in turn. In a round that not all can get something,
/// the regions that have the function now come first, then the order is by hash.
fn share(sites: &mut [Site<'_>], mut wanted: usize) {
    for round in 0.. {
        let open = |site: &&mut Site<'_>| site.nodes.len() > round;
        let mut takers: Vec<_> = sites.iter_mut().filter(open).collect();
        if takers.is_empty() || wanted == 0 {
            return;
        }
        takers.sort_by_key(|site| (site.kept <= round, Reverse(site.hash)));
        for site in takers.into_iter().take(wanted) {
            site.quota += 1;
            wanted -= 1;
        }
    }
}

/// Chooses the nodes of one region: those that have the function now, then those of zones
/// that have it least, then those that win by rendezvous hash.
fn homes(function: &FunctionInput, site: &Site<'_>, previous: &Assignment) -> Vec<NodeId> {
    let has = |node: &NodeInput| previous.nodes.contains_key(&node.id);
    // Enough are kept: the others need no score.
    let only_kept = site.kept >= site.quota;
    let mut open: Vec<(&NodeInput, f64)> = site
        .nodes
        .iter()
        .filter(|node| !only_kept || has(node))
        .map(|node| (*node, rendezvous::score(function.home_key, node.id, node.capacity_weight)))
        .collect();

    let mut chosen: Vec<&NodeInput> = Vec::with_capacity(site.quota);
    while chosen.len() < site.quota {
        let in_zone = |node: &NodeInput| chosen.iter().filter(|c| c.zone == node.zone).count();
        let best = open.iter().enumerate().min_by(|(_, (a, a_score)), (_, (b, b_score))| {
            let kept_first = has(b).cmp(&has(a));
            let new_zone_first = in_zone(a).cmp(&in_zone(b));
            let by_score = b_score.total_cmp(a_score).then(a.id.cmp(&b.id));
            kept_first.then(new_zone_first).then(by_score)
        });
        let Some((at, (node, _))) = best else { break };
        chosen.push(node);
        open.swap_remove(at);
    }
    chosen.into_iter().map(|node| node.id).collect()
}

#[cfg(test)]
mod tests;
