//! From what chitchat holds to what is seen. Pure: time arrives as an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use chitchat::ChitchatId;
use nigh_model::NodeId;
use tokio::time::Instant;

use super::keys;
use crate::seen::{Liveness, NodeSeen, Report, View};

/// A live node silent for longer is suspect: three rounds of gossip went by without it.
const SUSPECT_AFTER: Duration = Duration::from_millis(600);

/// What chitchat holds of a node from one of its starts to its end.
#[derive(Debug)]
pub(super) struct Incarnation<'a> {
    /// The node's id, as text.
    pub(super) node: &'a str,
    /// Larger at every start of the node.
    pub(super) generation: u64,
    /// Whether chitchat's failure detector thinks that it is alive.
    pub(super) live: bool,
    /// Since when no new heartbeat was heard of.
    pub(super) silent: Duration,
    /// What it says of itself.
    pub(super) keys: BTreeMap<&'a str, &'a str>,
}

impl Incarnation<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).copied()
    }

    /// Whether it is there, by all that is known.
    fn is_there(&self) -> bool {
        self.live && !keys::has_left(|key| self.get(key))
    }

    fn liveness(&self) -> Liveness {
        match (self.is_there(), self.silent > SUSPECT_AFTER) {
            (true, false) => Liveness::Alive,
            (true, true) => Liveness::Suspect,
            (false, _) => Liveness::Dead,
        }
    }
}

/// The node behind a chitchat id; none when it is not one of ours.
pub(super) fn node_of(id: &str) -> Option<NodeId> {
    id.parse().ok().map(NodeId)
}

/// All nodes as they are seen from here.
///
/// Of several incarnations of a node the newest that is there counts, else the newest: a node
/// whose clock was set back between two starts is not hidden behind its former self.
///
/// `stalled` is the last view when this node itself stood still a moment ago: then the others'
/// silence says nothing about them, and who was not dead before is at most suspect.
pub(super) fn view<'a>(
    own: NodeId,
    report: &Report,
    incarnations: impl Iterator<Item = Incarnation<'a>>,
    stalled: Option<&View>,
) -> View {
    let mut newest: BTreeMap<NodeId, Incarnation<'a>> = BTreeMap::new();
    let rank = |incarnation: &Incarnation<'a>| (incarnation.is_there(), incarnation.generation);
    for incarnation in incarnations {
        let Some(node) = node_of(incarnation.node).filter(|node| *node != own) else { continue };
        match newest.get(&node) {
            Some(known) if rank(known) >= rank(&incarnation) => {}
            _ => drop(newest.insert(node, incarnation)),
        }
    }
    let mut view = View::default();
    for (node, incarnation) in newest {
        let mut liveness = incarnation.liveness();
        let left = keys::has_left(|key| incarnation.get(key));
        let before = stalled.map_or(Liveness::Dead, |view| view.liveness(node));
        if liveness == Liveness::Dead && !left && before != Liveness::Dead {
            liveness = Liveness::Suspect;
        }
        let report = keys::decode(|key| incarnation.get(key));
        view.nodes.insert(node, NodeSeen { liveness, report });
    }
    let itself = NodeSeen { liveness: Liveness::Alive, report: report.clone() };
    view.nodes.insert(own, itself);
    view
}

/// When each incarnation's heartbeat last rose.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    last: BTreeMap<ChitchatId, (u64, Instant)>,
}

impl Heartbeats {
    /// Notes a heartbeat and says since when it is the same.
    pub(super) fn note(&mut self, id: &ChitchatId, heartbeat: u64, now: Instant) -> Duration {
        match self.last.get_mut(id) {
            Some((known, at)) => {
                if *known != heartbeat {
                    (*known, *at) = (heartbeat, now);
                }
                now.saturating_duration_since(*at)
            }
            None => {
                self.last.insert(id.clone(), (heartbeat, now));
                Duration::ZERO
            }
        }
    }

    /// Forgets those that chitchat has forgotten.
    pub(super) fn retain(&mut self, keep: impl Fn(&ChitchatId) -> bool) {
        self.last.retain(|id, _| keep(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: NodeId = NodeId(1);

    fn incarnation(node: &'static str, generation: u64, live: bool) -> Incarnation<'static> {
        Incarnation { node, generation, live, silent: Duration::ZERO, keys: BTreeMap::new() }
    }

    fn seen(incarnations: Vec<Incarnation<'_>>) -> Vec<(u64, Liveness)> {
        let view = view(OWN, &Report::default(), incarnations.into_iter(), None);
        view.nodes.iter().map(|(id, node)| (id.0, node.liveness)).collect()
    }

    #[test]
    fn silence_makes_suspect_and_death_is_chitchats_word() {
        let mut silent = incarnation("2", 1, true);
        silent.silent = SUSPECT_AFTER + Duration::from_millis(1);
        let all = vec![silent, incarnation("3", 1, true), incarnation("4", 1, false)];
        let expected = [
            (1, Liveness::Alive),
            (2, Liveness::Suspect),
            (3, Liveness::Alive),
            (4, Liveness::Dead),
        ];
        assert_eq!(seen(all), expected);
    }

    #[test]
    fn this_node_is_alive_and_reports_the_latest_whatever_gossip_says() {
        let report = Report { settled: 7, ..Report::default() };
        let view = view(OWN, &report, [incarnation("1", 9, false)].into_iter(), None);
        assert_eq!(view.nodes[&OWN], NodeSeen { liveness: Liveness::Alive, report });
    }

    #[test]
    fn the_newest_incarnation_that_is_there_counts() {
        let both = |old, new| vec![incarnation("2", 2, new), incarnation("2", 1, old)];
        assert_eq!(seen(both(true, true))[1], (2, Liveness::Alive));
        assert_eq!(seen(both(true, false))[1], (2, Liveness::Alive));
        assert_eq!(seen(both(false, true))[1], (2, Liveness::Alive));
        assert_eq!(seen(both(false, false))[1], (2, Liveness::Dead));
        let mut old = incarnation("2", 1, true);
        old.keys.insert("version", "old");
        let mut new = incarnation("2", 2, true);
        new.keys.insert("version", "new");
        let view = view(OWN, &Report::default(), [new, old].into_iter(), None);
        assert_eq!(view.nodes[&NodeId(2)].report.version, "new");
    }

    #[test]
    fn who_said_goodbye_is_dead_at_once() {
        let mut left = incarnation("2", 1, true);
        left.keys.insert(keys::GOODBYE.0, keys::GOODBYE.1);
        assert_eq!(seen(vec![left])[1], (2, Liveness::Dead));
    }

    #[test]
    fn nobody_dies_of_this_nodes_own_stall() {
        let before = view(OWN, &Report::default(), [incarnation("2", 1, true)].into_iter(), None);
        let now = vec![incarnation("2", 1, false), incarnation("3", 1, false)];
        let after = view(OWN, &Report::default(), now.into_iter(), Some(&before));
        assert_eq!(after.liveness(NodeId(2)), Liveness::Suspect);
        assert_eq!(after.liveness(NodeId(3)), Liveness::Dead);
    }

    #[test]
    fn strangers_ids_and_keys_are_left_out() {
        let mut odd = incarnation("2", 1, true);
        odd.keys.extend([("load", "rubbish"), ("settled", "x"), ("warm", "%%"), ("more", "")]);
        assert_eq!(seen(vec![incarnation("node-7", 1, true), incarnation("", 1, true)]).len(), 1);
        let view = view(OWN, &Report::default(), [odd].into_iter(), None);
        assert_eq!(view.nodes[&NodeId(2)].report, Report::default());
    }

    #[test]
    fn silence_is_counted_from_the_last_rise() {
        let id = ChitchatId::new("2", 1, "127.0.0.1:1".parse().unwrap());
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut heartbeats = Heartbeats::default();
        assert_eq!(heartbeats.note(&id, 1, at(0)), Duration::ZERO);
        assert_eq!(heartbeats.note(&id, 1, at(300)), Duration::from_millis(300));
        assert_eq!(heartbeats.note(&id, 2, at(400)), Duration::ZERO);
        assert_eq!(heartbeats.note(&id, 2, at(900)), Duration::from_millis(500));
        heartbeats.retain(|_| false);
        assert!(heartbeats.last.is_empty());
    }
}
