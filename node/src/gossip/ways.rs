//! Where datagrams have to go when an address that gossip knows is not the right one: to a node
//! of several networks by the host that the peer connection found, and to this node itself when
//! its name has come to mean another address, as that of a container does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nigh_model::{NodeId, State, state};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::seeds::resolve;
use crate::decided::Decided;
use crate::peer::Peers;

/// Between two looks: a node that has moved is found by its name after this.
const INTERVAL: Duration = Duration::from_secs(2);

/// Addresses to send to instead of those that nodes gossip, by node.
pub(super) type Detours = Arc<ArcSwap<HashMap<NodeId, SocketAddr>>>;

/// What the loop works on.
pub(super) struct Ways {
    /// Where this node listens.
    pub(super) listen: SocketAddr,
    /// How it is advertised: `host:port`.
    pub(super) advertised: String,
    /// Who is registered, where.
    pub(super) decided: Decided,
    /// By which host each node was reached.
    pub(super) peers: Peers,
    /// What it publishes of others …
    pub(super) detours: Detours,
    /// … and of this node.
    pub(super) own: watch::Sender<SocketAddr>,
}

impl Ways {
    /// Keeps both up to date until cancelled.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
        }
    }

    async fn look(&self) {
        let elsewhere = elsewhere(&self.decided.state(), |id| self.peers.detour(id));
        let resolving = elsewhere.into_iter().map(|(id, address)| async move {
            Some((id, *resolve(&address, self.listen).await.first()?))
        });
        let found: HashMap<_, _> =
            futures::future::join_all(resolving).await.into_iter().flatten().collect();
        if **self.detours.load() != found {
            self.detours.store(Arc::new(found));
        }
        let own = resolve(&self.advertised, self.listen).await;
        // A name with several addresses stays what it was as long as that is one of them.
        if let Some(first) = own.first().filter(|_| !own.contains(&self.own.borrow())) {
            self.own.send_replace(*first);
        }
    }
}

/// The gossip addresses of nodes that are reached by another than their main host. Pure.
fn elsewhere(state: &State, detour: impl Fn(NodeId) -> Option<String>) -> Vec<(NodeId, String)> {
    let several = state.nodes.values().filter(|node| !node.addresses.also.is_empty());
    let detours = several.filter_map(|node| {
        let (_, port) = node.addresses.gossip.rsplit_once(':')?;
        Some((node.id, state::join(&detour(node.id)?, port)))
    });
    detours.collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{registered, state_of};
    use super::*;

    #[test]
    fn only_nodes_that_are_reached_by_another_host_are_sent_to_elsewhere() {
        let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let mut nodes = [registered(2, at(7402)), registered(3, at(7402)), registered(4, at(7402))];
        nodes[1].addresses.also = vec!["fd00::3".into()];
        nodes[2].addresses.also = vec!["four".into()];
        let detour = |id| (id == NodeId(3)).then(|| "fd00::3".to_owned());
        let found = elsewhere(&state_of(nodes), detour);
        assert_eq!(found, [(NodeId(3), "[fd00::3]:7402".to_owned())]);
    }
}
