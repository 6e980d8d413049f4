//! Whether the ports of a local cluster are free, before anything is begun.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};

use nigh_model::Kind;

use crate::failure::{Failure, Result};
use crate::local::layout::{Place, Ports};

/// Binds every port once and lets it go. A port that is taken in the moment after is still
/// refused by the node itself.
pub(crate) fn check(places: &[Place]) -> Result {
    for place in places {
        let Ports { http, api, peer, gossip, https } = place.ports;
        for (what, port) in [("HTTP", http), ("API", api), ("peers", peer), ("HTTPS", https)] {
            TcpListener::bind(Ports::address(port))
                .map_err(|error| taken(place, what, &port.to_string(), &error))?;
        }
        UdpSocket::bind(Ports::address(gossip))
            .map_err(|error| taken(place, "gossip", &format!("{gossip}/udp"), &error))?;
    }
    Ok(())
}

fn taken(place: &Place, what: &str, port: &str, error: &std::io::Error) -> Failure {
    let of = format!("port {port} ({what} of {})", place.name);
    let hint = "all ports move with --base-port P: HTTP P, API P+1, peers P+2, gossip P+3, \
                HTTPS P+4, the next node +10";
    match error.kind() {
        ErrorKind::AddrInUse => Failure::new(Kind::Conflict, format!("{of} is taken"))
            .why("another program listens there, perhaps another `nigh up`")
            .hint(hint),
        _ => Failure::invalid(format!("cannot listen on {of}")).why(error.to_string()).hint(hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::layout::deal;
    use nigh_model::Region;

    #[test]
    fn a_port_that_is_taken_is_named_with_the_flag_that_moves_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let mut places = deal(1, &[Region::new("eu").unwrap()], None).unwrap();
        places[0].ports = Ports { http: port, api: 0, peer: 0, gossip: 0, https: 0 };
        let failure = check(&places).unwrap_err();
        assert_eq!(failure.exit(), 4);
        let said = failure.to_string();
        assert!(said.contains(&format!("port {port} (HTTP of eu-a) is taken")), "{said}");
        assert!(said.contains("--base-port"), "{said}");
        drop(held);
        assert!(check(&places).is_ok());
    }
}
