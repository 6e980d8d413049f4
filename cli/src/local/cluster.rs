//! Starting and stopping the nodes of a local cluster.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{join_all, select_all};
use futures::stream::FuturesUnordered;
use nigh_model::Kind;
use nigh_node::{
    CERTIFICATE_LIFE, Config, Error, Https, LOADED_BYTES_MAX, Node, Start, TokenSource,
};
use nigh_placement::RttMatrix;
use nigh_placement::geo::known_region;
use tracing::Instrument as _;

use crate::failure::{Failure, Result};
use crate::local::folder::Folder;
use crate::local::layout::{Place, Ports};

/// Guest instances at once, all nodes together: each reserves address space, of which a
/// process has 47 bits.
const SLOTS: u32 = 1_000;
/// Threads that run guests, per node: one that computes must not hold up all others.
const GUEST_THREADS: usize = 2;
/// What a node has to end its calls and close its files when it is stopped.
const GRACE: Duration = Duration::from_secs(3);
/// All nodes together: what people wait for after Ctrl-C.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// A node that is dead for this long is replaced; the default of `nigh node`.
const REPLACE_AFTER: Duration = Duration::from_secs(15);
/// A node that is not serving after this will not be.
const READY_MAX: Duration = Duration::from_secs(60);

/// Running nodes.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts all nodes; the first one begins the cluster, the others join it. Answers nothing
    /// when `stop` ends first: those that have started by then are stopped in order.
    pub(crate) async fn start(
        places: &[Place],
        folder: &Folder,
        rtt: Option<Arc<RttMatrix>>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Self>> {
        let mut starts: FuturesUnordered<_> = (0..places.len())
            .map(|index| {
                let config = config(index, places, folder, rtt.clone());
                let span = tracing::info_span!("node", node = %config.name);
                let start = Box::pin(Node::start(config)).instrument(span);
                async move { (index, start.await) }
            })
            .collect();
        let mut nodes = Vec::new();
        loop {
            let next = tokio::select! {
                next = starts.next() => next,
                () = &mut stop => {
                    drop(starts);
                    Self { nodes }.stop().await;
                    return Ok(None);
                }
            };
            let Some((index, started)) = next else { return Ok(Some(Self { nodes })) };
            match started {
                Ok(node) => nodes.push(node),
                Err(error) => {
                    // The others may wait for this one for ever.
                    drop(starts);
                    Self { nodes }.stop().await;
                    return Err(not_started(&places[index], &error));
                }
            }
        }
    }

    /// Waits until every node serves.
    pub(crate) async fn ready(&self) -> Result {
        let ready = join_all(self.nodes.iter().map(Node::ready));
        match tokio::time::timeout(READY_MAX, ready).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let seconds = READY_MAX.as_secs();
                Err(Failure::new(
                    Kind::Timeout,
                    format!("the cluster does not serve after {seconds} s"),
                )
                .hint("nigh.log in the data folder says what each node waits for"))
            }
        }
    }

    /// Ends when a node cannot go on.
    pub(crate) async fn failed(&self) -> Failure {
        let failures = self.nodes.iter().map(|node| {
            Box::pin(async move {
                let why = node.failed().await;
                let name = &node.config().name;
                Failure::internal(format!("node {name} cannot go on")).why(why)
            })
        });
        select_all(failures).await.0
    }

    /// Stops all nodes in order, within 5 s.
    pub(crate) async fn stop(self) {
        let stops = self.nodes.into_iter().map(|node| Box::pin(node.shutdown(GRACE)));
        if tokio::time::timeout(SHUTDOWN_MAX, join_all(stops)).await.is_err() {
            tracing::warn!("nodes did not stop in time and were ended");
        }
    }
}

fn config(index: usize, places: &[Place], folder: &Folder, rtt: Option<Arc<RttMatrix>>) -> Config {
    let Place { name, region, ports } = &places[index];
    let nodes = u32::try_from(places.len()).unwrap_or(1).max(1);
    Config {
        name: name.clone(),
        region: region.clone(),
        zone: None,
        location: known_region(region.as_str()).map(|known| known.location),
        data: folder.of_node(name),
        http: Ports::address(ports.http),
        // All nodes show one certificate, so that callers need to trust but one.
        https: Some(Https {
            listen: Ports::address(ports.https),
            certificates: folder.https(),
            self_made: false,
            redirect: None,
        }),
        api: Ports::address(ports.api),
        peer: Ports::address(ports.peer),
        gossip: Ports::address(ports.gossip),
        metrics: None,
        advertise: Vec::new(),
        replace_after: REPLACE_AFTER,
        start: start(index, places, folder),
        join_token: Some(TokenSource::File(join_token(places, folder))),
        write_join_token: Some(join_token(places, folder)),
        identity_key: None,
        certificate_life: CERTIFICATE_LIFE,
        rtt,
        slots: (SLOTS / nodes).max(1),
        guest_threads: GUEST_THREADS,
        compile_threads: 1,
        loaded_bytes_max: LOADED_BYTES_MAX / u64::from(nodes.max(1)),
    }
}

/// Where the first node leaves the token by which the others join: among its secrets.
fn join_token(places: &[Place], folder: &Folder) -> std::path::PathBuf {
    let first = &places[0].name;
    folder.of_node(first).join("identity").join("join-token")
}

/// The first node begins the cluster and the others join it; those that come back, perhaps on
/// other ports, are told where all others are.
fn start(index: usize, places: &[Place], folder: &Folder) -> Start {
    let address = |place: &Place| Ports::address(place.ports.peer).to_string();
    if folder.holds_node(&places[index].name) {
        let others = places.iter().enumerate().filter(|(at, _)| *at != index);
        return Start::Join(others.map(|(_, place)| address(place)).collect());
    }
    match index {
        0 => Start::Bootstrap,
        _ => Start::Join(vec![address(&places[0])]),
    }
}

fn not_started(place: &Place, error: &Error) -> Failure {
    let failure = Failure::new(error.kind(), format!("node {} does not start", place.name))
        .why(error.to_string());
    match error {
        Error::AddressInUse { .. } => failure.hint("all ports move with --base-port P"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::layout::deal;
    use nigh_model::Region;

    #[test]
    fn the_first_node_begins_the_cluster_and_the_others_join_it() {
        let places = deal(2, &[Region::new("eu-west-1").unwrap()], None).unwrap();
        let folder = Folder::new("data".into());
        let first = config(0, &places, &folder, None);
        assert_eq!((first.start, first.slots), (Start::Bootstrap, 500));
        assert!(first.location.is_some());
        let second = config(1, &places, &folder, None);
        assert_eq!(second.start, Start::Join(vec!["127.0.0.1:7401".to_owned()]));
        assert_eq!(second.data, std::path::Path::new("data/eu-west-1-b"));
        let https = [first.https, second.https].map(Option::unwrap);
        assert_eq!(https.each_ref().map(|https| https.listen.port()), [8443, 8453]);
        assert_eq!(https[0].certificates, https[1].certificates);
    }
}
