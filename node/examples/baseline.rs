//! What nigh is measured against: the least that a server of the same kind can do.
//!
//! `cargo run --release -p nigh-node --example baseline -- http ADDRESS`: hyper over HTTP/1.1 and
//! h2c; answers with the bytes of the function `hello`, and `/echo` with the body that it gets.
//!
//! `… -- grpc ADDRESS`: tonic with nigh's own `Invoke`, answered at once with the same bytes.
//!
//! `… -- append FILE COUNT`: no server; appends so many entries to a file, each followed by fdatasync,
//! and prints as JSON how long one takes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use nigh_proto::v1::invoker_server::{Invoker, InvokerServer};
use nigh_proto::v1::{InvokeRequest, InvokeResponse, InvokeStreamRequest, InvokeStreamResponse};
use tokio::net::TcpListener;
use tonic::{Status, Streaming};

/// What `examples/hello` answers.
const HELLO: &[u8] = b"Hello, nigh!\n";
const ECHO_PATH: &str = "/echo";
/// An entry: about what a deploy's command takes in the log.
const ENTRY_BYTES: usize = 512;
/// As on nigh's own listeners.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["http", address] => http(address.parse().unwrap()).await,
        ["grpc", address] => grpc(address.parse().unwrap()).await,
        ["append", file, count] => append(file, count.parse().unwrap()),
        _ => println!("usage: baseline http|grpc ADDRESS | append FILE COUNT"),
    }
}

fn append(file: &str, count: usize) {
    let mut file = std::fs::File::options().create(true).append(true).open(file).unwrap();
    let began = Instant::now();
    let mut took_us: Vec<f64> = (0..count)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[7; ENTRY_BYTES]).unwrap();
            file.sync_data().unwrap();
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    let seconds = began.elapsed().as_secs_f64();
    took_us.sort_by(f64::total_cmp);
    let (p50_us, p99_us) = (took_us[count / 2], took_us[count * 99 / 100]);
    println!("{{\"calls\":{count},\"seconds\":{seconds},\"p50_us\":{p50_us},\"p99_us\":{p99_us}}}");
}

async fn http(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    println!("listening on {address}");
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let builder = builder.clone();
        tokio::spawn(async move {
            // Whoever measures closes connections as it likes.
            let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<Either<Incoming, Full<Bytes>>>, Infallible> {
    let body = match request.uri().path() {
        ECHO_PATH => Either::Left(request.into_body()),
        _ => Either::Right(Full::new(Bytes::from_static(HELLO))),
    };
    let mut response = Response::new(body);
    let text = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    Ok(response)
}

struct Echo;

#[tonic::async_trait]
impl Invoker for Echo {
    async fn invoke(
        &self,
        _: tonic::Request<InvokeRequest>,
    ) -> Result<tonic::Response<InvokeResponse>, Status> {
        let body = Bytes::from_static(HELLO);
        Ok(tonic::Response::new(InvokeResponse { status: 200, body, ..InvokeResponse::default() }))
    }

    type InvokeStreamStream = tokio_stream::Empty<Result<InvokeStreamResponse, Status>>;

    async fn invoke_stream(
        &self,
        _: tonic::Request<Streaming<InvokeStreamRequest>>,
    ) -> Result<tonic::Response<Self::InvokeStreamStream>, Status> {
        Err(Status::unimplemented("only whole bodies are measured here"))
    }
}

async fn grpc(address: SocketAddr) {
    println!("listening on {address}");
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(InvokerServer::new(Echo))
        .serve(address)
        .await
        .unwrap();
}
