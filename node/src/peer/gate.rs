//! Who may ask what at the peer port: members everything, a stranger only to be admitted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use nigh_model::{Kind, NodeId, State};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::accept::Caller;
use super::farewell::Farewell;
use super::strangers::{Strangers, Turned};
use crate::decided::Decided;

/// The reason that a node gets which was removed.
pub(crate) const NODE_REMOVED: &str = "NODE_REMOVED";
/// What a node without a certificate may ask: it shows a token there.
const OPEN: &str = "/nigh.peer.v1.Control/Join";

/// Whether this node is a member, as far as the state says. Ids are log indexes: one that is
/// ahead of the state belongs to a node that this one has not heard of yet, and its certificate
/// says that the cluster has admitted it.
pub(crate) fn is_member(state: &State, node: NodeId) -> bool {
    state.cluster.is_none() || node.0 > state.applied || state.nodes.contains_key(&node)
}

/// Why a request is refused.
fn judge(path: &str, caller: Option<NodeId>, state: &State) -> Result<(), Turned> {
    match caller {
        _ if path == OPEN => Ok(()),
        None => Err(Turned::NoCertificate),
        Some(node) if is_member(state, node) => Ok(()),
        Some(_) => Err(Turned::Removed),
    }
}

/// Checks every request of the peer port before it reaches a service.
#[derive(Clone)]
pub(crate) struct Gate {
    /// Who is a member.
    pub(crate) decided: Decided,
    /// Counts those who are not.
    pub(crate) strangers: Arc<Strangers>,
    /// Who was one until a moment ago.
    pub(super) farewell: Farewell,
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    gate: Gate,
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.node);
        let leaving = caller.is_some_and(|node| self.gate.farewell.lasts(node));
        let judged = match leaving {
            true => Ok(()),
            false => judge(request.uri().path(), caller, &self.gate.decided.now().state),
        };
        match judged {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(why) => {
                self.gate.strangers.turned(why);
                let answer = refusal(why).into_http();
                Box::pin(std::future::ready(Ok(answer)))
            }
        }
    }
}

fn refusal(why: Turned) -> Status {
    let (reason, message) = match why {
        Turned::Removed => (NODE_REMOVED, "this node was removed from the cluster"),
        _ => ("NO_CERTIFICATE", "only members of the cluster may ask this: show a certificate"),
    };
    nigh_proto::status::of_kind(Kind::Denied, reason, message)
}

/// The node whose certificate came with the request.
///
/// # Errors
/// There was none.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> Result<NodeId, Status> {
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.node);
    caller.ok_or_else(|| refusal(Turned::NoCertificate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::ClusterId;

    fn state() -> State {
        let cluster = Some(ClusterId::new("0".repeat(32)).unwrap());
        let mut state = State { applied: 10, cluster, ..State::default() };
        let node = nigh_model::Node {
            id: NodeId(7),
            name: "a".parse().unwrap(),
            region: "r".parse().unwrap(),
            zone: None,
            location: None,
            addresses: Default::default(),
            version: String::new(),
            feature_level: 1,
            draining: false,
        };
        state.nodes.insert(NodeId(7), node.into());
        state
    }

    #[test]
    fn strangers_may_only_ask_to_be_admitted() {
        let path = "/nigh.peer.v1.Control/Propose";
        assert_eq!(judge(path, None, &state()), Err(Turned::NoCertificate));
        assert_eq!(
            judge("/nigh.peer.v1.Control/Join/", None, &state()),
            Err(Turned::NoCertificate)
        );
        assert_eq!(judge(OPEN, None, &state()), Ok(()));
    }

    #[test]
    fn members_may_ask_and_removed_nodes_may_not() {
        let path = "/nigh.peer.v1.Raft/Vote";
        assert_eq!(judge(path, Some(NodeId(7)), &state()), Ok(()));
        assert_eq!(judge(path, Some(NodeId(8)), &state()), Err(Turned::Removed));
        // Admitted after the last entry that this node has seen.
        assert_eq!(judge(path, Some(NodeId(11)), &state()), Ok(()));
        // A node that knows nothing yet believes the certificate.
        assert_eq!(judge(path, Some(NodeId(8)), &State::default()), Ok(()));
    }
}
