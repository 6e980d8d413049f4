//! Answers with more headers than any client wants: two thousand of 1 KiB, or, when the path ends
//! in `/large`, a single one of 2 MiB. A header that the host refuses is left out.

use wasip2::http::types::Fields;

const MANY: usize = 2_000;
const MANY_BYTES: usize = 1024;
const LARGE_BYTES: usize = 2 * 1024 * 1024;

hostile_guests::guest!(|request, out| {
    let large = request.path_with_query().is_some_and(|path| path.ends_with("/large"));
    let (count, bytes) = if large { (1, LARGE_BYTES) } else { (MANY, MANY_BYTES) };
    let headers = Fields::new();
    for i in 0..count {
        let _ = headers.append(&format!("x-huge-{i}"), &vec![b'h'; bytes]);
    }
    let _ = wasip2::http::types::OutgoingBody::finish(hostile_guests::start(out, headers), None);
});
