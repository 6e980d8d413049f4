//! The authority of the cluster: who gets what signed, who holds its key, how it is replaced.

use nigh_model::audit::Actor;
use nigh_model::command::Command;
use nigh_model::{Digest, Kind, NodeId};
use nigh_proto::peer::v1::{AuthorityKeyRequest, AuthorityKeyResponse, SignRequest, SignResponse};
use nigh_proto::status;
use openraft::async_runtime::WatchReceiver as _;
use tonic::Status;

use super::propose::{Control, Unavailable};
use crate::clock;
use crate::identity::{self, IdentityError, Own};

/// Signs a new certificate for a member, in its own name.
pub(super) async fn sign(
    control: &Control,
    identity: &Own,
    asks: NodeId,
    request: &SignRequest,
) -> Result<SignResponse, Status> {
    let state = control.decided.state();
    let subject = identity::subject(control, asks)
        .ok_or_else(|| Status::from(Unavailable::new("the node is not registered here yet")))?;
    let signed = identity.sign(&state.trust, &request.certificate_request, &subject).await;
    let (certificate, authority) = signed
        .map_err(|error| failed(&error))?
        .ok_or_else(|| Status::from(Unavailable::new("the authority's key is not here")))?;
    Ok(SignResponse {
        certificate: certificate.into(),
        authority: authority.as_bytes().to_vec().into(),
    })
}

/// Hands the key of an authority to a voter, by the committed membership, and to nobody else.
pub(super) async fn key(
    control: &Control,
    identity: &Own,
    asks: NodeId,
    request: &AuthorityKeyRequest,
) -> Result<AuthorityKeyResponse, Status> {
    let metrics = control.raft.metrics().borrow_watched().clone();
    let votes = metrics.committed_membership_config.voter_ids().any(|id| id == asks.0);
    if !votes {
        let message = format!("node {asks} does not vote: only voters hold the authority's key");
        return Err(status::of_kind(Kind::Denied, "NOT_A_VOTER", message));
    }
    let id: [u8; 32] = request.authority.as_ref().try_into().map_err(|_| {
        status::of_kind(Kind::Invalid, "NO_SUCH_AUTHORITY", "an authority is named by 32 bytes")
    })?;
    let state = control.decided.state();
    let authority = state.trust.authority(Digest::from_bytes(id));
    let authority = authority.ok_or_else(|| {
        status::of_kind(Kind::NotFound, "NO_SUCH_AUTHORITY", "no such authority is trusted")
    })?;
    let signer = identity.signer(authority).await.map_err(|error| failed(&error))?;
    let signer =
        signer.ok_or_else(|| Status::from(Unavailable::new("the authority's key is not here")))?;
    Ok(AuthorityKeyResponse { key: signer.key().to_vec().into() })
}

/// Makes the next authority and lets the cluster trust it; what follows is for the leader's
/// steps. This node must lead.
pub(super) async fn rotate(
    control: &Control,
    identity: &Own,
    by: Option<Actor>,
) -> Result<Digest, Status> {
    if control.health.now().leader != Some(control.own) {
        return Err(Unavailable::new("this node does not lead").into());
    }
    let state = control.decided.state();
    let unavailable = || Status::from(Unavailable::new("the authority's key is not here"));
    let current = state.trust.signer().ok_or_else(unavailable)?;
    if state.trust.authorities.len() > 1 {
        let refusal = nigh_model::Refusal::AuthoritiesFull;
        return Err(status::of_kind(refusal.kind(), refusal.reason(), refusal.to_string()));
    }
    let signer = identity.signer(current).await.map_err(|error| failed(&error))?;
    let signer = signer.ok_or_else(unavailable)?;
    let next = signer.next(&control.cluster, clock::now_ms()).map_err(|error| failed(&error))?;
    // Kept before anybody trusts it: an authority without its key could never sign.
    let authority = next.authority();
    identity.keep_signer(next).await.map_err(|error| failed(&error))?;
    let id = authority.id();
    let command = Command::AddAuthority { authority };
    let (_, outcome) = control.propose_by(by, None, command).await?;
    outcome.map_err(|refusal| {
        status::of_kind(refusal.kind(), refusal.reason(), refusal.to_string())
    })?;
    Ok(id)
}

fn failed(error: &IdentityError) -> Status {
    Status::internal(error.to_string())
}
