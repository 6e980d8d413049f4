//! TLS to the API of a node, and what a cluster knows its tests by.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing that is read for takes longer.
const LIMIT: Duration = Duration::from_secs(15);
/// The name that every node's certificate carries.
const NODE_NAME: &str = "nigh.internal";

/// What a cluster knows somebody by: a credentials file.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    /// The file.
    pub(crate) file: PathBuf,
    /// The CA, as PEM.
    pub(crate) ca: String,
    /// The token.
    pub(crate) token: String,
    tls: Arc<ClientConfig>,
}

impl Credentials {
    /// Reads a file; none when it is not there yet.
    pub(crate) fn read(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let table: toml::Table = text.parse().expect("a credentials file is TOML");
        let of = |key: &str| table[key].as_str().expect("it is text").to_owned();
        Some(Self::new(file, of("ca"), of("token")))
    }

    fn new(file: &Path, ca: String, token: String) -> Self {
        let tls = config(&ca, b"h2");
        Self { file: file.to_owned(), ca, token, tls }
    }

    /// The same with another token, or with what is none.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// What stands in the header `authorization`.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// A connection that speaks HTTP/2.
    pub(crate) async fn connect(self, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.tls, port).await
    }

    /// Asks a path over HTTP/1.1; the whole answer with its head.
    pub(crate) async fn get(&self, port: u16, path: &str, bearer: Option<&str>) -> String {
        let answer = self.try_get(port, path, bearer).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The same of a node that may not answer.
    pub(crate) async fn try_get(
        &self,
        port: u16,
        path: &str,
        bearer: Option<&str>,
    ) -> std::io::Result<String> {
        let header = bearer.map(|shown| format!("authorization: {shown}\r\n")).unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {NODE_NAME}\r\n{header}connection: close\r\n\r\n"
        );
        let asked = tokio::time::timeout(LIMIT, async {
            let mut stream = connect(config(&self.ca, b"http/1.1"), port).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        });
        asked.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

async fn connect(config: Arc<ClientConfig>, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(NODE_NAME).expect("a good name");
    TlsConnector::from(config).connect(name, stream).await
}

fn config(ca: &str, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.expect("a certificate in PEM")).expect("a good certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring does TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}
