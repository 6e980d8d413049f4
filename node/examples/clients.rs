//! Clients for measuring: those that write to a control plane, nigh's own or etcd's beside it, and one
//! that calls over TLS.
//!
//! `clients apps CREDENTIALS ADDRESS CLIENTS COUNT COMPONENT…`: commits so many apps of one function
//! each, as `nigh deploy --no-wait` does, over components that are uploaded before.
//!
//! `clients revisions CREDENTIALS ADDRESS CLIENTS COUNT COMPONENT`: the same number of commits, each of
//! a new revision of the client's one app, so that the state stays as large as it is.
//!
//! `clients tokens CREDENTIALS ADDRESS CLIENTS COUNT`: makes so many tokens that expire at once: each is
//! one entry of the log, as a put of etcd's is, and the next one clears it away.
//!
//! `clients etcd ADDRESS CLIENTS COUNT`: puts a value of about the size of such a command.
//!
//! Each of these prints one line of JSON: how many, the seconds of all, and what one takes.
//!
//! `clients tls ADDRESS FILE`: for each host of the file, one a line, a handshake that names it, then a
//! GET of its `/`; and once more over a new connection. Prints what each of the first and of the second
//! answers took after its handshake, in µs.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use nigh_model::Digest;
use nigh_proto::v1::access_client::AccessClient;
use nigh_proto::v1::apps_client::AppsClient;
use nigh_proto::v1::artifacts_client::ArtifactsClient;
use nigh_proto::v1::create_token_request::Kind;
use nigh_proto::v1::upload_request::Part;
use nigh_proto::v1::{
    ApiAccess, AppSpec, Artifact, CreateTokenRequest, DeployRequest, FunctionSpec, UploadRequest,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// Whatever is measured takes no longer.
const LIMIT: Duration = Duration::from_secs(600);
const CHUNK_BYTES: usize = 64 << 10;
/// The name that every node's certificate carries.
const NODE_NAME: &str = "nigh.internal";
/// A value in etcd: what a deploy's command takes in the log.
const VALUE_BYTES: usize = 256;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let work = async {
        match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [
                kind @ ("apps" | "revisions"),
                credentials,
                address,
                clients,
                count,
                components @ ..,
            ] if !components.is_empty() => {
                let nigh = Nigh::new(Path::new(credentials), address);
                let size = (clients.parse().unwrap(), count.parse().unwrap());
                Box::pin(deploy(nigh, *kind == "apps", size, components)).await;
            }
            ["tokens", credentials, address, clients, count] => {
                let nigh = Nigh::new(Path::new(credentials), address);
                let size = (clients.parse().unwrap(), count.parse().unwrap());
                Box::pin(make_tokens(nigh, size)).await;
            }
            ["etcd", address, clients, count] => {
                Box::pin(put(address, (clients.parse().unwrap(), count.parse().unwrap()))).await;
            }
            ["tls", address, hosts] => Box::pin(call_hosts(address, Path::new(hosts))).await,
            _ => println!(
                "usage: clients apps|revisions CREDENTIALS ADDRESS CLIENTS COUNT COMPONENT… | \
                 tokens CREDENTIALS ADDRESS CLIENTS COUNT | etcd ADDRESS CLIENTS COUNT | tls ADDRESS FILE"
            ),
        }
    };
    tokio::time::timeout(LIMIT, work).await.expect("it takes too long");
}

/// Clients and what they do together.
type Size = (usize, u64);

/// Every client takes the next number when it is done with the one before.
async fn run<C: Send + 'static, F: Future<Output = C> + Send + 'static>(
    clients: Vec<C>,
    count: u64,
    write: impl Fn(C, usize, u64) -> F + Clone + Send + 'static,
) {
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let running: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(id, mut client)| {
            let (next, write) = (Arc::clone(&next), write.clone());
            tokio::spawn(async move {
                let mut took_us = Vec::new();
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= count {
                        return took_us;
                    }
                    let began = Instant::now();
                    client = write(client, id, n).await;
                    took_us.push(began.elapsed().as_secs_f64() * 1e6);
                }
            })
        })
        .collect();
    let mut took_us = Vec::new();
    for client in running {
        took_us.extend(client.await.unwrap());
    }
    print(began.elapsed(), took_us);
}

fn print(whole: Duration, mut took_us: Vec<f64>) {
    took_us.sort_by(f64::total_cmp);
    let at = |hundredths: usize| took_us[took_us.len() * hundredths / 100];
    let (calls, seconds) = (took_us.len(), whole.as_secs_f64());
    let (p50_us, p99_us) = (at(50), at(99));
    println!("{{\"calls\":{calls},\"seconds\":{seconds},\"p50_us\":{p50_us},\"p99_us\":{p99_us}}}");
}

/// The API of a node, and what it knows us by.
#[derive(Clone)]
struct Nigh {
    tls: TlsConnector,
    token: MetadataValue<Ascii>,
    address: String,
}

impl Nigh {
    fn new(credentials: &Path, address: &str) -> Self {
        let text = std::fs::read_to_string(credentials).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(table["ca"].as_str().unwrap().as_bytes())
        {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let token = format!("Bearer {}", table["token"].as_str().unwrap()).parse().unwrap();
        Self { tls: TlsConnector::from(Arc::new(config)), token, address: address.to_owned() }
    }

    /// A connection of its own.
    async fn connect(&self) -> Channel {
        let (tls, address) = (self.tls.clone(), self.address.clone());
        let connector = tower::service_fn(move |_: http::Uri| {
            let (tls, address) = (tls.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::try_from(NODE_NAME).map_err(std::io::Error::other)?;
                std::io::Result::Ok(TokioIo::new(tls.connect(name, stream).await?))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    async fn upload(&self, channel: Channel, path: &str) -> Artifact {
        let bytes = Bytes::from(std::fs::read(path).unwrap());
        let head = Artifact { digest: Digest::of(&bytes).to_string(), bytes: bytes.len() as u64 };
        let mut parts = vec![Part::Head(head)];
        let starts = (0..bytes.len()).step_by(CHUNK_BYTES);
        let chunk = |from: usize| bytes.slice(from..bytes.len().min(from + CHUNK_BYTES));
        parts.extend(starts.map(|from| Part::Chunk(chunk(from))));
        let parts = parts
            .into_iter()
            .map(|part| UploadRequest { part: Some(part), ..UploadRequest::default() });
        let request = self.request(tokio_stream::iter(parts));
        ArtifactsClient::new(channel).upload(request).await.unwrap().into_inner()
    }
}

async fn deploy(nigh: Nigh, apps: bool, (clients, count): Size, components: &[&str]) {
    let first = nigh.connect().await;
    let mut artifacts = Vec::new();
    for component in components {
        artifacts.push(nigh.upload(first.clone(), component).await);
    }
    let artifacts: Arc<[Artifact]> = artifacts.into();
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(AppsClient::new(nigh.connect().await));
    }
    // Of this run, so that a second one changes the same apps once more.
    let run_id = format!("{:x}", rand::random::<u64>());
    run(connected, count, move |mut client: AppsClient<Channel>, id, n| {
        let artifact = artifacts[n as usize % artifacts.len()].clone();
        let app = if apps { format!("app-{n}") } else { format!("client-{id}") };
        let mut function = FunctionSpec {
            name: "f".to_owned(),
            component: artifact.digest,
            component_bytes: artifact.bytes,
            ..FunctionSpec::default()
        };
        function.env.insert("N".to_owned(), format!("{run_id}-{n}"));
        let request = nigh.request(DeployRequest {
            app,
            spec: Some(AppSpec { functions: vec![function], invoke_closed: false }),
            request_id: format!("{run_id}-{n}"),
            validate_only: false,
        });
        async move {
            let answer = client.deploy(request).await.unwrap().into_inner();
            assert!(answer.changed, "every write is a change");
            client
        }
    })
    .await;
}

async fn make_tokens(nigh: Nigh, (clients, count): Size) {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(AccessClient::new(nigh.connect().await));
    }
    run(connected, count, move |mut client: AccessClient<Channel>, _, n| {
        let kind = Kind::Api(ApiAccess { role: "viewer".to_owned() });
        let (name, ttl_ms) = (format!("measured-{n}"), 1);
        let request = nigh.request(CreateTokenRequest { kind: Some(kind), name, ttl_ms });
        async move {
            client.create_token(request).await.unwrap();
            client
        }
    })
    .await;
}

/// `etcdserverpb.PutRequest` and its answer, as far as they are used.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutDone {}

async fn put(address: &str, (clients, count): Size) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true);
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(tonic::client::Grpc::new(endpoint.connect().await.unwrap()));
    }
    run(connected, count, |mut client: tonic::client::Grpc<Channel>, id, _| async move {
        let put = Put { key: format!("client-{id}").into_bytes(), value: vec![7; VALUE_BYTES] };
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<Put, PutDone>::default();
        client.unary(tonic::Request::new(put), path, codec).await.unwrap();
        client
    })
    .await;
}

async fn call_hosts(address: &str, hosts: &Path) {
    let hosts = std::fs::read_to_string(hosts).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The second handshake with a host is as long as the first.
    config.resumption = Resumption::disabled();
    let tls = TlsConnector::from(Arc::new(config));
    let (mut cold_us, mut warm_us) = (Vec::new(), Vec::new());
    for host in hosts.lines() {
        cold_us.push(first_answer_us(&tls, address, host).await);
        warm_us.push(first_answer_us(&tls, address, host).await);
    }
    println!("{}", serde_json::json!({ "cold_us": cold_us, "warm_us": warm_us }));
}

/// What the first answer of a new connection takes after its handshake.
async fn first_answer_us(tls: &TlsConnector, address: &str, host: &str) -> f64 {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/").header(http::header::HOST, host);
    let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let began = Instant::now();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap();
    let took = began.elapsed();
    assert_eq!(status, http::StatusCode::OK, "{host}: {:?}", body.to_bytes());
    took.as_secs_f64() * 1e6
}

/// Takes any certificate: what is called was started for it, on this machine.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
