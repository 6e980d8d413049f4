//! Every reason for which a call is not answered by its function, in one table.
//!
//! `docs/errors.md` has a block for each; a test holds the two together.

use nigh_model::Kind;

/// How a call is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// The function answered, and not with a 5xx.
    Ok,
    /// The function failed, or answered with a 5xx.
    FunctionError,
    /// The call was not taken on: it was wrong, or there was no room.
    Refused,
    /// The platform failed.
    Failed,
    /// The caller went before there was an answer.
    Gone,
}

/// Why a call is not answered by its function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// The stable name.
    pub(crate) name: &'static str,
    /// The HTTP status.
    pub(crate) status: u16,
    /// Stands for the gRPC status.
    pub(crate) kind: Kind,
    /// How such a call is counted.
    pub(crate) outcome: Outcome,
    /// The error type of `Proxy-Status` (RFC 9209 §2.3).
    pub(crate) proxy_error: &'static str,
    /// What it means, in one line.
    pub(crate) meaning: &'static str,
}

macro_rules! reasons {
    ($($name:ident $status:literal $kind:ident $outcome:ident $proxy:literal: $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub(crate) const $name: &Reason = &Reason {
                name: stringify!($name),
                status: $status,
                kind: Kind::$kind,
                outcome: Outcome::$outcome,
                proxy_error: $proxy,
                meaning: $meaning,
            };
        )*
        /// All of them, by status.
        pub(crate) const ALL: &[&Reason] = &[$($name),*];
    };
}

reasons! {
    INVALID_CALL 400 Invalid Refused "http_request_error": "A part of the call is not valid.";
    BAD_REQUEST_BODY 400 Invalid Refused "http_request_error": "The request body broke off.";
    NO_TOKEN 401 Denied Refused "http_request_denied": "No token was shown where one is needed.";
    TOKEN_EXPIRED 401 Denied Refused "http_request_denied": "The time of the token is over.";
    TOKEN_INVALID 401 Denied Refused "http_request_denied": "What was shown is no token of this cluster.";
    NO_SUCH_APP 404 NotFound Refused "destination_not_found": "No app has this name.";
    NO_SUCH_FUNCTION 404 NotFound Refused "destination_not_found": "The app has no such function.";
    NO_SUCH_ROUTE 404 NotFound Refused "destination_not_found": "No route leads anywhere from this path.";
    BODY_TOO_LARGE 413 Invalid Refused "http_request_error": "The request body exceeds the function's limit.";
    CONCURRENCY_LIMIT 429 Exhausted Refused "connection_limit_reached": "The function runs as often at once as it may on this node.";
    GUEST_TRAPPED 500 Internal FunctionError "proxy_internal_error": "The function crashed.";
    MEMORY_LIMIT 500 Internal FunctionError "proxy_internal_error": "The function needed more memory than it may have.";
    STACK_OVERFLOW 500 Internal FunctionError "proxy_internal_error": "The function overflowed its stack.";
    CPU_LIMIT 500 Internal FunctionError "proxy_internal_error": "The function used up its CPU time.";
    INSTANTIATE_FAILED 500 Internal FunctionError "proxy_internal_error": "The function could not be started.";
    RUNTIME_INTERNAL 500 Internal Failed "proxy_internal_error": "A defect of nigh.";
    METHOD_NOT_SUPPORTED 501 Invalid Refused "http_request_denied": "Functions cannot be called with this method.";
    NO_ANSWER 502 Internal FunctionError "http_protocol_error": "The function ended without an answer.";
    BAD_ANSWER 502 Internal FunctionError "http_protocol_error": "The function's answer is not valid HTTP.";
    ANSWER_TOO_LARGE 502 Internal FunctionError "http_response_body_size": "The answer does not fit one gRPC message.";
    PEER_LOST 502 Internal Failed "connection_terminated": "The connection to the node that ran the call broke.";
    NOT_ACTIVE 503 Unavailable Refused "destination_unavailable": "The app has no active revision yet.";
    OVERLOADED 503 Exhausted Refused "connection_limit_reached": "The node has more to do than it can in time.";
    NO_CAPACITY 503 Exhausted Refused "connection_limit_reached": "The node runs as many calls as it can.";
    NO_INSTANCE_SLOT 503 Exhausted Refused "connection_limit_reached": "The node has no room for another instance.";
    NO_NODE 503 Unavailable Failed "destination_unavailable": "No node that may run the function has it.";
    NOT_HERE 503 Unavailable Failed "destination_unavailable": "The chosen node does not have the function.";
    WRONG_NODE 503 Unavailable Failed "destination_unavailable": "A forwarded call reached another node than it was meant for.";
    LOAD_FAILED 503 Unavailable Failed "destination_unavailable": "The function could not be loaded.";
    PEER_UNREACHABLE 503 Unavailable Failed "connection_refused": "The chosen node could not be reached.";
    NODE_STOPPING 503 Unavailable Failed "destination_unavailable": "The node is shutting down.";
    TIME_LIMIT 504 Timeout FunctionError "http_response_timeout": "The function's time limit was over first.";
    CALLER_DEADLINE 504 Timeout FunctionError "http_response_timeout": "The caller's deadline was over first.";
}

/// The names of all of them, by status.
pub(crate) fn reason_names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|reason| reason.name)
}

/// The reason of this name; a name that this build does not know is a defect elsewhere.
pub(crate) fn named(name: &str) -> &'static Reason {
    ALL.iter().copied().find(|reason| reason.name == name).unwrap_or(RUNTIME_INTERNAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md"));

    #[test]
    fn every_reason_has_a_block_in_the_docs() {
        for reason in ALL {
            let head = format!("### {} · {}\n", reason.name, reason.status);
            let block = DOCS.split_once(&head).unwrap_or_else(|| panic!("no block `{head}`")).1;
            let block = block.split("\n### ").next().unwrap();
            assert!(block.contains(reason.meaning), "{}: `{}`", reason.name, reason.meaning);
        }
    }

    #[test]
    fn names_are_unique_and_statuses_sorted() {
        for (at, reason) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|other| other.name != reason.name), "{}", reason.name);
            assert!(at == 0 || ALL[at - 1].status <= reason.status, "{}", reason.name);
            assert_eq!(named(reason.name), *reason);
        }
    }

    #[test]
    fn statuses_and_grpc_codes_go_together() {
        for reason in ALL {
            let fits: &[Kind] = match reason.status {
                400 | 413 | 501 => &[Kind::Invalid],
                401 => &[Kind::Denied],
                404 => &[Kind::NotFound],
                429 => &[Kind::Exhausted],
                500 | 502 => &[Kind::Internal],
                503 => &[Kind::Unavailable, Kind::Exhausted],
                504 => &[Kind::Timeout],
                status => panic!("{status}"),
            };
            assert!(fits.contains(&reason.kind), "{}", reason.name);
        }
    }

    #[test]
    fn the_runtime_says_the_same_as_the_table() {
        use nigh_runtime::Failure;
        let message = String::new;
        for failure in [
            Failure::NoSlot,
            Failure::Stopping,
            Failure::Trap { message: message() },
            Failure::Memory { limit_bytes: 1 },
            Failure::Stack,
            Failure::Cpu { limit_ms: 1 },
            Failure::Deadline { limit_ms: 1 },
            Failure::BodyTooLarge { limit_bytes: 1 },
            Failure::NoAnswer,
            Failure::BadAnswer { message: message() },
            Failure::Instantiate { message: message() },
            Failure::Internal { message: message() },
        ] {
            let reason = named(failure.reason());
            assert_eq!(reason.name, failure.reason());
            assert_eq!(reason.status, failure.http_status(), "{}", reason.name);
            assert_eq!(reason.kind, failure.kind(), "{}", reason.name);
        }
    }
}
