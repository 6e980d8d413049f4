//! Somebody at the peer port who is no member: with no certificate, or with a wrong one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// No answer of a node takes longer.
const LIMIT: Duration = Duration::from_secs(10);
/// The least that a node which speaks HTTP/2 sends first: its settings, in a frame of this type.
const SETTINGS_FRAME: u8 = 4;

/// What a stranger shows.
pub(crate) enum Shows {
    /// No certificate.
    Nothing,
    /// A certificate for this name by an authority of its own.
    Own(String),
    /// The certificate and key in this PEM.
    Pem(Vec<u8>),
}

impl Shows {
    /// What a node shows: its certificate and key, as they lie in its data folder now.
    pub(crate) fn those_of(data: &Path) -> Self {
        let pem = std::fs::read(data.join("identity/node.pem"));
        Self::Pem(pem.expect("it is there"))
    }
}

/// How far a stranger came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// The handshake failed, or the connection ended with it.
    Refused,
    /// HTTP/2 is spoken.
    In,
}

/// Connects to a peer port, whoever answers there.
pub(crate) async fn knock(port: u16, shows: Shows) -> Came {
    let came = tokio::time::timeout(LIMIT, enter(port, shows)).await;
    came.expect("a node answers or hangs up").unwrap_or(Came::Refused)
}

/// Sends bytes that are no TLS; how the connection ended.
pub(crate) async fn babble(port: u16, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a node listens");
    // It may hang up at any byte.
    let _ = stream.write_all(bytes).await;
    let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the node neither answers nor hangs up");
}

/// A channel to a peer port, to be used as a node would.
pub(crate) async fn peer_channel(port: u16, shows: Shows) -> Channel {
    let stream = handshake(port, shows).await.expect("the handshake succeeds");
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("used up"));
        std::future::ready(stream)
    });
    Endpoint::from_static("http://peer").connect_with_connector(connector).await.expect("HTTP/2")
}

async fn enter(port: u16, shows: Shows) -> std::io::Result<Came> {
    let mut stream = handshake(port, shows).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    assert_eq!(head[3], SETTINGS_FRAME, "HTTP/2 begins with settings");
    Ok(Came::In)
}

async fn handshake(port: u16, shows: Shows) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring does TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shows {
        Shows::Nothing => config.with_no_client_auth(),
        Shows::Own(name) => {
            let (certificate, key) = forged(&name);
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            config.with_client_auth_cert(vec![certificate], key).expect("they fit")
        }
        Shows::Pem(pem) => {
            let chain = CertificateDer::pem_slice_iter(&pem);
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates in PEM");
            let key = PrivateKeyDer::from_pem_slice(&pem).expect("a key in PEM");
            config.with_client_auth_cert(chain, key).expect("they fit")
        }
    };
    config.alpn_protocols = vec![b"nigh-peer/1".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("nigh.internal").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A certificate as the cluster's own would look, by another authority.
fn forged(name: &str) -> (CertificateDer<'static>, Vec<u8>) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned(), "nigh.internal".to_owned()]);
    let signed = params.expect("names").signed_by(&key, &issuer).expect("a certificate");
    (signed.der().clone(), key.serialize_der())
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
        Err(rustls::Error::General("not TLS 1.2".to_owned()))
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
