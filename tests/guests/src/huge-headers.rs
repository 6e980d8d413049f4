//! Answers with more headers than any client wants: two megabytes of them, which stops at the
//! first host call that refuses with a trap. A path ending in `/many` asks for many small ones,
//! one in `/large` for a single large one: few enough to pass a host that only bounds their sum.

use wasip2::http::types::{Fields, OutgoingBody};

/// How many headers, and how long each value is.
const FLOOD: (usize, usize) = (2_000, 1024);
const MANY: (usize, usize) = (1_000, 16);
const LARGE: (usize, usize) = (1, 100 * 1024);

hostile_guests::guest!(|request, out| {
    let path = request.path_with_query().unwrap_or_default();
    let (count, bytes) = match path.rsplit('/').next() {
        Some("many") => MANY,
        Some("large") => LARGE,
        _ => FLOOD,
    };
    let headers = Fields::new();
    for i in 0..count {
        let _ = headers.append(&format!("x-huge-{i}"), &vec![b'h'; bytes]);
    }
    let _ = OutgoingBody::finish(hostile_guests::start(out, headers), None);
});
