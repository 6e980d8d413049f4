//! Who may do what: roles, and the tokens by which people, scripts and new nodes are known.
//!
//! A token is `id.secret`. The state holds the id and the digest of the secret, never the
//! secret; secrets have 256 random bits, so that a plain digest does not give them away. This
//! module deliberately draws no randomness and compares no secrets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{NodeName, Region};
use crate::limits::TOKEN_NAME_LENGTH_MAX;

/// What the holder of a token may do; each role may all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read everything but secrets.
    Viewer,
    /// Deploy, roll back and delete apps.
    Deployer,
    /// Everything: nodes, tokens, keys.
    Admin,
}

/// All roles, the least one first.
pub const ROLES: [Role; 3] = [Role::Viewer, Role::Deployer, Role::Admin];

impl Role {
    /// As it is written in commands and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = BadToken;
    fn from_str(s: &str) -> Result<Self, BadToken> {
        ROLES
            .into_iter()
            .find(|role| role.as_str() == s)
            .ok_or(BadToken("a role is viewer, deployer or admin"))
    }
}

/// Text that is no token, or no part of one. Says nothing of what was given: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid: {0}")]
pub struct BadToken(&'static str);

/// The public half of a token: 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(std::sync::Arc<str>);

impl TokenId {
    const DIGITS: usize = 16;

    /// Checks and wraps an id.
    ///
    /// # Errors
    /// It is not 16 lower-case hexadecimal digits.
    pub fn new(given: &str) -> Result<Self, BadToken> {
        if given.len() == Self::DIGITS && is_hex(given) {
            Ok(Self(given.into()))
        } else {
            Err(BadToken("a token's id is 16 hexadecimal digits"))
        }
    }

    /// The id of these random bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(hex::encode(bytes).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for TokenId {
    type Err = BadToken;
    fn from_str(s: &str) -> Result<Self, BadToken> {
        Self::new(s)
    }
}

impl TryFrom<String> for TokenId {
    type Error = BadToken;
    fn try_from(s: String) -> Result<Self, BadToken> {
        Self::new(&s)
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl std::borrow::Borrow<str> for TokenId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The secret half of a token. It has no `Display`, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret of these random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What the state keeps of it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// The secret's bytes: to be sent, sealed, to those who check it.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn parse(digits: &str) -> Result<Self, BadToken> {
        let bad = BadToken("a token's secret is 64 hexadecimal digits");
        let bytes = hex::decode(digits).map_err(|_| bad)?;
        Ok(Self(bytes.try_into().map_err(|_| bad)?))
    }

    fn reveal(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What a person or script shows to the API, written `nigh-api.ID.SECRET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// Which token.
    pub id: TokenId,
    /// That it is held.
    pub secret: Secret,
}

impl ApiToken {
    const PREFIX: &'static str = "nigh-api";

    /// The string that is shown to the API: a secret.
    pub fn reveal(&self) -> String {
        format!("{}.{}.{}", Self::PREFIX, self.id, self.secret.reveal())
    }
}

impl FromStr for ApiToken {
    type Err = BadToken;
    fn from_str(s: &str) -> Result<Self, BadToken> {
        let mut parts = s.trim().split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Self::PREFIX), Some(id), Some(secret), None) => {
                Ok(Self { id: TokenId::new(id)?, secret: Secret::parse(secret)? })
            }
            (Some(JoinToken::PREFIX), ..) => {
                Err(BadToken("this is a join token, which admits a node; the API takes nigh-api.…"))
            }
            _ => Err(BadToken("an API token is written nigh-api.ID.SECRET")),
        }
    }
}

/// What a new node shows to be admitted, and by what it knows the cluster: written
/// `nigh-join.ID.SECRET.FINGERPRINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Which token.
    pub id: TokenId,
    /// That it is held.
    pub secret: Secret,
    /// The digest of the certificate of the cluster's authority.
    pub authority: Digest,
}

impl JoinToken {
    const PREFIX: &'static str = "nigh-join";

    /// The string that a node is given: a secret.
    pub fn reveal(&self) -> String {
        let (id, secret, authority) = (&self.id, self.secret.reveal(), self.authority.hex());
        format!("{}.{id}.{secret}.{authority}", Self::PREFIX)
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;
    fn from_str(s: &str) -> Result<Self, BadToken> {
        let mut parts = s.trim().split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Self::PREFIX), Some(id), Some(secret), Some(authority), None) => {
                let bad =
                    BadToken("its last part is the authority's fingerprint, 64 hexadecimal digits");
                let authority = format!("sha256:{authority}").parse().map_err(|_| bad)?;
                Ok(Self { id: TokenId::new(id)?, secret: Secret::parse(secret)?, authority })
            }
            (Some(ApiToken::PREFIX), ..) => {
                Err(BadToken("this is an API token; a node joins with nigh-join.…"))
            }
            _ => Err(BadToken("a join token is written nigh-join.ID.SECRET.FINGERPRINT")),
        }
    }
}

/// What a token permits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A node may be admitted.
    Join {
        /// How many more nodes; none: any number.
        uses_left: Option<u32>,
        /// Only a node of this name; it may take the name of a dead one.
        node: Option<NodeName>,
        /// Only a node in this region.
        region: Option<Region>,
    },
    /// The API may be used.
    Api {
        /// As this role.
        role: Role,
    },
}

/// A token as the state keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public half.
    pub id: TokenId,
    /// The digest of its secret half.
    pub digest: Digest,
    /// What its maker called it, for people.
    pub name: String,
    /// What it permits.
    pub grant: Grant,
    /// When it was made, in ms since the Unix epoch.
    pub created_ms: u64,
    /// When it ends, in ms since the Unix epoch; none: it does not.
    pub expires_ms: Option<u64>,
}

impl Token {
    /// Whether its time is over.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|end| end <= now_ms)
    }

    /// The role that it gives at the API, while it lasts.
    pub fn role(&self, now_ms: u64) -> Option<Role> {
        match self.grant {
            Grant::Api { role } if !self.is_expired(now_ms) => Some(role),
            _ => None,
        }
    }

    /// # Errors
    /// Why no token can be made so.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.name.len() > TOKEN_NAME_LENGTH_MAX || self.name.chars().any(char::is_control) {
            return Err("its name is longer than 128 bytes or holds control characters");
        }
        match self.grant {
            Grant::Join { uses_left: Some(0), .. } => Err("it could never be used"),
            _ if self.is_expired(self.created_ms) => Err("it would be over before it began"),
            _ => Ok(()),
        }
    }
}

fn is_hex(given: &str) -> bool {
    given.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::from_bytes([0xab; 32])
    }

    #[test]
    fn tokens_read_back_what_they_reveal() {
        let id = TokenId::from_bytes([1; 8]);
        let api = ApiToken { id: id.clone(), secret: secret() };
        assert_eq!(api.reveal().parse::<ApiToken>().unwrap(), api);
        let join = JoinToken { id, secret: secret(), authority: Digest::of(b"ca") };
        assert_eq!(join.reveal().parse::<JoinToken>().unwrap(), join);
        assert_eq!(format!(" {}\n", join.reveal()).parse::<JoinToken>().unwrap(), join);
    }

    #[test]
    fn what_is_no_token_is_refused_without_repeating_it() {
        let id = TokenId::from_bytes([1; 8]);
        let api = ApiToken { id, secret: secret() }.reveal();
        let cut = api[..api.len() - 2].to_owned();
        for bad in ["", "nigh-api", "nigh-api.x.y"] {
            assert!(bad.parse::<ApiToken>().is_err(), "{bad}");
        }
        for bad in [&cut, &format!("{api}.more"), "hunter2"] {
            let error = bad.parse::<ApiToken>().unwrap_err().to_string();
            assert!(!error.contains("abab") && !error.contains("hunter2"), "{error}");
        }
        let error = api.parse::<JoinToken>().unwrap_err();
        assert!(error.to_string().contains("API token"), "{error}");
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = ApiToken { id: TokenId::from_bytes([1; 8]), secret: secret() };
        let shown = format!("{token:?}");
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }

    #[test]
    fn a_role_may_all_that_lesser_ones_may() {
        assert!(Role::Admin > Role::Deployer && Role::Deployer > Role::Viewer);
        for role in ROLES {
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
        }
    }
}
