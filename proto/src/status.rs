//! Platform errors as gRPC statuses with `google.rpc.ErrorInfo`, and back.

use std::collections::HashMap;
use std::time::Duration;

use nigh_model::Kind;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every error info that nigh makes.
pub const DOMAIN: &str = "nigh";

/// Makes a status that names its reason.
pub fn of(code: Code, reason: &str, message: impl Into<String>) -> Status {
    with_retry(code, reason, message, None)
}

/// Makes a status that names its reason and when to try again.
pub fn with_retry(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    retry_after: Option<Duration>,
) -> Status {
    let mut details =
        ErrorDetails::with_error_info(reason, DOMAIN, HashMap::<String, String>::new());
    if let Some(after) = retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code, message, details)
}

/// The gRPC code of an error of this kind.
pub fn code(kind: Kind) -> Code {
    Code::from_i32(kind.grpc_code())
}

/// Makes a status of an error's kind.
pub fn of_kind(kind: Kind, reason: &str, message: impl Into<String>) -> Status {
    of(code(kind), reason, message)
}

/// The reason that a status names, if nigh made it.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// The kind of a status, whoever made it.
pub fn kind(status: &Status) -> Kind {
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Kind::Invalid,
        Code::NotFound => Kind::NotFound,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Kind::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::ResourceExhausted => Kind::Exhausted,
        Code::Unavailable => Kind::Unavailable,
        Code::DeadlineExceeded | Code::Cancelled => Kind::Timeout,
        Code::DataLoss => Kind::Corrupt,
        Code::Ok | Code::Unknown | Code::Internal => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_its_reason() {
        let status = of_kind(Kind::NotFound, "NO_SUCH_APP", "no app is named `x`");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status).as_deref(), Some("NO_SUCH_APP"));
        assert_eq!(reason(&Status::not_found("x")), None);
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in [
            Kind::Invalid,
            Kind::NotFound,
            Kind::Conflict,
            Kind::Denied,
            Kind::Exhausted,
            Kind::Unavailable,
            Kind::Timeout,
            Kind::Corrupt,
            Kind::Internal,
        ] {
            assert_eq!(super::kind(&of_kind(kind, "X", "x")), kind);
        }
    }
}
