//! The public `Access` service: tokens, and the record of who has changed what.
//!
//! It draws secrets and shows each once; what is proposed and kept is a digest.

use nigh_model::access::{ApiToken, Grant, JoinToken, Role, Token, TokenId};
use nigh_model::audit::AuditEntry;
use nigh_model::command::Command;
use nigh_model::suggest::nearest;
use nigh_model::{Kind, NodeName, Region, State};
use nigh_proto::v1::{self, access_server, create_token_request, token};
use nigh_proto::{convert, status};
use tonic::{Request, Response, Status};

use super::authorize::actor;
use crate::clock;
use crate::control::Control;
use crate::identity::authorities_pem;

/// A join token ends after this unless something else is asked for: long enough to bring it to
/// a machine and start a node.
const JOIN_TTL_MS: u64 = 3_600_000;
/// Ten years: beyond it a time is a mistake.
const TTL_MS_MAX: u64 = 10 * 365 * 86_400_000;

/// Serves `Access`.
#[derive(Clone)]
pub(crate) struct AccessService {
    /// The control plane.
    pub(crate) control: Control,
}

#[tonic::async_trait]
impl access_server::Access for AccessService {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let request = request.into_inner();
        let now_ms = clock::now_ms();
        let (grant, expires_ms) = grant_of(&request, now_ms)?;
        let (id, secret) = clock::token();
        let kept = Token {
            id: id.clone(),
            digest: secret.digest(),
            name: request.name,
            grant: grant.clone(),
            created_ms: now_ms,
            expires_ms,
        };
        let state = self.control.decided.state();
        let authority = state.trust.signer().map(nigh_model::trust::Authority::id);
        let token = match grant {
            Grant::Api { .. } => ApiToken { id: id.clone(), secret }.reveal(),
            Grant::Join { .. } => {
                let authority = authority.ok_or_else(|| no_authority(&state))?;
                JoinToken { id: id.clone(), secret, authority }.reveal()
            }
        };
        let command = Command::CreateToken { token: kept };
        let (_, outcome) = self.control.propose_by(Some(by), None, command).await?;
        outcome.map_err(|r| status::of_kind(r.kind(), r.reason(), r.to_string()))?;
        Ok(Response::new(v1::CreateTokenResponse {
            id: id.to_string(),
            token,
            expires: expires_ms.map(convert::timestamp_ms),
            cluster: self.control.cluster.to_string(),
            ca: authorities_pem(&state.trust),
            api: addresses(&state, self.control.own),
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let state = self.control.decided.state();
        let now_ms = clock::now_ms();
        let mut tokens: Vec<&Token> = state.tokens.values().map(AsRef::as_ref).collect();
        tokens.sort_by_key(|token| (token.created_ms, token.id.clone()));
        let tokens = tokens.into_iter().map(|token| message_of(token, now_ms)).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let request = request.into_inner();
        let request_id = super::request_id(&request.request_id)?;
        let state = self.control.decided.state();
        let id = TokenId::new(&request.id).map_err(|_| no_such_token(&state, &request.id))?;
        if is_last_admin(&state, &id, clock::now_ms()) {
            let message = format!("token {id} is the last one of an admin: make another one first");
            return Err(status::of_kind(Kind::Conflict, "LAST_ADMIN", message));
        }
        let command = Command::RevokeToken { id };
        let (_, outcome) = self.control.propose_by(Some(by), request_id, command).await?;
        outcome.map_err(|r| status::of_kind(r.kind(), r.reason(), r.to_string()))?;
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let state = self.control.decided.state();
        let limit = match request.into_inner().limit as usize {
            0 => usize::MAX,
            limit => limit,
        };
        let mut entries: Vec<_> = state.audit.values().chain(state.upkeep.values()).collect();
        entries.sort_unstable_by_key(|entry| entry.index);
        let skipped = entries.len().saturating_sub(limit);
        let changes = entries.into_iter().skip(skipped).map(|entry| change_of(&state, entry));
        Ok(Response::new(v1::ListAuditResponse { changes: changes.collect() }))
    }
}

/// What is asked for, and when it ends.
fn grant_of(request: &v1::CreateTokenRequest, now_ms: u64) -> Result<(Grant, Option<u64>), Status> {
    let kind = request.kind.as_ref().ok_or_else(|| bad("say what the token is for"))?;
    let (grant, default_ms) = match kind {
        create_token_request::Kind::Api(api) => {
            let role: Role =
                api.role.parse().map_err(|_| bad("role: it is viewer, deployer or admin"))?;
            (Grant::Api { role }, None)
        }
        create_token_request::Kind::Join(join) => {
            let node = Some(&join.node).filter(|name| !name.is_empty());
            let node = node.map(|name| NodeName::new(name.as_str()));
            let region = Some(&join.region).filter(|name| !name.is_empty());
            let region = region.map(|name| Region::new(name.as_str()));
            let grant = Grant::Join {
                uses_left: join.uses,
                node: node.transpose().map_err(|error| bad(&format!("node: {error}")))?,
                region: region.transpose().map_err(|error| bad(&format!("region: {error}")))?,
            };
            (grant, Some(JOIN_TTL_MS))
        }
    };
    let ttl_ms = match request.ttl_ms {
        0 => default_ms,
        given if given <= TTL_MS_MAX => Some(given),
        _ => return Err(bad("ttl_ms: it is longer than ten years")),
    };
    Ok((grant, ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms))))
}

fn message_of(token: &Token, now_ms: u64) -> v1::Token {
    let kind = match &token.grant {
        Grant::Api { role } => token::Kind::Api(v1::ApiAccess { role: role.to_string() }),
        Grant::Join { uses_left, node, region } => token::Kind::Join(v1::JoinAccess {
            uses: *uses_left,
            node: node.as_ref().map(ToString::to_string).unwrap_or_default(),
            region: region.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
    };
    v1::Token {
        id: token.id.to_string(),
        name: token.name.clone(),
        kind: Some(kind),
        created: Some(convert::timestamp_ms(token.created_ms)),
        expires: token.expires_ms.map(convert::timestamp_ms),
        expired: token.is_expired(now_ms),
    }
}

fn change_of(state: &State, entry: &AuditEntry) -> v1::Change {
    let actor = entry.actor.as_ref();
    let node_name = |id| match state.nodes.get(&id) {
        Some(node) => node.name.to_string(),
        None => id.to_string(),
    };
    v1::Change {
        index: entry.index,
        at: Some(convert::timestamp_ms(entry.at_ms)),
        token: actor.map(|actor| actor.token.to_string()).unwrap_or_default(),
        name: actor.map(|actor| actor.name.clone()).unwrap_or_default(),
        from: actor.map(|actor| actor.from.clone()).unwrap_or_default(),
        node: actor.map(|actor| node_name(actor.entry)).unwrap_or_default(),
        action: entry.action.clone(),
        target: entry.target.clone(),
        refused: entry.refused.clone().unwrap_or_default(),
    }
}

/// Whether nobody could do everything any more without this token.
fn is_last_admin(state: &State, id: &TokenId, now_ms: u64) -> bool {
    let admins = |token: &&std::sync::Arc<Token>| token.role(now_ms) == Some(Role::Admin);
    let mut admins = state.tokens.values().filter(admins);
    let asked = state.tokens.get(id).is_some_and(|token| token.role(now_ms) == Some(Role::Admin));
    asked && admins.all(|token| token.id == *id || token.expires_ms.is_some())
}

/// Where the API is, this node first.
fn addresses(state: &State, own: nigh_model::NodeId) -> Vec<String> {
    let mut nodes: Vec<_> = state.nodes.values().collect();
    nodes.sort_by_key(|node| (node.id != own, node.id));
    nodes.into_iter().map(|node| format!("https://{}", node.addresses.api)).collect()
}

fn no_such_token(state: &State, given: &str) -> Status {
    let like = nearest(given, state.tokens.keys().map(TokenId::as_str));
    let hint = like.map(|like| format!("; did you mean `{like}`?")).unwrap_or_default();
    let message = format!("no token has this id{hint}");
    status::of_kind(Kind::NotFound, "NO_SUCH_TOKEN", message)
}

fn no_authority(state: &State) -> Status {
    let message = match state.cluster {
        Some(_) => "this cluster was begun by a build that knew no certificates",
        None => "this node does not know the state of its cluster yet",
    };
    status::of_kind(Kind::Unavailable, "NOT_BOOTSTRAPPED", message)
}

fn bad(why: &str) -> Status {
    status::of_kind(Kind::Invalid, "BAD_TOKEN", why)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW_MS: u64 = 1_000;

    fn asked(
        kind: create_token_request::Kind,
        ttl_ms: u64,
    ) -> Result<(Grant, Option<u64>), Status> {
        let request = v1::CreateTokenRequest { kind: Some(kind), name: String::new(), ttl_ms };
        grant_of(&request, NOW_MS)
    }

    fn api(role: &str) -> create_token_request::Kind {
        create_token_request::Kind::Api(v1::ApiAccess { role: role.to_owned() })
    }

    fn join(node: &str, region: &str) -> create_token_request::Kind {
        let (node, region) = (node.to_owned(), region.to_owned());
        create_token_request::Kind::Join(v1::JoinAccess { uses: Some(1), node, region })
    }

    #[test]
    fn a_join_token_ends_by_itself_and_one_of_the_api_does_not() {
        assert_eq!(asked(join("", ""), 0).unwrap().1, Some(NOW_MS + JOIN_TTL_MS));
        assert_eq!(asked(api("viewer"), 0).unwrap().1, None);
        assert_eq!(asked(api("viewer"), 5).unwrap().1, Some(NOW_MS + 5));
    }

    #[test]
    fn what_no_token_can_be_made_of_is_refused_by_name() {
        for (kind, ttl_ms, said) in [
            (api("root"), 0, "role"),
            (api(""), 0, "role"),
            (join("No Name", ""), 0, "node"),
            (join("", "No Region"), 0, "region"),
            (api("admin"), u64::MAX, "ttl_ms"),
        ] {
            let refused = asked(kind, ttl_ms).unwrap_err();
            assert_eq!(status::reason(&refused).as_deref(), Some("BAD_TOKEN"));
            assert!(refused.message().contains(said), "{refused}");
        }
        let nothing = v1::CreateTokenRequest::default();
        assert!(grant_of(&nothing, NOW_MS).is_err());
    }

    fn with_tokens(tokens: &[(u8, Role, Option<u64>)]) -> State {
        let mut state = State::default();
        for (n, role, expires_ms) in tokens {
            let id = TokenId::from_bytes([*n; 8]);
            let token = Token {
                id: id.clone(),
                digest: nigh_model::Digest::of(&[*n]),
                name: String::new(),
                grant: Grant::Api { role: *role },
                created_ms: 0,
                expires_ms: *expires_ms,
            };
            state.tokens.insert(id, Arc::new(token));
        }
        state
    }

    #[test]
    fn the_last_admin_is_one_that_no_lasting_other_stands_beside() {
        let id = TokenId::from_bytes([1; 8]);
        let last = |tokens: &[_]| is_last_admin(&with_tokens(tokens), &id, NOW_MS);
        assert!(last(&[(1, Role::Admin, None), (2, Role::Deployer, None)]));
        assert!(last(&[(1, Role::Admin, None), (2, Role::Admin, Some(2_000))]));
        assert!(!last(&[(1, Role::Admin, None), (2, Role::Admin, None)]));
        assert!(!last(&[(1, Role::Viewer, None), (2, Role::Admin, None)]));
        assert!(!last(&[(2, Role::Admin, None)]), "it is not there at all");
    }
}
