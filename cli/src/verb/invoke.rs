//! `nigh invoke`.
//!
//! Bodies are streamed both ways, so that neither has to fit a message and an answer is
//! printed while it comes.

use std::pin::Pin;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use nigh_model::Kind;
use nigh_proto::v1::invoke_stream_request::Part;
use nigh_proto::v1::invoke_stream_response::Part as Answer;
use nigh_proto::v1::{Execution, Header, InvokeRequest, InvokeStreamRequest, InvokeStreamResponse};
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;
use tonic::Streaming;

use crate::api::Api;
use crate::args::{Before, Cluster};
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use crate::units;

/// Bytes in a message of a streamed body.
const CHUNK_BYTES: usize = 64 << 10;
/// Largest body that is put into a JSON document.
const JSON_BODY_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh invoke hello
  nigh invoke echo --path /a?b=c -H 'content-type: text/plain' -d 'some text' -i
  nigh invoke shop/checkout -d @order.json -o json
  cat big.bin | nigh invoke echo -d - > answer.bin

The function's answer goes to stdout. Exit status 22: it answered 4xx or 5xx.")]
pub(crate) struct Args {
    /// The app, or one of its functions
    #[arg(value_name = "APP[/FUNCTION]")]
    function: String,
    /// HTTP method [default: POST with a body, else GET]
    #[arg(short = 'X', long, value_name = "M")]
    method: Option<String>,
    /// Path below the function's first route; may hold a query
    #[arg(long, value_name = "P", default_value = "/")]
    path: String,
    /// Request header; may be given several times
    #[arg(short = 'H', long = "header", value_name = "K: V", value_parser = header)]
    headers: Vec<Header>,
    /// Request body: text, @FILE, or - for standard input
    #[arg(short, long, value_name = "DATA|@FILE|-")]
    data: Option<String>,
    /// Print status and headers before the body
    #[arg(short, long)]
    include: bool,
    /// Permit the cluster to try the call again on another node
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait at most this long for the whole answer [default: the function's own limit]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    cluster: Cluster,
}

type Chunks = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// A request's body.
struct Body {
    /// What it is made of. It does not end when it cannot be read to its end, so that the
    /// function does not take a part of it for the whole.
    chunks: Chunks,
    /// Why it cannot be read to its end.
    broken: oneshot::Receiver<Failure>,
}

impl Body {
    /// A body that is there as a whole.
    fn of(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self { chunks: Box::pin(chunks), broken: oneshot::channel().1 }
    }
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let body = match args.data.as_deref() {
        None => None,
        Some(data) => Some(open(data).await?),
    };
    let method = args.method.unwrap_or_else(|| default_method(body.is_some()).to_owned());
    let Body { chunks, broken } = body.unwrap_or_else(|| Body::of(stream::empty()));
    let api = Api::connect(&args.cluster.access(before)?).await?;
    let head = InvokeRequest {
        function: args.function.clone(),
        method,
        path: args.path,
        headers: args.headers,
        body: Bytes::new(),
        idempotency_key: args.idempotency_key.unwrap_or_default(),
    };
    let parts = stream::iter([Part::Head(head)])
        .chain(chunks.map(Part::Chunk))
        .map(|part| InvokeStreamRequest { part: Some(part) });
    let mut request = tonic::Request::new(parts);
    if let Some(timeout) = args.timeout {
        request.set_timeout(timeout);
    }

    let started = Instant::now();
    let mut sink = match format {
        Format::Json => Sink::Json { body: Vec::new() },
        Format::Table => Sink::Raw { include: args.include },
    };
    let answered = async {
        let answer = api.invoker().invoke_stream(request).await;
        let mut answer = answer.map_err(|status| Trouble::Status(Box::new(status)))?.into_inner();
        receive(&mut answer, &mut sink).await
    };
    let called = tokio::select! {
        biased;
        // To drop the call aborts it.
        Ok(failure) = broken => return Err(failure),
        called = answered => called,
    };
    match called {
        Ok(call) => finish(call, sink, started.elapsed()),
        Err(Trouble::Printing(failure)) => Err(failure),
        Err(Trouble::Status(status)) => Err(api.failure_about(&status, &args.function).await),
    }
}

/// What came besides the body.
#[derive(Debug, Default)]
struct Call {
    status: u32,
    headers: Vec<Header>,
    trailers: Vec<Header>,
    execution: Execution,
}

/// Where the body goes.
enum Sink {
    /// To stdout as it comes.
    Raw { include: bool },
    /// Into a JSON document.
    Json { body: Vec<u8> },
}

enum Trouble {
    Printing(Failure),
    Status(Box<tonic::Status>),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Printing(failure)
    }
}

async fn receive(
    answer: &mut Streaming<InvokeStreamResponse>,
    sink: &mut Sink,
) -> std::result::Result<Call, Trouble> {
    let mut call = Call::default();
    while let Some(part) =
        answer.message().await.map_err(|status| Trouble::Status(Box::new(status)))?
    {
        match part.part {
            Some(Answer::Head(head)) => {
                call.status = head.status;
                call.headers = head.headers;
                if let Sink::Raw { include: true } = sink {
                    output::raw(&head_text(call.status, &call.headers))?;
                }
            }
            Some(Answer::Chunk(chunk)) => sink.take(&chunk)?,
            Some(Answer::Trailers(trailers)) => call.trailers = trailers.headers,
            Some(Answer::Execution(execution)) => call.execution = execution,
            None => {}
        }
    }
    if call.status == 0 {
        return Err(Failure::internal("the node ended the answer before its head").into());
    }
    Ok(call)
}

impl Sink {
    fn take(&mut self, chunk: &[u8]) -> Result {
        match self {
            Self::Raw { .. } => output::raw(chunk),
            Self::Json { body } if body.len() + chunk.len() > JSON_BODY_BYTES_MAX => {
                Err(Failure::new(Kind::Exhausted, "the answer is too large for a JSON document")
                    .why(format!("at most {} MiB are put into one", JSON_BODY_BYTES_MAX >> 20))
                    .hint("leave -o json out to stream it"))
            }
            Self::Json { body } => {
                body.extend_from_slice(chunk);
                Ok(())
            }
        }
    }
}

fn finish(call: Call, sink: Sink, total: Duration) -> Result {
    let failed = call.status >= 400;
    match sink {
        Sink::Json { body } => output::json(&document(call, body, total))?,
        Sink::Raw { include: true } if !call.trailers.is_empty() => {
            output::note(String::from_utf8_lossy(&lines(&call.trailers)).trim_end());
        }
        Sink::Raw { .. } => {}
    }
    if failed { Err(Failure::answered_error()) } else { Ok(()) }
}

fn head_text(status: u32, headers: &[Header]) -> Vec<u8> {
    let mut text = format!("HTTP {status}").into_bytes();
    let reason =
        u16::try_from(status).ok().and_then(|status| http::StatusCode::from_u16(status).ok());
    if let Some(reason) = reason.and_then(|status| status.canonical_reason()) {
        text.extend_from_slice(b" ");
        text.extend_from_slice(reason.as_bytes());
    }
    text.push(b'\n');
    text.extend(lines(headers));
    text.push(b'\n');
    text
}

fn lines(headers: &[Header]) -> Vec<u8> {
    let mut text = Vec::new();
    for header in headers {
        text.extend_from_slice(header.name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(&header.value);
        text.push(b'\n');
    }
    text
}

/// The call as JSON; its fields are documented and never renamed.
fn document(call: Call, body: Vec<u8>, total: Duration) -> Value {
    let pairs = |headers: &[Header]| -> Value {
        let pair = |header: &Header| json!([header.name, String::from_utf8_lossy(&header.value)]);
        headers.iter().map(pair).collect()
    };
    let ms = |duration: Option<prost_types::Duration>| {
        let duration = duration.unwrap_or_default();
        duration.seconds as f64 * 1e3 + f64::from(duration.nanos) / 1e6
    };
    let Execution { node, region, revision, cold, forwarded, request_id, entry, .. } =
        call.execution.clone();
    let mut document = json!({
        "status": call.status,
        "headers": pairs(&call.headers),
        "node": node,
        "region": region,
        "entry": entry,
        "revision": revision,
        "cold": cold,
        "forwarded": forwarded,
        "request_id": request_id,
        "timing_ms": {
            "route": ms(call.execution.route),
            "queue": ms(call.execution.queue),
            "hop": ms(call.execution.hop),
            "start": ms(call.execution.start),
            "exec": ms(call.execution.exec),
            "total": total.as_secs_f64() * 1e3,
        },
    });
    match String::from_utf8(body) {
        Ok(text) => document["body"] = text.into(),
        Err(error) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            document["body_base64"] = encoded.into();
        }
    }
    if !call.trailers.is_empty() {
        document["trailers"] = pairs(&call.trailers);
    }
    document
}

const fn default_method(has_body: bool) -> &'static str {
    if has_body { "POST" } else { "GET" }
}

async fn open(data: &str) -> Result<Body> {
    match (data, data.strip_prefix('@')) {
        ("-", _) => Ok(chunks(tokio::io::stdin(), "standard input")),
        (_, Some(path)) => {
            let file = open_file(path).await.map_err(|error| {
                let kind = match error.kind() {
                    std::io::ErrorKind::NotFound => Kind::NotFound,
                    _ => Kind::Invalid,
                };
                Failure::new(kind, format!("cannot read {path}"))
                    .why(error.to_string())
                    .hint("-d @FILE sends a file, -d TEXT a text, -d - standard input")
            })?;
            Ok(chunks(file, path))
        }
        (text, None) => Ok(Body::of(stream::iter([Bytes::from(text.to_owned())]))),
    }
}

/// Opens what can be read: a file, or a pipe such as a shell's `<(command)`.
async fn open_file(path: &str) -> std::io::Result<tokio::fs::File> {
    let file = tokio::fs::File::open(path).await?;
    if file.metadata().await?.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

/// What can be read, chunk by chunk.
fn chunks(read: impl AsyncRead + Send + 'static, name: &str) -> Body {
    let (tell, broken) = oneshot::channel();
    let (mut tell, name) = (Some(tell), name.to_owned());
    let chunks = ReaderStream::with_capacity(read, CHUNK_BYTES).then(move |chunk| {
        let chunk = chunk.map_err(|error| {
            let failure = Failure::invalid(format!("cannot read {name} to its end"));
            // Nobody listens once the call has ended.
            let _ = tell.take().map(|tell| tell.send(failure.why(error.to_string())));
        });
        async {
            match chunk {
                Ok(chunk) => chunk,
                Err(()) => std::future::pending().await,
            }
        }
    });
    Body { chunks: Box::pin(chunks), broken }
}

/// Reads `name: value`.
fn header(text: &str) -> std::result::Result<Header, String> {
    let (name, value) =
        text.split_once(':').ok_or("write it as 'name: value', such as 'accept: text/plain'")?;
    let name = http::HeaderName::from_bytes(name.trim().as_bytes())
        .map_err(|_| format!("`{}` is no header name", name.trim()))?;
    let value = http::HeaderValue::from_str(value.trim())
        .map_err(|_| "the value holds what no header may hold".to_owned())?;
    Ok(Header { name: name.as_str().to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        let headers = vec![header("Content-Type: text/plain").unwrap()];
        let exec = Some(prost_types::Duration { seconds: 1, nanos: 500_000 });
        let execution = Execution { node: "a".into(), exec, ..Execution::default() };
        Call { status: 200, headers, trailers: Vec::new(), execution }
    }

    #[test]
    fn json_has_every_documented_field() {
        let json = document(call(), b"hi".to_vec(), Duration::from_millis(2));
        let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "body",
                "cold",
                "entry",
                "forwarded",
                "headers",
                "node",
                "region",
                "request_id",
                "revision",
                "status",
                "timing_ms"
            ]
        );
        assert_eq!(json["headers"], json!([["content-type", "text/plain"]]));
        assert_eq!(json["timing_ms"]["exec"], json!(1000.5));
        assert_eq!(json["timing_ms"]["total"], json!(2.0));
    }

    #[test]
    fn a_body_that_is_no_text_is_base64() {
        let json = document(call(), vec![0xff, 0x00], Duration::ZERO);
        assert_eq!(json["body_base64"], "/wA=");
        assert!(json.get("body").is_none());
    }

    #[test]
    fn the_head_is_printed_as_http_writes_it() {
        let text = head_text(404, &call().headers);
        assert_eq!(text, b"HTTP 404 Not Found\ncontent-type: text/plain\n\n");
    }

    #[tokio::test]
    async fn a_body_that_cannot_be_read_to_its_end_does_not_end() {
        let read = [Ok("half".as_bytes()), Err(std::io::Error::other("the disk is gone"))];
        let read = tokio_util::io::StreamReader::new(stream::iter(read));
        let Body { mut chunks, broken } = chunks(read, "order.json");
        assert_eq!(chunks.next().await.unwrap(), "half");
        let failure = tokio::select! {
            chunk = chunks.next() => panic!("{chunk:?}"),
            failure = broken => failure.unwrap(),
        };
        assert_eq!(failure.exit(), 4);
        let text = failure.to_string();
        assert!(text.contains("order.json") && text.contains("the disk is gone"), "{text}");
    }

    #[tokio::test]
    async fn a_folder_is_no_body() {
        let folder = tempfile::tempdir().unwrap();
        let failure = open(&format!("@{}", folder.path().display())).await.map(|_| ()).unwrap_err();
        assert_eq!(failure.exit(), 4, "{failure}");
    }

    #[test]
    fn headers_are_read_or_refused() {
        assert_eq!(header("A-b:  c d ").unwrap().value, "c d");
        assert_eq!(header("x:a:b").unwrap().value, "a:b");
        for bad in ["", "a", ": b", "a b: c", "a: b\nc: d"] {
            assert!(header(bad).is_err(), "{bad}");
        }
    }
}
