//! Recovery from a quorum lost for ever: looks whether it really is, and has storage make one
//! survivor's data the whole of the cluster.
//!
//! It works on a data folder whose node does not run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use nigh_model::{NodeId, State};
use nigh_storage::DataDir;
use nigh_storage::recover::{self, Survivor};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock;
use crate::control::join::identify;
use crate::decided::Decided;
use crate::error::Error;
use crate::identity::{IdentityFolder, Tls};
use crate::peer::{Link, Peers};

/// A node that has not answered by then is not there: longer than any way and a busy machine.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// Addresses asked at once.
const ASKED_AT_ONCE: usize = 16;

/// What a recovery found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The node that is the whole of the cluster now.
    pub node: String,
    /// The last entry that it knew.
    pub index: u64,
    /// Entries of its log of which it is not known whether a majority had them; they count now.
    pub undecided: u64,
    /// The other nodes, which have to join anew.
    pub others: Vec<String>,
    /// Apps of which a component is not on this node; another survivor may have it.
    pub missing: Vec<String>,
    /// Where the former data is kept.
    pub aside: PathBuf,
}

/// Makes the node of a data folder the whole of its cluster. It must not run.
///
/// # Errors
/// [`Error::NotLost`] when another voter answers, or another node does and it is not forced; or
/// what storage says.
pub async fn recover(data: &Path, force: bool) -> Result<Recovered, Error> {
    let path = data.to_owned();
    let survivor = blocking(move || Survivor::read(&path, clock::random_bytes())).await?;
    let answering = answering(data, &survivor).await?;
    let of = |voters: bool| -> Vec<String> {
        let some = answering.iter().filter(|(id, _)| survivor.voters.contains(id) == voters);
        some.map(|(_, who)| who.clone()).collect()
    };
    let (voters, followers) = (of(true), of(false));
    if !voters.is_empty() {
        return Err(Error::NotLost { answering: voters, voters: true });
    }
    if !followers.is_empty() && !force {
        return Err(Error::NotLost { answering: followers, voters: false });
    }
    let own = survivor.identity.node;
    let others = survivor.state.nodes.values().filter(|node| node.id != own);
    let mut others: Vec<String> = others.map(|node| node.name.to_string()).collect();
    others.sort_unstable();
    let missing = apps_without(&survivor);
    let (node, index) = (survivor.identity.name.to_string(), survivor.state.applied);
    let undecided = survivor.undecided;
    let aside = blocking(move || survivor.make_whole()).await?;
    Ok(Recovered { node, index, undecided, others, missing, aside })
}

/// Makes the data of another survivor fit to join the recovered cluster: it keeps its components
/// and forgets the rest. Where the former data is kept.
///
/// # Errors
/// What storage says.
pub async fn forget(data: &Path) -> Result<PathBuf, Error> {
    let path = data.to_owned();
    blocking(move || recover::forget(&path)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, nigh_storage::Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Error::Internal(error.to_string()))??)
}

/// The other registered nodes that answer, each with where. What answers and does not say who it is
/// counts as the node that should be there.
async fn answering(data: &Path, survivor: &Survivor) -> Result<Vec<(NodeId, String)>, Error> {
    let state = Arc::new(survivor.state.clone());
    let own = survivor.identity.node;
    let Some(node) = state.nodes.get(&own) else { return Ok(Vec::new()) };
    let folder = data.to_owned();
    let material = tokio::task::spawn_blocking(move || {
        IdentityFolder::open(&DataDir::open(&folder)?, None)?.load()
    });
    let material = material.await.map_err(|error| Error::Internal(error.to_string()))??;
    let material = material.ok_or_else(|| Error::NoIdentity(data.to_owned()))?;
    let link = Link::new(node.region.clone(), None);
    let peers = Peers::new(Decided::new(state.clone()), link, Tls::new(&material)?);
    let others = state.nodes.values().filter(|node| node.id != own);
    let addresses: Vec<(NodeId, String, String)> = others
        .flat_map(|node| {
            let addresses = node.addresses.peers().into_iter();
            addresses.map(|address| (node.id, node.name.to_string(), address))
        })
        .collect();
    let asked = futures::stream::iter(addresses).map(|(id, name, address)| {
        let peers = &peers;
        async move {
            match timeout(ASK_TIMEOUT, identify(peers, &address)).await {
                Ok(Ok(known)) if known.node_id == id.0 => {
                    Some((id, format!("{name} at {address}")))
                }
                Ok(Ok(_)) => None,
                _ if listens(&address).await => {
                    Some((id, format!("{name} at {address} (it does not say who it is)")))
                }
                _ => None,
            }
        }
    });
    Ok(asked.buffer_unordered(ASKED_AT_ONCE).filter_map(std::future::ready).collect().await)
}

/// Whether anybody accepts a connection there.
async fn listens(address: &str) -> bool {
    matches!(timeout(ASK_TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// The apps of which a component is missing.
fn apps_without(survivor: &Survivor) -> Vec<String> {
    let State { apps, .. } = &survivor.state;
    let lacks = |app: &nigh_model::App| {
        let mut revisions = app.revisions.values();
        revisions.any(|revision| {
            let components = revision.spec.components();
            survivor.missing.iter().any(|missing| components.contains(missing))
        })
    };
    apps.values().filter(|app| lacks(app)).map(|app| app.name.to_string()).collect()
}
