//! Which nodes a local cluster has, where they stand and where they listen.

use std::net::{Ipv4Addr, SocketAddr};

use nigh_model::{NodeName, Region};

use crate::failure::{Failure, Result};

/// Most nodes of a local cluster: each is complete, with its own threads and files.
pub(crate) const NODES_MAX: u16 = 32;
/// What the ports of one node are above those of the node before.
const PORTS_APART: u16 = 10;

/// A node of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name: the region and a letter.
    pub(crate) name: NodeName,
    /// Its region.
    pub(crate) region: Region,
    /// Where it listens.
    pub(crate) ports: Ports,
}

impl Place {
    /// The URL of its API.
    pub(crate) fn api_url(&self) -> String {
        format!("https://{}", Ports::address(self.ports.api))
    }
}

/// The ports of a node, all on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// HTTP ingress.
    pub(crate) http: u16,
    /// gRPC API.
    pub(crate) api: u16,
    /// Other nodes.
    pub(crate) peer: u16,
    /// Gossip datagrams.
    pub(crate) gossip: u16,
    /// HTTPS ingress.
    pub(crate) https: u16,
}

impl Ports {
    /// The address of one of them.
    pub(crate) fn address(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Those of the node at this place, from 0: the default ports, or all from one base.
    fn of(index: u16, base: Option<u16>) -> Option<Self> {
        let above = index.checked_mul(PORTS_APART)?;
        let [http, api, peer, gossip, https] = match base {
            None => [8080, 7400, 7401, 7402, 8443],
            Some(base) => {
                base.checked_add(4)?;
                [base, base + 1, base + 2, base + 3, base + 4]
            }
        };
        Some(Self {
            http: http.checked_add(above)?,
            api: api.checked_add(above)?,
            peer: peer.checked_add(above)?,
            gossip: gossip.checked_add(above)?,
            https: https.checked_add(above)?,
        })
    }
}

/// Deals nodes over the regions in turn and gives each its ports.
pub(crate) fn deal(nodes: u16, regions: &[Region], base_port: Option<u16>) -> Result<Vec<Place>> {
    let mut places: Vec<Place> = Vec::new();
    for index in 0..nodes {
        let region = &regions[usize::from(index) % regions.len()];
        let before = places.iter().filter(|place| place.region == *region).count();
        let name = NodeName::new(format!("{region}-{}", letters(before))).map_err(|error| {
            Failure::usage(format!("region `{region}` makes no node name")).why(error.to_string())
        })?;
        let ports = Ports::of(index, base_port).ok_or_else(|| {
            Failure::usage("--base-port is too high").why(format!(
                "{nodes} nodes need ports up to {}",
                u32::from(base_port.unwrap_or_default()) + u32::from(nodes) * 10 - 6
            ))
        })?;
        places.push(Place { name, region: region.clone(), ports });
    }
    // Node by node, regions as they were named: a comes before b.
    Ok(places)
}

/// a, b, …, z, then 27, 28, ….
fn letters(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index) if index < 26 => char::from(b'a' + index).to_string(),
        _ => (index + 1).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(names: &[&str]) -> Vec<Region> {
        names.iter().map(|name| Region::new(name).unwrap()).collect()
    }

    #[test]
    fn nodes_are_dealt_over_the_regions_in_turn() {
        let regions = regions(&["eu-west-1", "us-east-1", "ap-northeast-1"]);
        let places = deal(5, &regions, None).unwrap();
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        assert_eq!(
            names,
            ["eu-west-1-a", "us-east-1-a", "ap-northeast-1-a", "eu-west-1-b", "us-east-1-b"]
        );
        let ports = Ports { http: 8080, api: 7400, peer: 7401, gossip: 7402, https: 8443 };
        assert_eq!(places[0].ports, ports);
        assert_eq!((places[4].ports.http, places[4].ports.gossip), (8120, 7442));
    }

    #[test]
    fn a_base_port_moves_all() {
        let places = deal(2, &regions(&["a"]), Some(20_000)).unwrap();
        let ports =
            Ports { http: 20_010, api: 20_011, peer: 20_012, gossip: 20_013, https: 20_014 };
        assert_eq!(places[1].ports, ports);
        assert_eq!(deal(2, &regions(&["a"]), Some(65_530)).unwrap_err().exit(), 2);
    }

    #[test]
    fn no_two_nodes_share_a_name_or_a_port() {
        for base in [None, Some(10_000)] {
            let places = deal(NODES_MAX, &regions(&["a"]), base).unwrap();
            let mut names: Vec<_> = places.iter().map(|place| place.name.clone()).collect();
            names.dedup();
            assert_eq!(names.len(), usize::from(NODES_MAX));
            let mut tcp: Vec<u16> = places
                .iter()
                .map(|place| place.ports)
                .flat_map(|ports| [ports.http, ports.api, ports.peer, ports.https])
                .collect();
            tcp.sort_unstable();
            tcp.dedup();
            assert_eq!(tcp.len(), 4 * usize::from(NODES_MAX));
        }
    }
}
