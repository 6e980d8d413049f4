//! Finds nodes that gossip has not heard of, or has lost.
//!
//! chitchat takes its seeds once, at its start. Here they are the registry as it is now, which
//! is on disk: a node that comes back alone finds the others by it, and two halves of a
//! cluster find each other again however long they were apart. Host names are resolved anew
//! each time: a container may return with another address.

use std::net::SocketAddr;
use std::time::Duration;

use nigh_model::{NodeId, State};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::decided::Decided;
use crate::seen::{Liveness, Seen, View};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_millis(500);
/// Addresses tried in a round.
const TRIED_MAX: usize = 3;
/// Addresses taken of one name.
const PER_NAME_MAX: usize = 4;
/// A name not resolved by then is tried again in its next round.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The addresses to try in a round: registered nodes that are not there, and the configured
/// seeds while nobody is. Each comes up in turn. Pure.
fn missing(round: usize, own: NodeId, seeds: &[String], state: &State, view: &View) -> Vec<String> {
    let is_dead = |id: NodeId| view.liveness(id) == Liveness::Dead;
    let alone = !view.nodes.keys().any(|id| *id != own && !is_dead(*id));
    let registered = state.nodes.iter().filter(|(id, _)| **id != own && is_dead(**id));
    let registered = registered.flat_map(|(_, node)| node.addresses.gossips());
    let configured = if alone { seeds } else { &[] };
    let mut all: Vec<String> = configured.iter().cloned().chain(registered).collect();
    all.sort_unstable();
    all.dedup();
    let first = (round * TRIED_MAX).checked_rem(all.len()).unwrap_or_default();
    all.iter().cycle().skip(first).take(all.len().min(TRIED_MAX)).cloned().collect()
}

/// Names the addresses of missing nodes until cancelled.
pub(super) async fn keep_finding(
    (own, listen): (NodeId, SocketAddr),
    seeds: Vec<String>,
    decided: Decided,
    seen: Seen,
    found: mpsc::Sender<SocketAddr>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0.. {
        ticks.tick().await;
        let absent = missing(round, own, &seeds, &decided.state(), &seen.now());
        let resolving = absent.iter().map(|address| resolve(address, listen));
        let resolved = futures::future::join_all(resolving);
        let addresses = tokio::select! {
            () = stop.cancelled() => return,
            addresses = resolved => addresses,
        };
        for address in addresses.into_iter().flatten() {
            // A full queue is worked off soon; the address comes up again.
            if let Err(mpsc::error::TrySendError::Closed(_)) = found.try_send(address) {
                return;
            }
        }
    }
}

/// The addresses of a name that this node's socket can send to.
pub(super) async fn resolve(address: &str, own: SocketAddr) -> Vec<SocketAddr> {
    if let Ok(address) = address.parse() {
        return vec![address];
    }
    let lookup = tokio::net::lookup_host(address);
    let Ok(Ok(addresses)) = tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await else {
        return Vec::new();
    };
    addresses.filter(|found| found.is_ipv4() == own.is_ipv4()).take(PER_NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{registered, state_of};
    use super::*;
    use crate::seen::NodeSeen;

    const OWN: NodeId = NodeId(1);

    fn state() -> State {
        state_of((1..=6).map(|n| registered(n, ([127, 0, 0, 1], n as u16).into())))
    }

    fn view(alive: &[u64]) -> View {
        let seen = NodeSeen { liveness: Liveness::Alive, ..NodeSeen::default() };
        View { nodes: alive.iter().map(|id| (NodeId(*id), seen.clone())).collect() }
    }

    #[test]
    fn missing_nodes_come_up_in_turn() {
        let mut tried = std::collections::BTreeSet::new();
        for round in 0..2 {
            let now = missing(round, OWN, &[], &state(), &view(&[1, 4]));
            assert_eq!(now.len(), TRIED_MAX);
            tried.extend(now);
        }
        let expected = [2, 3, 5, 6].map(|port| format!("127.0.0.1:{port}"));
        assert!(tried.into_iter().eq(expected));
    }

    #[test]
    fn configured_seeds_are_for_a_node_that_is_alone() {
        let seeds = ["seed.example:7402".to_owned()];
        let tries_seed = |state: &State, view: &View| {
            (0..3).any(|round| missing(round, OWN, &seeds, state, view).contains(&seeds[0]))
        };
        assert!(tries_seed(&state(), &view(&[1])));
        assert!(tries_seed(&State::default(), &View::default()));
        assert!(!tries_seed(&state(), &view(&[1, 2])));
        assert!(missing(7, OWN, &[], &State::default(), &View::default()).is_empty());
    }
}
