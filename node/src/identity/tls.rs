//! What both ends of a connection are configured with, made anew when the certificate or the
//! authorities change. Connections that are open go on with what they began with.

use std::sync::Arc;

use arc_swap::ArcSwap;
use nigh_model::trust::Trust;
use nigh_model::{ClusterId, Digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use zeroize::Zeroizing;

use super::{IdentityError, Leaf};

/// What peers speak inside TLS. The API speaks `h2`: whoever takes one port for the other is
/// told so by the handshake.
pub(crate) const PEER_ALPN: &[u8] = b"nigh-peer/1";
/// What the API speaks inside TLS.
const API_ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate of a node, its key, and whom it trusts.
#[derive(Clone)]
pub(crate) struct Material {
    /// The certificate, in DER.
    pub(crate) certificate: Vec<u8>,
    /// The authority that signed it.
    pub(crate) issuer: Digest,
    /// The private key, PKCS #8 in DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// Whom to trust.
    pub(crate) trust: Trust,
}

/// What this node's connections are configured with.
pub(crate) struct Tls {
    cluster: ClusterId,
    current: ArcSwap<Configured>,
}

/// One configuration, of one certificate and one set of authorities.
pub(crate) struct Configured {
    /// The node's certificate, read.
    pub(crate) leaf: Leaf,
    /// The authority that signed it.
    pub(crate) issuer: Digest,
    peer_client: Arc<ClientConfig>,
    peer_server: Arc<ServerConfig>,
    api_server: Arc<ServerConfig>,
}

impl Tls {
    /// Configures.
    ///
    /// # Errors
    /// Certificate and key do not fit each other or the authorities.
    pub(crate) fn new(material: &Material) -> Result<Arc<Self>, IdentityError> {
        let configured = configure(material)?;
        let cluster = configured.leaf.cluster.clone();
        Ok(Arc::new(Self { cluster, current: ArcSwap::from_pointee(configured) }))
    }

    /// Configures anew; connections that are open are not touched.
    ///
    /// # Errors
    /// As [`new`](Self::new); what was goes on.
    pub(crate) fn renew(&self, material: &Material) -> Result<(), IdentityError> {
        self.current.store(Arc::new(configure(material)?));
        Ok(())
    }

    /// The cluster that the certificate names.
    pub(crate) fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// The present configuration.
    pub(crate) fn now(&self) -> Arc<Configured> {
        self.current.load_full()
    }

    /// For connections to other nodes.
    pub(crate) fn peer_client(&self) -> Arc<ClientConfig> {
        self.now().peer_client.clone()
    }

    /// For the peer port: strangers get through the handshake too, since a node that joins has
    /// no certificate yet. What they may ask is decided at the gate.
    pub(crate) fn peer_server(&self) -> Arc<ServerConfig> {
        self.now().peer_server.clone()
    }

    /// For the API port.
    pub(crate) fn api_server(&self) -> Arc<ServerConfig> {
        self.now().api_server.clone()
    }
}

/// The cryptography that everything here uses: ring, which needs nothing but a C compiler.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For a connection to a cluster of which only the fingerprint of its authority is known.
pub(crate) fn pinned_client(authority: Digest) -> Arc<ClientConfig> {
    let verifier = Arc::new(Pinned { authority, provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring does TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn configure(material: &Material) -> Result<Configured, IdentityError> {
    let leaf = Leaf::read(&material.certificate)?;
    let mut roots = RootCertStore::empty();
    for authority in &material.trust.authorities {
        let certificate = CertificateDer::from(authority.certificate.clone());
        roots.add(certificate).map_err(|error| invalid("an authority", &error))?;
    }
    let roots = Arc::new(roots);
    let chain = chain(material);
    let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(material.key.to_vec()));
    let own = |error: rustls::Error| invalid("this node's certificate", &error);

    let mut peer_client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(own)?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), key())
        .map_err(own)?;
    peer_client.alpn_protocols = vec![PEER_ALPN.to_vec()];
    // A resumed session would not look at the other's certificate again.
    peer_client.resumption = Resumption::disabled();

    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| IdentityError::Invalid(format!("the authorities: {error}")))?;
    let mut peer_server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(own)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key())
        .map_err(own)?;
    peer_server.alpn_protocols = vec![PEER_ALPN.to_vec()];
    peer_server.send_tls13_tickets = 0;

    let mut api_server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(own)?
        .with_no_client_auth()
        .with_single_cert(chain, key())
        .map_err(own)?;
    api_server.alpn_protocols = API_ALPN.iter().map(|name| name.to_vec()).collect();

    Ok(Configured {
        leaf,
        issuer: material.issuer,
        peer_client: Arc::new(peer_client),
        peer_server: Arc::new(peer_server),
        api_server: Arc::new(api_server),
    })
}

/// The certificate, what leads from an older authority to its issuer, and the authorities
/// themselves: who knows one of them by its fingerprint finds it here.
fn chain(material: &Material) -> Vec<CertificateDer<'static>> {
    let issuer = material.trust.authority(material.issuer);
    let cross = issuer.and_then(|issuer| issuer.cross.clone());
    let roots = material.trust.authorities.iter().map(|known| known.certificate.clone());
    let all = [material.certificate.clone()].into_iter().chain(cross).chain(roots);
    all.map(CertificateDer::from).collect()
}

/// Trusts the authority of one fingerprint, which the other end shows in its chain.
#[derive(Debug)]
struct Pinned {
    authority: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let pinned = intermediates.iter().find(|shown| Digest::of(shown) == self.authority);
        let mut roots = RootCertStore::empty();
        roots.add(pinned.ok_or_else(unknown)?.clone().into_owned()).map_err(|_| unknown())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn invalid(what: &str, error: &rustls::Error) -> IdentityError {
    IdentityError::Invalid(format!("{what}: {error}"))
}
