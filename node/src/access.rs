//! From the token that a caller shows to who the caller is.
//!
//! Pure: it reads the last known decision and is told the time. It deliberately does not know
//! what may be asked for with which role, and shows no part of a token in any message.

use http::HeaderValue;
use nigh_model::State;
use nigh_model::access::{ApiToken, Role, TokenId};
use nigh_proto::status;
use subtle::ConstantTimeEq as _;
use tonic::{Code, Status};

/// How a token is shown (RFC 6750 §2.1).
const SCHEME: &str = "Bearer";

/// The holder of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The token's public half.
    pub(crate) token: TokenId,
    /// What it is called.
    pub(crate) name: String,
    /// What its holder may do.
    pub(crate) role: Role,
}

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No token was shown.
    #[error("this needs a token: send `authorization: Bearer TOKEN`")]
    NoToken,
    /// What was shown is no token in its form.
    #[error("the token is not valid: {0}")]
    Malformed(String),
    /// There is no such token, or it has another secret.
    #[error("the token is not known to this cluster, or was revoked")]
    Unknown,
    /// Its time is over.
    #[error("token {0} has expired")]
    Expired(TokenId),
    /// It gives too little.
    #[error("this needs the role {needed}; token {token} is one of a {has}")]
    RoleTooLow {
        /// The token.
        token: TokenId,
        /// What it is.
        has: Role,
        /// What it would have to be.
        needed: Role,
    },
    /// This node cannot tell yet.
    #[error("this node does not know the state of its cluster yet")]
    NotKnownYet,
}

/// Who asked, as far as that was shown; services find it among a request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Shown(pub(crate) Result<Caller, Denied>);

impl Denied {
    /// The stable reason of `docs/errors.md`.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "NO_TOKEN",
            Self::Malformed(_) | Self::Unknown => "TOKEN_INVALID",
            Self::Expired(_) => "TOKEN_EXPIRED",
            Self::RoleTooLow { .. } => "ROLE_TOO_LOW",
            Self::NotKnownYet => "NOT_BOOTSTRAPPED",
        }
    }

    /// The same as a gRPC status.
    pub(crate) fn status(&self) -> Status {
        let code = match self {
            Self::RoleTooLow { .. } => Code::PermissionDenied,
            Self::NotKnownYet => Code::Unavailable,
            _ => Code::Unauthenticated,
        };
        status::of(code, self.reason(), self.to_string())
    }

    /// The same as an HTTP status.
    pub(crate) const fn http_status(&self) -> u16 {
        match self {
            Self::RoleTooLow { .. } => 403,
            Self::NotKnownYet => 503,
            _ => 401,
        }
    }
}

impl Caller {
    /// Lets the caller pass who has this role or one above it.
    ///
    /// # Errors
    /// The role is too low.
    pub(crate) fn must_be(&self, needed: Role) -> Result<(), Denied> {
        if self.role >= needed {
            return Ok(());
        }
        Err(Denied::RoleTooLow { token: self.token.clone(), has: self.role, needed })
    }
}

/// Who shows this header.
///
/// # Errors
/// Nobody whom the cluster knows.
pub(crate) fn identify(
    state: &State,
    shown: Option<&HeaderValue>,
    now_ms: u64,
) -> Result<Caller, Denied> {
    let shown = shown.ok_or(Denied::NoToken)?;
    let text = shown.to_str().map_err(|_| Denied::Malformed("it is no text".to_owned()))?;
    let (scheme, token) = text.trim().split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case(SCHEME) || token.is_empty() {
        return Err(Denied::Malformed(format!("write `{SCHEME}`, a blank and the token")));
    }
    let token: ApiToken = token.parse().map_err(|error| Denied::Malformed(format!("{error}")))?;
    if state.cluster.is_none() {
        return Err(Denied::NotKnownYet);
    }
    let digest = token.secret.digest();
    let known = state.tokens.get(&token.id).ok_or(Denied::Unknown)?;
    if !bool::from(digest.as_bytes().ct_eq(known.digest.as_bytes())) {
        return Err(Denied::Unknown);
    }
    if known.is_expired(now_ms) {
        return Err(Denied::Expired(token.id));
    }
    let role = known.role(now_ms).ok_or(Denied::Unknown)?;
    Ok(Caller { token: token.id, name: known.name.clone(), role })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use nigh_model::ClusterId;
    use nigh_model::access::{Grant, Secret, Token};

    const NOW_MS: u64 = 1_000;

    fn token(n: u8) -> ApiToken {
        ApiToken { id: TokenId::from_bytes([n; 8]), secret: Secret::from_bytes([n; 32]) }
    }

    fn state() -> State {
        let mut state =
            State { cluster: Some(ClusterId::new("0".repeat(32)).unwrap()), ..State::default() };
        let join = Grant::Join { uses_left: None, node: None, region: None };
        for (n, grant, expires_ms) in [
            (1, Grant::Api { role: Role::Viewer }, None),
            (2, Grant::Api { role: Role::Admin }, Some(NOW_MS)),
            (3, join, None),
        ] {
            let ApiToken { id, secret } = token(n);
            let kept = Token {
                id: id.clone(),
                digest: secret.digest(),
                name: format!("t{n}"),
                grant,
                created_ms: 0,
                expires_ms,
            };
            state.tokens.insert(id, Arc::new(kept));
        }
        state
    }

    fn shown(text: &str) -> Result<Caller, Denied> {
        identify(&state(), Some(&HeaderValue::from_str(text).unwrap()), NOW_MS)
    }

    #[test]
    fn the_holder_of_a_token_is_known() {
        for scheme in ["Bearer", "bearer"] {
            let caller = shown(&format!("{scheme} {}", token(1).reveal())).unwrap();
            assert_eq!((caller.name.as_str(), caller.role), ("t1", Role::Viewer));
            caller.must_be(Role::Viewer).unwrap();
            let denied = caller.must_be(Role::Deployer).unwrap_err();
            assert_eq!((denied.reason(), denied.http_status()), ("ROLE_TOO_LOW", 403));
        }
    }

    #[test]
    fn nobody_else_is_and_no_secret_is_repeated() {
        let bearer = |token: ApiToken| format!("Bearer {}", token.reveal());
        let stolen_id = ApiToken { id: token(1).id, secret: token(2).secret };
        let expired_stolen = ApiToken { id: token(2).id, secret: token(1).secret };
        for (text, reason) in [
            (token(1).reveal(), "TOKEN_INVALID"),
            ("Bearer".to_owned(), "TOKEN_INVALID"),
            ("Bearer ".to_owned(), "TOKEN_INVALID"),
            ("Bearer hunter2".to_owned(), "TOKEN_INVALID"),
            (format!("Basic {}", token(1).reveal()), "TOKEN_INVALID"),
            (bearer(token(9)), "TOKEN_INVALID"),
            (bearer(stolen_id), "TOKEN_INVALID"),
            (bearer(expired_stolen), "TOKEN_INVALID"),
            (bearer(token(2)), "TOKEN_EXPIRED"),
            (bearer(token(3)), "TOKEN_INVALID"),
        ] {
            let denied = shown(&text).unwrap_err();
            assert_eq!(denied.reason(), reason, "{text}");
            let said = denied.to_string();
            let secret = text.rsplit(['.', ' ']).next().unwrap();
            assert!(secret.len() < 7 || !said.contains(secret), "{said}");
        }
        assert_eq!(identify(&state(), None, NOW_MS), Err(Denied::NoToken));
        let header = HeaderValue::from_str(&bearer(token(1))).unwrap();
        let young = identify(&State::default(), Some(&header), NOW_MS).unwrap_err();
        assert_eq!(young.status().code(), Code::Unavailable);
    }
}
