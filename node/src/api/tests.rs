//! The door of the API over real sockets: TLS, strangers, roles.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nigh_model::access::{ApiToken, Grant, ROLES, Role, Secret, Token, TokenId};
use nigh_model::{ClusterId, State};
use nigh_proto::v1;
use nigh_proto::v1::invoker_server::{Invoker, InvokerServer};
use nigh_runtime::{Engine, EngineConfig};
use prost::Message as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use tonic::{Status, Streaming};

use super::authorize::{Door, authorize};
use super::listen::{self, Calls};
use crate::access::Shown;
use crate::decided::Decided;
use crate::telemetry::Metrics;

/// Nothing here takes longer, on a machine that does other things.
const LIMIT: Duration = Duration::from_secs(20);

/// A door with something small behind it.
struct Bench {
    address: std::net::SocketAddr,
    metrics: Metrics,
    roots: RootCertStore,
    _stop: DropGuard,
    _engine: Engine,
}

/// The name of the thread that this runs on.
fn thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// Answers with where it ran.
struct SaysWhere;

#[tonic::async_trait]
impl Invoker for SaysWhere {
    type InvokeStreamStream = futures::stream::Empty<Result<v1::InvokeStreamResponse, Status>>;

    async fn invoke(
        &self,
        _: tonic::Request<v1::InvokeRequest>,
    ) -> Result<tonic::Response<v1::InvokeResponse>, Status> {
        let body = thread().into();
        Ok(tonic::Response::new(v1::InvokeResponse { body, ..v1::InvokeResponse::default() }))
    }

    async fn invoke_stream(
        &self,
        _: tonic::Request<Streaming<v1::InvokeStreamRequest>>,
    ) -> Result<tonic::Response<Self::InvokeStreamStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

fn token(role: Role) -> ApiToken {
    let n = role as u8 + 1;
    ApiToken { id: TokenId::from_bytes([n; 8]), secret: Secret::from_bytes([n; 32]) }
}

fn state() -> State {
    let cluster = Some(ClusterId::new("0".repeat(32)).unwrap());
    let mut state = State { applied: 1, cluster, ..State::default() };
    for role in ROLES {
        let ApiToken { id, secret } = token(role);
        let kept = Token {
            id: id.clone(),
            digest: secret.digest(),
            name: role.to_string(),
            grant: Grant::Api { role },
            created_ms: 0,
            expires_ms: None,
        };
        state.tokens.insert(id, Arc::new(kept));
    }
    state
}

impl Bench {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["nigh.internal".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut tls = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = Arc::new(tls);

        let metrics = Metrics::new();
        let decided = Decided::new(Arc::new(state()));
        let door = Arc::new(Door { decided, metrics: metrics.clone() });
        let who = |request: axum::extract::Request| async move {
            assert!(!request.headers().contains_key("authorization"), "it goes no further");
            let Shown(shown) = request.extensions().get::<Shown>().unwrap();
            shown.as_ref().map_or_else(|denied| denied.reason().to_owned(), |c| c.name.clone())
        };
        let router = Router::new()
            .route("/healthz", get(who))
            .route("/grpc.health.v1.Health/Check", post(async || thread()))
            .route("/metrics", get(who))
            .route("/nigh.v1.Apps/Deploy", post(who))
            .route("/nigh.v1.Access/CreateToken", post(who))
            .route("/nigh.v1.Nobody/Knows", post(who))
            .layer(from_fn_with_state(Arc::clone(&door), authorize));
        let small = EngineConfig { slots: 1, threads: 1, ..EngineConfig::default() };
        let engine = Engine::new(small).unwrap();
        let invoker = InvokerServer::new(SaysWhere);
        let calls = Calls { door, invoker, threads: engine.threads().clone() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tls: listen::ServerTls = Arc::new(move || Arc::clone(&tls));
        tokio::spawn(listen::serve(listener, tls, router, calls, metrics.clone(), stop.clone()));
        Self { address, metrics, roots, _stop: stop.drop_guard(), _engine: engine }
    }

    /// A connection over TLS that speaks this.
    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("nigh.internal").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// What bytes are answered with, up to the end of the connection.
    async fn plain(&self, sent: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer));
        // A reset would lose the answer.
        read.await.expect("it hangs up").unwrap();
        answer
    }

    /// The whole answer to a request over TLS and HTTP/1.1.
    async fn ask(&self, line: &str, headers: &str) -> String {
        let mut stream = self.connect(b"http/1.1").await;
        let request = format!(
            "{line} HTTP/1.1\r\nhost: nigh.internal\r\ncontent-length: 0\r\n{headers}connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer));
        read.await.expect("it hangs up").unwrap();
        answer
    }

    async fn status(&self, line: &str, shown: Option<Role>) -> u16 {
        let shown = shown.map(bearer).unwrap_or_default();
        let answer = self.ask(line, &shown).await;
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn refused(&self, reason: &str) -> u64 {
        let text = self.metrics.render();
        let head = format!("nigh_api_refused_total{{why=\"{reason}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&head)).unwrap();
        line.parse().unwrap()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn bearer(role: Role) -> String {
    format!("authorization: Bearer {}\r\n", token(role).reveal())
}

#[tokio::test]
async fn what_speaks_no_tls_gets_a_hint_and_is_counted() {
    let bench = Bench::start().await;
    let said = bench.plain(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("use https://"), "{said}");
    let frames = bench.plain(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!((frames[3], frames[9 + 3]), (4, 7), "SETTINGS and GOAWAY");
    assert!(bench.plain(b"\x80\0\0hello").await.is_empty());
    assert_eq!(bench.refused("no_tls"), 3);
    bench.plain(b"\x16\x03\x01\0\x05hello").await;
    assert_eq!(bench.refused("no_handshake"), 1);
    assert_eq!(bench.status("GET /healthz", None).await, 200, "it goes on");
}

#[tokio::test]
async fn each_role_may_what_the_table_says_and_no_more() {
    let bench = Bench::start().await;
    let all = [None, Some(Role::Viewer), Some(Role::Deployer), Some(Role::Admin)];
    for (line, expected) in [
        ("GET /healthz", [200, 200, 200, 200]),
        ("GET /metrics", [401, 200, 200, 200]),
        ("POST /nigh.v1.Apps/Deploy", [401, 403, 200, 200]),
        ("POST /nigh.v1.Access/CreateToken", [401, 403, 403, 200]),
        ("POST /nigh.v1.Nobody/Knows", [404, 404, 404, 404]),
        ("GET /", [404, 404, 404, 404]),
    ] {
        for (shown, expected) in all.into_iter().zip(expected) {
            assert_eq!(bench.status(line, shown).await, expected, "{line} {shown:?}");
        }
    }
    assert_eq!((bench.refused("unauthenticated"), bench.refused("denied")), (3, 3));
}

#[tokio::test]
async fn a_refusal_says_why_in_the_callers_words() {
    let bench = Bench::start().await;
    let http = bench.ask("GET /metrics", "").await;
    assert!(http.contains("www-authenticate: Bearer") && http.contains("\"NO_TOKEN\""), "{http}");
    let foreign = token(Role::Admin).reveal().replace('3', "4");
    let wrong = format!("authorization: Bearer {foreign}\r\n");
    let http = bench.ask("GET /metrics", &wrong).await;
    assert!(http.contains("TOKEN_INVALID") && !http.contains(&foreign[26..]), "{http}");
    let grpc = "content-type: application/grpc+proto\r\n";
    let said = bench.ask("POST /nigh.v1.Apps/Deploy", grpc).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("grpc-status: 16"), "{said}");
    let viewer = format!("{grpc}{}", bearer(Role::Viewer));
    let said = bench.ask("POST /nigh.v1.Apps/Deploy", &viewer).await;
    assert!(said.contains("grpc-status: 7") && said.contains("deployer"), "{said}");
    let said = bench.ask("POST /nigh.v1.Nobody/Knows", &viewer).await;
    assert!(said.contains("grpc-status: 12"), "{said}");
}

#[tokio::test]
async fn who_needs_no_token_is_known_all_the_same() {
    let bench = Bench::start().await;
    assert!(bench.ask("GET /healthz", "").await.ends_with("NO_TOKEN"));
    assert!(bench.ask("GET /healthz", &bearer(Role::Viewer)).await.ends_with("viewer"));
}

#[tokio::test]
async fn a_connection_that_calls_moves_to_the_guests_and_takes_nothing_else_there() {
    let bench = Bench::start().await;
    let io = TokioIo::new(bench.connect(b"h2").await);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let ask = async |path: &str| {
        let no_message = Full::new(Bytes::from_static(&[0; 5]));
        let request = http::Request::post(format!("https://nigh.internal{path}"))
            .header("content-type", "application/grpc")
            .body(no_message)
            .unwrap();
        let answer = sender.clone().send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    let called_on = async || {
        let mut message = ask("/nigh.v1.Invoker/Invoke").await;
        message.advance(5);
        String::from_utf8(v1::InvokeResponse::decode(message).unwrap().body.to_vec()).unwrap()
    };
    let control = thread();
    assert_eq!(ask("/grpc.health.v1.Health/Check").await, control);
    assert_eq!(called_on().await, control, "the first call finds it where it began");
    for _ in 0..3 {
        assert_eq!(called_on().await, "guest-0");
        assert_eq!(ask("/grpc.health.v1.Health/Check").await, control);
    }
}
