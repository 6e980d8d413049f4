//! `nigh operator health`: whether the node of this machine may take calls, as an exit status.
//!
//! For the health checks of containers and service managers, which have no other program at hand.
//! It reads the same settings from the environment as the node beside it and asks that node alone,
//! with no credential: what it learns, anyone may know.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nigh_model::Kind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::api::root_cause;
use crate::failure::{Failure, Result};
use crate::output::{self, Format};

/// Where the API is unless something else is said.
const API_DEFAULT: &str = "127.0.0.1:7400";
/// By whom nodes of the cluster are known, in the data folder.
const AUTHORITIES: &str = "identity/ca.pem";
/// The name that the certificates of all nodes carry.
const NODE_NAME: &str = "nigh.internal";
/// What is asked.
const PATH: &str = "/readyz";
/// A node that needs longer to say that it is well is not. Shorter than the time-out of the health
/// check of the image, so that it is this that says what is wrong.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read: it is a line or a few.
const ANSWER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh operator health
  nigh operator health --api 127.0.0.1:7410

Ends with 0 when the node may take calls, and with 5 or 6 when it may not or does not answer.")]
pub(crate) struct Args {
    /// API of the node, as it listens [default: 127.0.0.1:7400]
    #[arg(long, env = "NIGH_API", value_name = "ADDRESS")]
    api: Option<String>,
    /// Data folder of the node, which says by whom its certificate is signed
    #[arg(long, env = "NIGH_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) async fn run(args: Args, before_verb: Option<String>, format: Format) -> Result {
    let given = before_verb.or(args.api).unwrap_or_else(|| API_DEFAULT.to_owned());
    let address = reached_at(&given)?;
    let tls = args.data.as_deref().map(tls).transpose()?.flatten();
    let asked = timeout(ANSWER_TIMEOUT, ask(&address, tls)).await;
    let (status, said) = asked.unwrap_or_else(|_| {
        let what = format!("{address} did not say within {ANSWER_TIMEOUT:?} whether it is ready");
        Err(Failure::new(Kind::Timeout, what))
    })?;
    if status != StatusCode::OK {
        let what = format!("the node at {address} takes no calls");
        return Err(Failure::new(Kind::Unavailable, what).why(said));
    }
    match format {
        Format::Json => output::json(&serde_json::json!({ "ready": true, "said": said })),
        Format::Table => output::line(said),
    }
}

/// Where a node is reached from its own machine that listens at this address.
fn reached_at(given: &str) -> Result<String> {
    let rest = given.strip_prefix("https://").or_else(|| given.strip_prefix("http://"));
    let rest = rest.unwrap_or(given);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Ok(mut address) = rest.parse::<SocketAddr>() {
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        return Ok(address.to_string());
    }
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(rest.into()),
        _ => Err(Failure::usage(format!("--api: `{given}` is no address of an API"))
            .hint(format!("such as --api {API_DEFAULT}"))),
    }
}

/// How to know the node, by its data folder; none before it has joined a cluster.
fn tls(data: &Path) -> Result<Option<TlsConnector>> {
    let path = data.join(AUTHORITIES);
    let unusable =
        |why: String| Failure::invalid(format!("cannot use {}", path.display())).why(why);
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let config =
        ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Failure::internal(format!("no TLS: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(Some(TlsConnector::from(Arc::new(config))))
}

/// Connects; with TLS to what speaks it. What is asked is no secret and nothing is shown for it,
/// so a node that answers in the clear is asked in the clear.
async fn connect(address: &str, tls: Option<TlsConnector>) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(NODE_NAME).map_err(io::Error::other)?;
    match tls.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) if is_no_tls(&error) => Ok(Box::new(TcpStream::connect(address).await?)),
        Err(error) => Err(error),
    }
}

/// Whether the other side did not speak TLS at all.
fn is_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(error) => matches!(error, rustls::Error::InvalidMessage(_)),
        None => {
            use io::ErrorKind::{ConnectionReset, UnexpectedEof};
            matches!(error.kind(), ConnectionReset | UnexpectedEof)
        }
    }
}

/// Asks once; the status, and what was said with it.
async fn ask(address: &str, tls: Option<TlsConnector>) -> Result<(StatusCode, String)> {
    let lost = |error: &dyn std::error::Error| {
        let what = format!("no node answers at {address}");
        Failure::new(Kind::Unavailable, what).why(root_cause(error))
    };
    let stream = connect(address, tls).await.map_err(|error| lost(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
    // It ends with the runtime, or when the answer has been read.
    tokio::spawn(connection);
    let request = Request::get(PATH)
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::usage(format!("--api: {address}: {error}")))?;
    let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| lost(error.as_ref()))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// The exit status when a server gives this answer; none: it accepts and says nothing.
    async fn exit_for(answer: Option<&'static str>) -> u8 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Some(listener.local_addr().unwrap().to_string());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
        });
        let ran = run(Args { api, data: None }, None, Format::Json).await;
        server.abort();
        ran.map_or_else(|failure| failure.exit(), |()| 0)
    }

    #[tokio::test]
    async fn the_exit_status_says_whether_the_node_takes_calls() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n";
        let not = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nnot\n";
        assert_eq!(exit_for(Some(ok)).await, 0);
        assert_eq!(exit_for(Some(not)).await, 5);
        assert_eq!(exit_for(Some("SSH-2.0-x\r\n")).await, 5);
        assert_eq!(exit_for(None).await, 6);
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let args = Args { api: Some(free.to_string()), data: None };
        let failure = run(args, None, Format::Table).await;
        assert_eq!(failure.unwrap_err().exit(), 5);
    }

    /// The data folder of a node of one cluster, and what its API serves TLS with.
    fn cluster() -> (tempfile::TempDir, TlsAcceptor) {
        let made = rcgen::generate_simple_self_signed([NODE_NAME.to_owned()]).unwrap();
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("identity")).unwrap();
        std::fs::write(data.path().join(AUTHORITIES), made.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let provider = rustls::crypto::ring::default_provider();
        let config = ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key);
        (data, TlsAcceptor::from(Arc::new(config.unwrap())))
    }

    /// The exit status when a node answers well over TLS, or without it.
    async fn exit_over(tls: Option<TlsAcceptor>, data: &Path) -> u8 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Some(listener.local_addr().unwrap().to_string());
        let server = tokio::spawn(async move {
            // Who finds no TLS comes twice.
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream: Box<dyn Stream> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => continue,
                    },
                };
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.flush().await;
            }
        });
        let args = Args { api, data: Some(data.to_owned()) };
        let ran = run(args, None, Format::Json).await;
        server.abort();
        ran.map_or_else(|failure| failure.exit(), |()| 0)
    }

    #[tokio::test]
    async fn a_node_is_known_by_the_authority_of_its_cluster() {
        let (own, tls) = cluster();
        let (other, _) = cluster();
        assert_eq!(exit_over(Some(tls.clone()), own.path()).await, 0);
        assert_eq!(exit_over(Some(tls), other.path()).await, 5);
        assert_eq!(exit_over(None, own.path()).await, 0);
        std::fs::write(own.path().join(AUTHORITIES), "-----BEGIN CERTIFICATE-----\nx").unwrap();
        assert_eq!(exit_over(None, own.path()).await, 4);
    }

    #[test]
    fn an_address_that_listens_for_all_is_asked_on_loopback() {
        for (given, reached) in [
            ("0.0.0.0:7400", "127.0.0.1:7400"),
            ("[::]:7400", "[::1]:7400"),
            ("http://10.0.0.1:7410/", "10.0.0.1:7410"),
            ("https://10.0.0.1:7410", "10.0.0.1:7410"),
            ("localhost:7400", "localhost:7400"),
        ] {
            assert_eq!(reached_at(given).unwrap(), reached);
        }
        for bad in ["", "7400", "host", ":7400", "host:port", "ftp://a"] {
            assert_eq!(reached_at(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }
}
