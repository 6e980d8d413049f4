//! Connections on which nothing happens, in virtual time: what is asked is answered here, by no guest.

use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::sleep;

use super::super::connection::serve;
use super::super::http::Connection;
use super::super::servers::Servers;
use super::Cluster;

const GET: &[u8] = b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

/// A caller's end of a connection to a node.
async fn connect() -> (Cluster, DuplexStream) {
    let cluster = Cluster::new(1, &[]).await;
    let node = &cluster.nodes[0];
    let (far, near) = tokio::io::duplex(64 << 10);
    let (gateway, stopping) = (node.gateway.clone(), node.stopping.clone());
    tokio::time::pause();
    tokio::spawn(async move {
        let from = HeaderValue::from_static("127.0.0.1");
        let connection = Connection { from, is_tls: false, redirect: None, preload: None };
        serve(&Servers::new(None), near, connection, gateway, stopping).await;
    });
    (cluster, far)
}

/// Reads one answer, which says that there is no such function.
async fn is_answered(caller: &mut DuplexStream) {
    let mut text = Vec::new();
    while !text.ends_with(b"}") && !text.ends_with(b"}\n") {
        assert!(caller.read_buf(&mut text).await.unwrap() > 0, "it was hung up on");
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
}

fn parked(cluster: &Cluster) -> i64 {
    cluster.nodes[0].metrics.parked().get()
}

#[tokio::test]
async fn an_idle_connection_gives_back_its_room_and_serves_what_comes() {
    let (cluster, mut caller) = connect().await;
    for _ in 0..3 {
        for _ in 0..3 {
            caller.write_all(GET).await.unwrap();
            is_answered(&mut caller).await;
            sleep(SECOND).await;
            assert_eq!(parked(&cluster), 0, "it is in use");
        }
        sleep(5 * SECOND).await;
        assert_eq!(parked(&cluster), 1);
    }
    // Bit by bit, with pauses in which it looks idle.
    for piece in GET.chunks(20) {
        caller.write_all(piece).await.unwrap();
        sleep(7 * SECOND).await;
    }
    is_answered(&mut caller).await;
    assert_eq!(cluster.nodes[0].metrics.connections().get(), 1);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(70 * SECOND, caller.read_to_end(&mut rest)).await;
    assert_eq!((ended.unwrap().unwrap(), parked(&cluster)), (0, 0), "nobody keeps it for ever");
    assert_eq!(cluster.nodes[0].metrics.connections().get(), 0);
}

#[tokio::test]
async fn who_asks_by_the_drop_is_hung_up_on() {
    let (_cluster, mut caller) = connect().await;
    caller.write_all(GET).await.unwrap();
    is_answered(&mut caller).await;
    let began = tokio::time::Instant::now();
    for byte in GET {
        if caller.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(3 * SECOND).await;
    }
    let took = began.elapsed();
    assert!((55 * SECOND..70 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test]
async fn the_rest_of_a_body_that_nobody_reads_is_no_request() {
    let (cluster, mut caller) = connect().await;
    let head = b"POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 64\r\n\r\n";
    caller.write_all(head).await.unwrap();
    is_answered(&mut caller).await;
    sleep(20 * SECOND).await;
    assert_eq!(parked(&cluster), 0);
    // What it hides must not be answered.
    let _ = caller.write_all(GET).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(5 * SECOND, caller.read_to_end(&mut rest)).await;
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

#[tokio::test]
async fn a_node_that_closes_waits_for_nobody_who_says_nothing() {
    for says in [&b""[..], b"PRI * HT", GET] {
        let (cluster, mut caller) = connect().await;
        caller.write_all(says).await.unwrap();
        if says == GET {
            is_answered(&mut caller).await;
            sleep(5 * SECOND).await;
            assert_eq!(parked(&cluster), 1);
        }
        sleep(SECOND).await;
        let began = tokio::time::Instant::now();
        cluster.nodes[0].stopping.closing.cancel();
        assert_eq!(caller.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(began.elapsed() < SECOND, "{:?} after {says:?}", began.elapsed());
        // The next node starts in real time.
        tokio::time::resume();
    }
}
