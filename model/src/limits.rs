//! Every default and maximum that a user can meet, in one place.
//!
//! `docs/limits.md` lists each with the error one gets beyond it.

/// Longest app, function and node name, in bytes: a DNS label (RFC 1035).
pub const NAME_LENGTH_MAX: usize = 63;
/// Longest region and zone name, in bytes.
pub const REGION_LENGTH_MAX: usize = 32;
/// Longest request id and idempotency key, in bytes.
pub const REQUEST_ID_LENGTH_MAX: usize = 128;

/// Wall time of one call unless the manifest says otherwise, in ms.
pub const TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Longest wall time that a manifest may ask for, in ms.
pub const TIMEOUT_MS_MAX: u64 = 15 * 60_000;
/// CPU time of one call unless the manifest says otherwise, in ms.
pub const CPU_MS_DEFAULT: u64 = 10_000;
/// Linear memory of one instance unless the manifest says otherwise, in bytes.
pub const MEMORY_BYTES_DEFAULT: u64 = 128 << 20;
/// Most linear memory that a manifest may ask for, in bytes.
pub const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Least linear memory that a manifest may ask for, in bytes: one wasm page.
pub const MEMORY_BYTES_MIN: u64 = 64 << 10;
/// Largest request body unless the manifest says otherwise, in bytes.
pub const BODY_BYTES_DEFAULT: u64 = 10 << 20;
/// Largest request body that a manifest may ask for, in bytes.
pub const BODY_BYTES_MAX: u64 = 1 << 30;
/// Calls of one function running on one node unless the manifest says otherwise.
pub const CONCURRENCY_DEFAULT: u32 = 100;
/// Most concurrent calls of one function per node that a manifest may ask for.
pub const CONCURRENCY_MAX: u32 = 10_000;
/// An idle function is unloaded after this unless the manifest says otherwise, in ms.
pub const IDLE_MS_DEFAULT: u64 = 600_000;

/// Calls that a reused instance serves before a fresh one takes its place, unless the manifest says
/// otherwise.
pub const REUSE_USES_DEFAULT: u32 = 1_000;
/// Most that a manifest may ask for.
pub const REUSE_USES_MAX: u32 = 1_000_000;
/// Instances of one function that wait on a node for their next call, unless the manifest says otherwise.
pub const REUSE_INSTANCES_DEFAULT: u32 = 16;
/// Most that a manifest may ask for.
pub const REUSE_INSTANCES_MAX: u32 = 1_000;

/// Largest component, in bytes.
pub const COMPONENT_BYTES_MAX: u64 = 100 << 20;
/// Most functions in one app.
pub const FUNCTIONS_PER_APP_MAX: usize = 256;
/// Most routes of one function.
pub const ROUTES_PER_FUNCTION_MAX: usize = 64;
/// Longest route, in bytes.
pub const ROUTE_LENGTH_MAX: usize = 1024;
/// Most environment variables of one function.
pub const ENV_VARS_MAX: usize = 256;
/// All environment names and values of one function together, in bytes.
pub const ENV_BYTES_MAX: usize = 64 << 10;
/// Most outbound rules of one function.
pub const OUTBOUND_RULES_MAX: usize = 128;
/// Most replicas that a manifest may ask for.
pub const REPLICAS_MAX: u32 = 1_000;

/// Nodes on which a function is ready when its manifest says nothing.
pub const REPLICAS_MIN_DEFAULT: u32 = 2;
/// Revisions of an app that are kept for a way back, the active one included.
pub const REVISIONS_KEPT: usize = 5;
/// Gossip keys that are accepted at once: the one sent with, the one coming, and as many that a
/// rotation which was cut short has left.
pub const GOSSIP_KEYS_MAX: usize = 4;
/// Answers kept so that a repeated request id is answered the same.
pub const REPLIES_KEPT: usize = 4_096;

/// Tokens that a cluster keeps at once.
pub const TOKENS_MAX: usize = 10_000;
/// Longest name of a token, in bytes.
pub const TOKEN_NAME_LENGTH_MAX: usize = 128;
/// A join token that is used up is remembered for this long, in ms.
pub const SPENT_TOKEN_KEPT_MS: u64 = 600_000;
/// Authorities trusted at once: the one that signs and the one that it takes over from.
pub const AUTHORITIES_MAX: usize = 2;
/// Changes that are kept for `nigh operator audit`: as many that somebody asked for, and as many
/// that the cluster made by itself.
pub const AUDIT_KEPT: usize = 2_000;

/// Request and response heads together with their header names and values, in bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Most headers in one request or response.
pub const HEADERS_MAX: usize = 128;
/// Outbound requests of one call under way at once, each with a connection of its own.
pub const OUTBOUND_REQUESTS_PER_CALL_MAX: usize = 32;
/// Longest line of guest output that is kept whole, in bytes; the rest of it is cut.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// Most guest output kept of one call, in bytes; the rest is counted and dropped.
pub const LOG_BYTES_PER_CALL_MAX: usize = 256 << 10;
/// Most lines of guest output kept of one call; the rest is counted and dropped. A tenth of
/// what a node keeps, so that one call leaves most of the others' lines there.
pub const LOG_LINES_PER_CALL_MAX: usize = 1_000;
/// Lines of guest output that a node keeps for `nigh logs`.
pub const LOG_LINES_KEPT: usize = 10_000;

/// Largest gRPC message, in bytes: a whole body of the default limit and its envelope.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 11 << 20;
/// Body bytes that may have been sent when an idempotent call is tried again.
pub const RETRY_BODY_BYTES_MAX: usize = 64 << 10;
