//! Callers that do not take what they asked for, or send what costs more than it is worth.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nigh_model::FunctionSpec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Cluster, Deployed, HELLO, WORK, until};

/// Much less than a connection is given up after on which nothing moves.
const SOON: Duration = Duration::from_secs(15);
/// More than fits the buffers between a guest and its caller.
const LARGE: &str = "/work?bytes=100000000";

async fn cluster() -> Cluster {
    let limits = |spec: &mut FunctionSpec| spec.limits.timeout_ms = 500;
    let work = Deployed { change: limits, ..Deployed::new("work", WORK, &[1]) };
    Cluster::new(1, &[work]).await
}

/// Waits until the guest that runs has ended, though its caller takes nothing.
async fn its_time_ends(cluster: &Cluster) {
    let engine = &cluster.nodes[0].engine;
    until("it runs", || engine.running() == 1).await;
    let began = Instant::now();
    until("its time is over", || engine.running() == 0).await;
    assert!(began.elapsed() < SOON, "it kept its slot for {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_whose_answer_nobody_takes_ends_in_time() {
    let cluster = cluster().await;
    let mut caller = TcpStream::connect(cluster.nodes[0].http).await.unwrap();
    caller.write_all(format!("GET {LARGE} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    its_time_ends(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_for_a_stream_without_a_window() {
    let cluster = cluster().await;
    let stream = TcpStream::connect(cluster.nodes[0].http).await.unwrap();
    let (mut caller, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://a{LARGE}")).body(Empty::<Bytes>::new()).unwrap();
    let answer = caller.send_request(request).await.unwrap();
    its_time_ends(&cluster).await;
    drop(answer);
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const ENHANCE_YOUR_CALM: u8 = 11;
/// `GET http://a/`, packed (RFC 7541).
const GET: &[u8] = b"\x82\x84\x86\x41\x01a";

async fn begin(cluster: &Cluster) -> TcpStream {
    let mut caller = TcpStream::connect(cluster.nodes[0].http).await.unwrap();
    caller.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    caller.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    caller
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_takes_it_back_all_the_time_is_hung_up_on() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let mut caller = begin(&cluster).await;
    let mut sent = Vec::new();
    for n in 0..500 {
        sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, GET));
        sent.extend(frame(RST_STREAM, 0, 2 * n + 1, &CANCEL));
    }
    caller.write_all(&sent).await.unwrap();
    let mut answer = Vec::new();
    // It may end with a reset.
    let _ = caller.read_to_end(&mut answer).await;
    let (mut rest, mut why) = (&answer[..], None);
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest[3] == GOAWAY {
            why = rest.get(9 + 7).copied();
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    assert_eq!(why, Some(ENHANCE_YOUR_CALM));
    assert_eq!(cluster.get(0, "/hello").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_an_end_are_not_read_to_it() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let mut caller = begin(&cluster).await;
    caller.write_all(&frame(HEADERS, END_STREAM, 1, GET)).await.unwrap();
    let more = frame(CONTINUATION, 0, 1, &b"\0\x01a\x01b".repeat(3_200));
    let mut sent = 0;
    while caller.write_all(&more).await.is_ok() {
        sent += more.len();
        assert!(sent < 64 << 20, "it takes all");
    }
    let mut caller = TcpStream::connect(cluster.nodes[0].http).await.unwrap();
    caller.write_all(b"GET /hello HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    while caller.write_all(&b"x-a: b\r\n".repeat(1_000)).await.is_ok() {
        sent += 8_000;
        assert!(sent < 128 << 20, "it takes all");
    }
    assert_eq!(cluster.get(0, "/hello").await.status(), 200);
}
