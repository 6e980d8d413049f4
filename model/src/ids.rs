//! Names and ids, each checked when it is made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{NAME_LENGTH_MAX, REGION_LENGTH_MAX, REQUEST_ID_LENGTH_MAX};

/// A name that breaks the rule of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}` is not valid: {rule}")]
pub struct BadName {
    pub(crate) what: &'static str,
    pub(crate) given: String,
    pub(crate) rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(std::sync::Arc<str>);

        impl $type {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// The rule that the name breaks.
            pub fn new(given: impl AsRef<str>) -> Result<Self, BadName> {
                let given = given.as_ref();
                let check: fn(&str) -> bool = $check;
                if check(given) {
                    Ok(Self(given.into()))
                } else {
                    let given = given.chars().take(80).collect();
                    Err(BadName { what: $what, given, rule: $rule })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = BadName;
            fn from_str(s: &str) -> Result<Self, BadName> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(s: String) -> Result<Self, BadName> {
                Self::new(s)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

fn is_label(s: &str, length_max: usize) -> bool {
    let bytes = s.as_bytes();
    (1..=length_max).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_dns_label(s: &str, length_max: usize) -> bool {
    is_label(s, length_max) && !s.starts_with('-') && !s.ends_with('-')
}

name!(
    /// The name of an app: a DNS label, since it is a path segment and may become a host.
    AppName,
    "app name",
    "use 1 to 63 of a-z, 0-9 and -, not at either end",
    |s| is_dns_label(s, NAME_LENGTH_MAX)
);
name!(
    /// The name of a function within its app.
    FunctionName,
    "function name",
    "use 1 to 63 of a-z, 0-9 and -, not at either end",
    |s| is_dns_label(s, NAME_LENGTH_MAX)
);
name!(
    /// The name of a node, unique among the nodes of a cluster.
    NodeName,
    "node name",
    "use 1 to 63 of a-z, 0-9 and -, not at either end",
    |s| is_dns_label(s, NAME_LENGTH_MAX)
);
name!(
    /// A region: nodes of one region are near each other.
    Region,
    "region",
    "use 1 to 32 of a-z, 0-9 and -",
    |s| is_label(s, REGION_LENGTH_MAX)
);
name!(
    /// A zone: nodes of one zone fail together.
    Zone,
    "zone",
    "use 1 to 32 of a-z, 0-9 and -",
    |s| is_label(s, REGION_LENGTH_MAX)
);
name!(
    /// A cluster's identity, drawn once at bootstrap.
    ClusterId,
    "cluster id",
    "32 hexadecimal digits",
    |s| s.len() == 32 && s.bytes().all(|b| b.is_ascii_hexdigit())
);
name!(
    /// The id that a caller gives a request so that a retry is recognised.
    RequestId,
    "request id",
    "use 1 to 128 visible ASCII characters",
    |s| (1..=REQUEST_ID_LENGTH_MAX).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic())
);

/// A node's id: the log index that registered it (the bootstrap node: 1), never used again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A revision's id: the log index that committed it, so unique in the cluster and ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevisionId(pub u64);

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for RevisionId {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        s.strip_prefix('r').and_then(|n| n.parse().ok()).map(Self).ok_or_else(|| BadName {
            what: "revision",
            given: s.chars().take(80).collect(),
            rule: "an r and a number, such as r42",
        })
    }
}

/// One function of one revision: what is placed, loaded and run. Written `r42/checkout`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionRef {
    /// The revision it belongs to.
    pub revision: RevisionId,
    /// Its name in that revision.
    pub function: FunctionName,
}

impl fmt::Display for FunctionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.revision, self.function)
    }
}

impl FromStr for FunctionRef {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        let (revision, function) = s.split_once('/').unwrap_or((s, ""));
        Ok(Self { revision: revision.parse()?, function: function.parse()? })
    }
}

impl TryFrom<String> for FunctionRef {
    type Error = BadName;
    fn try_from(s: String) -> Result<Self, BadName> {
        s.parse()
    }
}

impl From<FunctionRef> for String {
    fn from(function: FunctionRef) -> Self {
        function.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        assert!(AppName::new("shop-2").is_ok());
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"x".repeat(64)] {
            assert!(AppName::new(bad).is_err(), "{bad}");
        }
        assert!(Region::new("eu-west-1").is_ok());
        let error = Region::new("EU West").unwrap_err().to_string();
        assert_eq!(error, "region `EU West` is not valid: use 1 to 32 of a-z, 0-9 and -");
    }

    #[test]
    fn a_revision_reads_back_what_it_prints() {
        let revision = RevisionId(42);
        assert_eq!(revision.to_string().parse::<RevisionId>().unwrap(), revision);
        assert!("42".parse::<RevisionId>().is_err());
    }
}
