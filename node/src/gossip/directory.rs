//! Who stands behind a gossip address. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use nigh_model::{NodeId, Region, State};

/// Nodes by gossip address.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Directory {
    nodes: HashMap<SocketAddr, (NodeId, Option<Region>)>,
}

/// A node as gossip knows it: id, address, region.
pub(super) type Heard = (NodeId, SocketAddr, Option<Region>);

impl Directory {
    /// From the registry and from what was heard. The registry may hold host names, gossip
    /// always addresses; where both know a node's region, the registry is right.
    pub(super) fn new(state: &State, heard: impl IntoIterator<Item = Heard>) -> Self {
        let mut nodes = HashMap::new();
        for (id, address, region) in heard {
            let registered = state.nodes.get(&id).map(|node| node.region.clone());
            nodes.insert(address, (id, registered.or(region)));
        }
        for (id, node) in &state.nodes {
            if let Ok(address) = node.addresses.gossip.parse() {
                nodes.insert(address, (*id, Some(node.region.clone())));
            }
        }
        Self { nodes }
    }

    /// The node at an address.
    pub(super) fn node(&self, at: &SocketAddr) -> Option<NodeId> {
        self.nodes.get(at).map(|(id, _)| *id)
    }

    /// The region of the node at an address.
    pub(super) fn region(&self, at: &SocketAddr) -> Option<&Region> {
        self.nodes.get(at)?.1.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{registered, state_of};
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn the_registry_knows_first_and_gossip_knows_the_rest() {
        let mut named = registered(3, at(1));
        named.addresses.gossip = "node-3.example:7402".into();
        let state = state_of([registered(2, at(2)), named]);
        let elsewhere = Region::new("elsewhere").unwrap();
        let heard = [2, 3, 4].map(|n| (NodeId(n.into()), at(n), Some(elsewhere.clone())));
        let directory = Directory::new(&state, heard);
        assert_eq!(directory.node(&at(3)), Some(NodeId(3)));
        assert_eq!(directory.region(&at(2)), Some(&state.nodes[&NodeId(2)].region));
        assert_eq!(directory.region(&at(3)), Some(&state.nodes[&NodeId(3)].region));
        assert_eq!(directory.region(&at(4)), Some(&elsewhere));
        assert_eq!((directory.node(&at(5)), directory.region(&at(5))), (None, None));
    }
}
