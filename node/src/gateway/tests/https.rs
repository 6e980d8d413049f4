//! Calls over TLS: by which certificate and protocol, what the function is told, what is begun early.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nigh_model::{FunctionSpec, Tier};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::tls::testing::{Made, made};
use super::super::{Certificates, Handshakes, Transport, find, serve_http};
use super::{Cluster, Deployed, ECHO, HELLO, WAIT_MAX, until};

/// How often a test's listener looks at its files.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Serves HTTPS on a cluster's first node, with the certificates of a folder.
async fn listen(cluster: &Cluster, folder: &Path) -> SocketAddr {
    let node = &cluster.nodes[0];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (certificates, reader) = Certificates::open(folder.to_owned()).unwrap();
    let handshakes = Handshakes::new(certificates.clone(), node.metrics.clone()).unwrap();
    let transport = Transport::Tls(Arc::new(handshakes));
    tokio::spawn(serve_http(listener, transport, node.gateway.clone(), node.stopping.clone()));
    tokio::spawn(certificates.keep_reading(reader, LOOK_INTERVAL, node.stop.clone()));
    at
}

/// A caller that trusts these and speaks these protocols.
fn caller(
    trusted: &[&Made],
    alpn: &[&str],
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|made| roots.add(made.der.clone()).unwrap());
    let mut config = ClientConfig::builder_with_provider(crate::identity::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn connect(
    at: SocketAddr,
    caller: &Arc<ClientConfig>,
    host: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(caller.clone()).connect(name, stream).await
}

/// Calls a path in the protocol that was agreed on.
async fn get(stream: TlsStream<TcpStream>, host: &str, path: &str) -> (u16, HeaderMap, Bytes) {
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let body = Full::<Bytes>::default();
    let response = if is_h2 {
        let request = Request::get(format!("https://{host}{path}")).body(body).unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let request = Request::get(path).header("host", host).body(body).unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = response.into_parts();
    (head.status.as_u16(), head.headers, body.collect().await.unwrap().to_bytes())
}

/// The certificate that a caller is shown.
async fn shown(
    at: SocketAddr,
    caller: &Arc<ClientConfig>,
    host: &str,
) -> Option<CertificateDer<'static>> {
    let stream = connect(at, caller, host).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?[0].clone())
}

fn has(cluster: &Cluster, line: &str) -> bool {
    cluster.nodes[0].metrics.render().lines().any(|known| known == line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_are_agreed_on_and_the_function_is_told_of_https() {
    let cluster = Cluster::new(1, &[Deployed::new("echo", ECHO, &[1])]).await;
    let folder = tempfile::tempdir().unwrap();
    let made = made(&["a.test"]);
    made.put(folder.path(), "a");
    let at = listen(&cluster, folder.path()).await;
    for version in [&TLS13, &TLS12] {
        for (alpn, agreed) in [
            (&["h2", "http/1.1"][..], Some(b"h2".as_slice())),
            (&["http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ] {
            let caller = caller(&[&made], alpn, version);
            let stream = connect(at, &caller, "a.test").await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
            let (status, headers, body) = get(stream, "a.test", "/echo/headers?x=1").await;
            assert_eq!((status, &headers["nigh-node"]), (200, &"n1".parse().unwrap()));
            let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(seen["path"], "/echo/headers?x=1");
            let sent = seen["headers"].as_array().unwrap();
            let value = |name: &str| sent.iter().find(|pair| pair[0] == name).map(|pair| &pair[1]);
            assert_eq!(value("spin-full-url").unwrap(), "https://a.test/echo/headers?x=1");
            assert_eq!(value("x-forwarded-proto").unwrap(), "https");
        }
    }
    let nothing_shared = caller(&[&made], &["other"], &TLS13);
    assert!(connect(at, &nothing_shared, "a.test").await.is_err());
    let stranger = caller(&[], &["h2"], &TLS13);
    assert!(connect(at, &stranger, "a.test").await.is_err(), "nobody it trusts has signed it");
    for why in ["nothing_shared", "refused"] {
        let line = format!("nigh_https_handshakes_failed_total{{why=\"{why}\"}} 1");
        until(&line, || has(&cluster, &line)).await;
    }
    assert!(has(&cluster, "nigh_https_handshakes_total{kind=\"full\"} 6"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_is_shown_its_certificate_and_a_new_one_when_it_changes() {
    let cluster = Cluster::new(1, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let (a, b, new) = (made(&["a.test"]), made(&["b.test"]), made(&["b.test"]));
    a.put(folder.path(), "a");
    b.put(folder.path(), "b");
    let at = listen(&cluster, folder.path()).await;
    let caller = caller(&[&a, &b, &new], &["h2"], &TLS13);
    assert_eq!(shown(at, &caller, "a.test").await.unwrap(), a.der);
    assert_eq!(shown(at, &caller, "b.test").await.unwrap(), b.der);
    assert_eq!(shown(at, &caller, "c.test").await, None, "the default one is for another host");
    new.put(folder.path(), "b");
    let replaced = async { while shown(at, &caller, "b.test").await.unwrap() != new.der {} };
    assert!(tokio::time::timeout(WAIT_MAX, replaced).await.is_ok(), "the new one is shown");
    assert_eq!(shown(at, &caller, "a.test").await.unwrap(), a.der);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_comes_again_resumes_its_session() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let folder = tempfile::tempdir().unwrap();
    let made = made(&["a.test"]);
    made.put(folder.path(), "a");
    let at = listen(&cluster, folder.path()).await;
    for (version, so_far) in [(&TLS13, 1), (&TLS12, 2)] {
        let caller = caller(&[&made], &["http/1.1"], version);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = connect(at, &caller, "a.test").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
            // Tickets come with the first bytes.
            assert_eq!(get(stream, "a.test", "/hello").await.0, 200);
        }
        let line = format!("nigh_https_handshakes_total{{kind=\"resumed\"}} {so_far}");
        until(&line, || has(&cluster, &line)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_is_told_that_tls_is_spoken_here() {
    let cluster = Cluster::new(1, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    made(&["a.test"]).put(folder.path(), "a");
    let at = listen(&cluster, folder.path()).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("https://"), "{said}");
    let line = "nigh_https_handshakes_failed_total{why=\"no_tls\"} 1";
    until(line, || has(&cluster, line)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_is_redirected_where_that_is_asked_for() {
    let cluster = Cluster::new(1, &[Deployed::new("hello", HELLO, &[1])]).await;
    let node = &cluster.nodes[0];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let transport = Transport::Plain { redirect: Some(8443) };
    tokio::spawn(serve_http(listener, transport, node.gateway.clone(), node.stopping.clone()));
    let post = |host: &str| {
        let request = Request::post(format!("http://{at}/hello?x=1")).header("host", host);
        cluster.client.request(request.body(Full::<Bytes>::default()).unwrap())
    };
    let moved = post("a.test:8080").await.unwrap();
    assert_eq!(moved.status(), 308);
    assert_eq!(moved.headers()["location"], "https://a.test:8443/hello?x=1");
    assert!(moved.headers().contains_key("x-request-id"));
    let answered = post("127.0.0.1").await.unwrap();
    assert_eq!(answered.status(), 200, "who names no host is answered");
}

/// Functions of two hosts: one that is on the node's disk, one that is loaded.
fn of_hosts() -> [Deployed; 2] {
    let ready: fn(&mut FunctionSpec) = |spec| spec.routes = vec!["ready.test/...".parse().unwrap()];
    let warm: fn(&mut FunctionSpec) = |spec| spec.routes = vec!["warm.test/...".parse().unwrap()];
    [
        Deployed { change: ready, tier: Tier::Ready, ..Deployed::new("ready", HELLO, &[1]) },
        Deployed { change: warm, ..Deployed::new("warm", ECHO, &[1]) },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hello_names_is_loaded_before_it_is_called() {
    let cluster = Cluster::new(1, &of_hosts()).await;
    let folder = tempfile::tempdir().unwrap();
    let made = made(&["ready.test", "warm.test", "other.test"]);
    made.put(folder.path(), "a");
    let at = listen(&cluster, folder.path()).await;
    let caller = caller(&[&made], &["h2"], &TLS13);
    for host in ["other.test", "warm.test"] {
        drop(connect(at, &caller, host).await.unwrap());
    }
    assert!(has(&cluster, "nigh_https_preloads_total 0"), "there was nothing to load");

    let stream = connect(at, &caller, "ready.test").await.unwrap();
    assert!(has(&cluster, "nigh_https_preloads_total 1"));
    let node = &cluster.nodes[0];
    let function = {
        let decision = node.decided.now();
        find::by_path(&decision, Some("ready.test"), "/").unwrap().0.function
    };
    until("it is loaded", || node.agent.shelf.is_warm(&function)).await;
    let (status, headers, _) = get(stream, "ready.test", "/x").await;
    assert_eq!(status, 200);
    let timing = headers["server-timing"].to_str().unwrap();
    assert!(timing.contains("desc=\"warm\""), "{timing}");
    assert!(has(&cluster, "nigh_https_preloads_met_total{how=\"warm\"} 1"));
    assert!(has(&cluster, "nigh_gateway_cold_total 0"));
}

/// On one thread nothing is loaded before this test waits for something.
#[tokio::test]
async fn a_first_call_that_comes_while_it_is_loaded_is_counted_so_and_once() {
    let cluster = Cluster::new(1, &of_hosts()).await;
    let node = &cluster.nodes[0];
    let function = {
        let decision = node.decided.now();
        find::by_path(&decision, Some("ready.test"), "/").unwrap().0.function
    };
    let preload = node.gateway.preload("READY.test");
    for _ in 0..2 {
        node.gateway.preload_met(&preload, &function);
    }
    assert!(has(&cluster, "nigh_https_preloads_met_total{how=\"joined\"} 1"));
    until("it is loaded", || node.agent.shelf.is_warm(&function)).await;
    node.gateway.preload_met(&node.gateway.preload("ready.test"), &function);
    assert!(has(&cluster, "nigh_https_preloads_total 1"), "what is loaded is not loaded again");
    assert!(has(&cluster, "nigh_https_preloads_met_total{how=\"warm\"} 0"));
}
