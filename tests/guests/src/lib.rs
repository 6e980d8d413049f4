//! What the hostile guests share: a plain answer, and streaming writes.

use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{OutputStream, StreamError};

/// Sends the head of a 200 with `headers` and hands back its body, still to be written.
pub fn start(out: ResponseOutparam, headers: Fields) -> OutgoingBody {
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    body
}

/// Answers 200 with a short text, of at most 4096 bytes.
pub fn answer(out: ResponseOutparam, text: &str) {
    let body = start(out, Fields::new());
    let stream = body.write().expect("the stream is taken once");
    let _ = stream.blocking_write_and_flush(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Writes as much of `bytes` as the stream takes at once, waiting until it takes any.
///
/// # Errors
/// The stream's own error.
pub fn write_some(stream: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    loop {
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        if room > 0 {
            return stream.write(&bytes[..bytes.len().min(room)]);
        }
        stream.subscribe().block();
    }
}

/// Exports `$body` as the handler of this component.
#[macro_export]
macro_rules! guest {
    (|$request:pat_param, $out:pat_param| $body:expr) => {
        struct HostileGuest;

        impl wasip2::exports::http::incoming_handler::Guest for HostileGuest {
            fn handle(
                $request: wasip2::http::types::IncomingRequest,
                $out: wasip2::http::types::ResponseOutparam,
            ) {
                $body
            }
        }

        wasip2::http::proxy::export!(HostileGuest);
    };
}
