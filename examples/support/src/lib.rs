//! What the Rust examples share: the target of a request, whole answers, streams, pauses, JSON.
//!
//! Not a framework: a function that needs none of it uses `wasip2` alone, as `hello` does.

pub mod body;
pub mod json;
pub mod target;

use std::time::Duration;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

/// Answers with a whole body at once. A caller who hung up is ignored.
pub fn answer(out: ResponseOutparam, status: u16, content_type: &str, text: &str) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[content_type.as_bytes().to_vec()]);
    let body = start(out, status, headers);
    let _ = body::write_text(&body, text);
    let _ = OutgoingBody::finish(body, None);
}

/// Sends the head of an answer and hands back its body, still to be written and finished.
///
/// A status that HTTP does not know is answered as 500.
pub fn start(out: ResponseOutparam, status: u16, headers: Fields) -> OutgoingBody {
    let response = OutgoingResponse::new(headers);
    if response.set_status_code(status).is_err() {
        let _ = response.set_status_code(500);
    }
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    body
}

/// Waits on the monotonic clock, giving the thread back to the host meanwhile.
pub fn sleep(pause: Duration) {
    let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
    monotonic_clock::subscribe_duration(nanos).block();
}

/// The first value of a request header as text, if it is there and is UTF-8.
pub fn header(request: &IncomingRequest, name: &str) -> Option<String> {
    let value = request.headers().get(name).into_iter().next()?;
    String::from_utf8(value).ok()
}
