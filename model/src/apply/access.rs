//! How tokens and authorities change.

use std::sync::Arc;

use crate::access::{Grant, Token, TokenId};
use crate::command::{Command, Envelope, NodeSpec, Outcome, Reply};
use crate::digest::Digest;
use crate::limits::{AUTHORITIES_MAX, SPENT_TOKEN_KEPT_MS, TOKENS_MAX};
use crate::refusal::Refusal;
use crate::state::State;
use crate::trust::Authority;

/// Carries out a command that concerns tokens or authorities.
pub(super) fn carry_out(state: &mut State, envelope: &Envelope) -> Outcome {
    match &envelope.command {
        Command::CreateToken { token } => create_token(state, envelope.at_ms, token),
        Command::RevokeToken { id } => revoke_token(state, id),
        Command::AddAuthority { authority } => add_authority(state, authority),
        Command::SignWith { id } => sign_with(state, *id),
        Command::DropAuthority { id } => drop_authority(state, *id),
        _ => Ok(Reply::Done),
    }
}

pub(super) fn create_token(state: &mut State, at_ms: u64, token: &Token) -> Outcome {
    token.check().map_err(|why| Refusal::BadToken { why: why.to_owned() })?;
    if state.tokens.contains_key(&token.id) {
        return Err(Refusal::BadToken { why: "its id is taken".to_owned() });
    }
    forget_expired(state, at_ms);
    if state.tokens.len() >= TOKENS_MAX {
        let why = format!("there are {TOKENS_MAX} already: revoke some");
        return Err(Refusal::BadToken { why });
    }
    state.tokens.insert(token.id.clone(), Arc::new(token.clone()));
    Ok(Reply::Done)
}

fn revoke_token(state: &mut State, id: &TokenId) -> Outcome {
    match state.tokens.remove(id) {
        Some(_) => Ok(Reply::Done),
        None => Err(Refusal::NoSuchToken { id: id.clone() }),
    }
}

/// Whether the token admits this node.
pub(super) fn check_join(
    state: &State,
    at_ms: u64,
    id: &TokenId,
    node: &NodeSpec,
    replaces: bool,
) -> Result<(), Refusal> {
    let token = state.tokens.get(id).ok_or_else(|| Refusal::NoSuchToken { id: id.clone() })?;
    let refused = |why: &str| Refusal::TokenRefused { id: id.clone(), why: why.to_owned() };
    let Grant::Join { uses_left, node: name, region } = &token.grant else {
        return Err(refused("it admits no nodes"));
    };
    if token.is_expired(at_ms) {
        return Err(refused("it has expired"));
    }
    if *uses_left == Some(0) {
        return Err(refused("it is used up"));
    }
    if name.as_ref().is_some_and(|name| *name != node.name) {
        return Err(refused("it is for a node of another name"));
    }
    if region.as_ref().is_some_and(|region| *region != node.region) {
        return Err(refused("it is for another region"));
    }
    if replaces && name.is_none() {
        return Err(refused("it is not bound to this name, which another node has held"));
    }
    Ok(())
}

/// Takes a use off a join token. A spent one stays for a while: the node that spent it may
/// not have heard the answer, and asks again.
pub(super) fn burn(state: &mut State, at_ms: u64, id: &TokenId) {
    let Some(token) = state.tokens.get_mut(id) else { return };
    let token = Arc::make_mut(token);
    if let Grant::Join { uses_left: Some(left), .. } = &mut token.grant {
        *left = left.saturating_sub(1);
        if *left == 0 {
            let end = at_ms + SPENT_TOKEN_KEPT_MS;
            token.expires_ms = Some(token.expires_ms.map_or(end, |given| given.min(end)));
        }
    }
}

fn forget_expired(state: &mut State, at_ms: u64) {
    let over: Vec<TokenId> = state
        .tokens
        .values()
        .filter(|token| token.is_expired(at_ms))
        .map(|token| token.id.clone())
        .collect();
    for id in over {
        state.tokens.remove(&id);
    }
}

pub(super) fn add_authority(state: &mut State, authority: &Authority) -> Outcome {
    if state.trust.authority(authority.id()).is_some() {
        return Ok(Reply::Done);
    }
    if state.trust.authorities.len() >= AUTHORITIES_MAX {
        return Err(Refusal::AuthoritiesFull);
    }
    let trust = Arc::make_mut(&mut state.trust);
    trust.authorities.push(authority.clone());
    Ok(Reply::Done)
}

pub(super) fn sign_with(state: &mut State, id: Digest) -> Outcome {
    if state.trust.authority(id).is_none() {
        return Err(Refusal::NoSuchAuthority { id });
    }
    Arc::make_mut(&mut state.trust).signing = Some(id);
    Ok(Reply::Done)
}

fn drop_authority(state: &mut State, id: Digest) -> Outcome {
    if state.trust.authority(id).is_none() {
        return Err(Refusal::NoSuchAuthority { id });
    }
    if state.trust.signing == Some(id) {
        return Err(Refusal::AuthorityInUse { id });
    }
    Arc::make_mut(&mut state.trust).authorities.retain(|authority| authority.id() != id);
    Ok(Reply::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::apply;
    use crate::audit::Actor;
    use crate::command::Envelope;
    use crate::ids::{ClusterId, NodeId};
    use crate::state::Addresses;

    const NOW_MS: u64 = 1_000;

    struct Cluster {
        state: State,
        index: u64,
    }

    fn node(name: &str, region: &str) -> NodeSpec {
        NodeSpec {
            name: name.parse().unwrap(),
            region: region.parse().unwrap(),
            zone: None,
            location: None,
            addresses: Addresses::default(),
            version: String::new(),
            feature_level: 1,
        }
    }

    fn token(id: u8, grant: Grant, expires_ms: Option<u64>) -> Token {
        Token {
            id: TokenId::from_bytes([id; 8]),
            digest: Digest::of(&[id]),
            name: String::new(),
            grant,
            created_ms: NOW_MS,
            expires_ms,
        }
    }

    fn join(uses_left: Option<u32>, name: Option<&str>, region: Option<&str>) -> Grant {
        Grant::Join {
            uses_left,
            node: name.map(|name| name.parse().unwrap()),
            region: region.map(|region| region.parse().unwrap()),
        }
    }

    impl Cluster {
        fn new(tokens: Vec<Token>) -> Self {
            let mut cluster = Self { state: State::default(), index: 0 };
            let begin = Command::Bootstrap {
                cluster: ClusterId::new("0".repeat(32)).unwrap(),
                node: node("n1", "a"),
                authority: Some(authority(1)),
                tokens,
            };
            cluster.at(NOW_MS, begin).unwrap();
            cluster
        }

        fn at(&mut self, at_ms: u64, command: Command) -> Outcome {
            self.of(None, at_ms, command)
        }

        fn of(&mut self, by: Option<Actor>, at_ms: u64, command: Command) -> Outcome {
            self.index += 1;
            let envelope = Envelope { request_id: None, at_ms, by, command };
            apply(&mut self.state, self.index, &envelope).reply
        }

        fn admit(&mut self, at_ms: u64, id: u8, node: NodeSpec, replaces: Option<u64>) -> Outcome {
            let token = Some(TokenId::from_bytes([id; 8]));
            let replaces = replaces.map(NodeId);
            self.at(at_ms, Command::RegisterNode { node, replaces, token })
        }
    }

    fn authority(n: u8) -> Authority {
        Authority { certificate: vec![n], cross: None, expires_ms: 9_000 }
    }

    #[test]
    fn a_token_admits_as_many_nodes_as_it_says() {
        let mut cluster = Cluster::new(vec![token(1, join(Some(2), None, None), None)]);
        assert_eq!(cluster.admit(NOW_MS, 1, node("n2", "a"), None), Ok(Reply::Node(NodeId(2))));
        assert_eq!(cluster.admit(NOW_MS, 1, node("n3", "a"), None), Ok(Reply::Node(NodeId(3))));
        let spent = cluster.admit(NOW_MS, 1, node("n4", "a"), None).unwrap_err();
        assert!(spent.to_string().contains("used up"), "{spent}");
        assert!(cluster.state.node_named("n4").is_none());
        let later = token(2, join(None, None, None), None);
        let at = NOW_MS + SPENT_TOKEN_KEPT_MS;
        cluster.at(at, Command::CreateToken { token: later }).unwrap();
        assert!(!cluster.state.tokens.contains_key(&TokenId::from_bytes([1; 8])));
    }

    #[test]
    fn a_refused_node_takes_no_use_of_a_token() {
        let mut cluster = Cluster::new(vec![token(1, join(Some(1), None, Some("b")), None)]);
        let elsewhere = cluster.admit(NOW_MS, 1, node("n2", "a"), None).unwrap_err();
        assert_eq!(elsewhere.reason(), "TOKEN_REFUSED");
        assert!(cluster.admit(NOW_MS, 1, node("n2", "b"), None).is_ok());
    }

    #[test]
    fn a_token_ends_by_the_proposers_clock() {
        let expires = Some(NOW_MS + 10);
        let mut cluster = Cluster::new(vec![token(1, join(None, None, None), expires)]);
        assert!(cluster.admit(NOW_MS + 9, 1, node("n2", "a"), None).is_ok());
        let late = cluster.admit(NOW_MS + 10, 1, node("n3", "a"), None).unwrap_err();
        assert!(late.to_string().contains("expired"), "{late}");
    }

    #[test]
    fn only_a_token_bound_to_a_name_passes_the_name_on() {
        let bound = token(2, join(Some(1), Some("n1"), None), None);
        let mut cluster = Cluster::new(vec![token(1, join(None, None, None), None), bound]);
        let open = cluster.admit(NOW_MS, 1, node("n1", "a"), Some(1)).unwrap_err();
        assert_eq!(open.reason(), "TOKEN_REFUSED");
        let other = cluster.admit(NOW_MS, 2, node("n2", "a"), None).unwrap_err();
        assert_eq!(other.reason(), "TOKEN_REFUSED");
        let id = cluster.index + 1;
        assert_eq!(cluster.admit(NOW_MS, 2, node("n1", "a"), Some(1)), Ok(Reply::Node(NodeId(id))));
        assert!(!cluster.state.nodes.contains_key(&NodeId(1)), "the old id is gone");
    }

    #[test]
    fn an_api_token_admits_no_node() {
        let api = Grant::Api { role: crate::access::Role::Admin };
        let mut cluster = Cluster::new(vec![token(1, api, None)]);
        let refused = cluster.admit(NOW_MS, 1, node("n2", "a"), None).unwrap_err();
        assert_eq!(refused.reason(), "TOKEN_REFUSED");
    }

    #[test]
    fn a_revoked_token_is_gone() {
        let mut cluster = Cluster::new(vec![token(1, join(None, None, None), None)]);
        let id = TokenId::from_bytes([1; 8]);
        assert_eq!(cluster.at(NOW_MS, Command::RevokeToken { id: id.clone() }), Ok(Reply::Done));
        let refused = cluster.at(NOW_MS, Command::RevokeToken { id }).unwrap_err();
        assert_eq!(refused.reason(), "NO_SUCH_TOKEN");
    }

    #[test]
    fn an_authority_takes_over_from_another_and_never_leaves_none_that_signs() {
        let mut cluster = Cluster::new(Vec::new());
        let (old, new) = (authority(1).id(), authority(2).id());
        assert_eq!(
            cluster.at(0, Command::SignWith { id: new }),
            Err(Refusal::NoSuchAuthority { id: new })
        );
        cluster.at(0, Command::AddAuthority { authority: authority(2) }).unwrap();
        let third = cluster.at(0, Command::AddAuthority { authority: authority(3) });
        assert_eq!(third, Err(Refusal::AuthoritiesFull));
        assert_eq!(
            cluster.at(0, Command::DropAuthority { id: old }),
            Err(Refusal::AuthorityInUse { id: old })
        );
        cluster.at(0, Command::SignWith { id: new }).unwrap();
        cluster.at(0, Command::DropAuthority { id: old }).unwrap();
        assert_eq!(cluster.state.trust.signer().map(Authority::id), Some(new));
        assert_eq!(cluster.state.trust.authorities.len(), 1);
    }

    #[test]
    fn every_change_is_audited_with_its_result_and_only_so_many_are_kept() {
        let mut cluster = Cluster::new(Vec::new());
        let id = TokenId::from_bytes([1; 8]);
        let _ = cluster.at(7, Command::RevokeToken { id: id.clone() });
        let last = cluster.state.upkeep.get_max().unwrap().1.clone();
        assert_eq!((last.at_ms, last.action.as_str()), (7, "revoke-token"));
        assert_eq!(last.refused.as_deref(), Some("NO_SUCH_TOKEN"));
        let first = &cluster.state.upkeep[&1];
        assert_eq!((first.action.as_str(), first.target.as_str()), ("bootstrap", "n1"));
        let (token, name, from) = (id.clone(), "ann".to_owned(), "10.0.0.1:1".to_owned());
        let ann = Actor { token, name, from, entry: NodeId(1) };
        let _ = cluster.of(Some(ann), 7, Command::RevokeToken { id: id.clone() });
        let asked = cluster.index;
        for _ in 0..crate::limits::AUDIT_KEPT + 5 {
            let _ = cluster.at(7, Command::RevokeToken { id: id.clone() });
        }
        assert_eq!(cluster.state.upkeep.len(), crate::limits::AUDIT_KEPT);
        // What the cluster does by itself pushes nothing out that somebody asked for.
        assert_eq!(cluster.state.audit.keys().copied().collect::<Vec<_>>(), [asked]);
    }
}
