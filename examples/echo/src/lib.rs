//! Sends back what it was sent, in whatever shape the path asks for:
//!
//! - `…/headers`: the method, path and headers as seen here, in JSON;
//! - `…/drip?n=5&ms=100`: that many lines with pauses between;
//! - `…/log?msg=…`: one line to stdout and one to stderr;
//! - `…/env`: the environment, in JSON;
//! - anything else: the body itself, streamed, trailers included. `…/status/NNN` or the header
//!   `x-echo-status: NNN` chooses the status.

use std::time::Duration;

use support::target::Target;
use support::{answer, body, header, json, sleep, start};
use wasip2::cli::{environment, stderr, stdout};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, Method, OutgoingBody, ResponseOutparam};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Bounds of a drip, so that one request cannot hold an instance for ever.
const DRIP_LINES_MAX: u64 = 10_000;
const DRIP_PAUSE_MAX: Duration = Duration::from_secs(60);

struct Echo;

impl Guest for Echo {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        match target.path.rsplit('/').next() {
            Some("headers") => answer(out, 200, JSON, &describe(&request, &target)),
            Some("drip") => drip(&target, out),
            Some("log") => log(target.get("msg").unwrap_or_default(), out),
            Some("env") => answer(out, 200, JSON, &environment_json()),
            _ => echo(request, &target, out),
        }
    }
}

wasip2::http::proxy::export!(Echo);

/// Streams the request's body back under the status that was asked for.
fn echo(request: IncomingRequest, target: &Target, out: ResponseOutparam) {
    let status = match status_wanted(&request, target) {
        Ok(status) => status,
        Err(why) => return answer(out, 400, TEXT, &format!("{why}\n")),
    };
    let incoming = request.consume().expect("the body is taken once");
    let outgoing = start(out, status, headers_to_copy(&request));
    body::pipe(incoming, outgoing);
}

/// The status from the header, else from the path, else 200.
fn status_wanted(request: &IncomingRequest, target: &Target) -> Result<u16, String> {
    let from_path = || {
        let (before, number) = target.path.rsplit_once('/')?;
        before.ends_with("/status").then(|| number.to_owned())
    };
    let Some(text) = header(request, "x-echo-status").or_else(from_path) else {
        return Ok(200);
    };
    match text.parse() {
        Ok(status @ 200..=599) => Ok(status),
        _ => Err(format!("not a final HTTP status: {text}")),
    }
}

/// The request's `content-type` and `x-echo-*` headers, and `trailer`, without which HTTP/1.1 may
/// not carry the trailers back.
fn headers_to_copy(request: &IncomingRequest) -> Fields {
    let copied = Fields::new();
    for (name, value) in request.headers().entries() {
        if name == "content-type" || name == "trailer" || name.starts_with("x-echo-") {
            let _ = copied.append(&name, &value);
        }
    }
    copied
}

fn describe(request: &IncomingRequest, target: &Target) -> String {
    let headers = request.headers().entries();
    let pairs = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value);
        format!("[{},{}]", json::string(name), json::string(&value))
    });
    format!(
        "{{\"method\":{},\"path\":{},\"headers\":{}}}\n",
        json::string(&method_name(request.method())),
        json::string(&request.path_with_query().unwrap_or_else(|| target.path.clone())),
        json::array(pairs)
    )
}

fn method_name(method: Method) -> String {
    let name = match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => return name,
    };
    name.into()
}

/// Streams lines with a pause between them, each flushed on its own.
fn drip(target: &Target, out: ResponseOutparam) {
    let lines = target.count("n", 5, DRIP_LINES_MAX);
    let pause = target.millis("ms", Duration::from_millis(100), DRIP_PAUSE_MAX);
    let (lines, pause) = match (lines, pause) {
        (Ok(lines), Ok(pause)) => (lines, pause),
        (Err(why), _) | (_, Err(why)) => return answer(out, 400, TEXT, &format!("{why}\n")),
    };
    let headers = Fields::new();
    let _ = headers.set("content-type", &[TEXT.into()]);
    let body = start(out, 200, headers);
    let stream = body.write().expect("the stream is taken once");
    for i in 0..lines {
        if i > 0 {
            sleep(pause);
        }
        let line = format!("drip {i}\n");
        let written = body::write_all(&stream, line.as_bytes());
        if written.and_then(|()| stream.blocking_flush()).is_err() {
            return;
        }
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Writes one line to each of stdout and stderr; line breaks in `message` become spaces.
fn log(message: &str, out: ResponseOutparam) {
    let line = message.replace(char::is_control, " ");
    let _ = body::write_all(&stdout::get_stdout(), format!("stdout: {line}\n").as_bytes());
    let _ = body::write_all(&stderr::get_stderr(), format!("stderr: {line}\n").as_bytes());
    answer(out, 200, TEXT, "logged\n");
}

fn environment_json() -> String {
    let variables = environment::get_environment().into_iter();
    let members =
        variables.map(|(name, value)| format!("{}:{}", json::string(&name), json::string(&value)));
    format!("{{{}}}\n", members.collect::<Vec<_>>().join(","))
}
