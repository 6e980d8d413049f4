//! What went wrong, in the one vocabulary that every surface translates from.

use serde::{Deserialize, Serialize};

/// What the caller should do about an error; one table maps it to gRPC, HTTP and exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request can never succeed as it is.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// Another thing stands in the way, or the basis of the request is stale.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// A limit is reached; try again later or raise the limit.
    Exhausted,
    /// The cluster cannot do this now; try again.
    Unavailable,
    /// The time given was over first.
    Timeout,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A defect of nigh.
    Internal,
}

impl Kind {
    /// The HTTP status of a platform error of this kind, where its reason names no other.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Denied => 403,
            Self::Exhausted => 429,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::Corrupt | Self::Internal => 500,
        }
    }

    /// The gRPC status code (`google.rpc.Code`) of this kind.
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Invalid => 3,
            Self::Timeout => 4,
            Self::NotFound => 5,
            Self::Denied => 7,
            Self::Exhausted => 8,
            Self::Conflict => 9,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Corrupt => 15,
        }
    }

    /// The exit status of a `nigh` command that ended with this kind.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Corrupt | Self::Internal => 1,
            Self::NotFound => 3,
            Self::Invalid | Self::Conflict | Self::Denied => 4,
            Self::Exhausted | Self::Unavailable => 5,
            Self::Timeout => 6,
        }
    }
}
