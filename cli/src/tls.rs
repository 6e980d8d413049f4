//! TLS to a node: its certificate must be of the cluster that the user holds credentials of.
//!
//! Every node's certificate carries one name besides its own hosts. Only that name is looked at, so
//! that one credentials file is good for every address by which a node is reached, through tunnels
//! and published ports too. What makes a node one of this cluster is the signature of its CA.

use std::sync::Arc;

use http::Uri;
use hyper_util::rt::TokioIo;
use nigh_model::Kind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::failure::{Failure, Result};

/// The name that the certificates of all nodes carry.
const NODE_NAME: &str = "nigh.internal";
/// What is spoken over it.
const ALPN_H2: &[u8] = b"h2";
/// Where an API is that an address names without a port.
const PORT_DEFAULT: u16 = 7400;

/// What TLS is spoken with, to the nodes of the cluster with this CA.
pub(crate) fn client(ca: &str) -> Result<Arc<ClientConfig>> {
    let bad = |why: String| Failure::usage("the credentials hold no CA that can be used").why(why);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("`ca` holds no certificate in PEM".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Failure::internal(format!("no TLS: {error}")))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// Connects to the host and port of a URL.
pub(crate) async fn connect(
    config: Arc<ClientConfig>,
    to: Uri,
) -> std::io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = to.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let stream = TcpStream::connect((host, to.port_u16().unwrap_or(PORT_DEFAULT))).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(NODE_NAME).map_err(std::io::Error::other)?;
    Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// What went wrong with TLS, if it was that.
pub(crate) fn failure(address: &str, error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let error = rustls_error(error)?;
    let failure = match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Failure::new(Kind::Denied, format!("the certificate of {address} has expired"))
                    .hint("nodes renew theirs by themselves: see the clocks of both machines, and the node's log")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Failure::new(Kind::Denied, format!("the certificate of {address} is not valid yet"))
                    .hint("see the clocks of both machines")
            }
            _ => Failure::new(Kind::Denied, format!("{address} is no node of your cluster"))
                .hint("name the file of its own cluster with --credentials, or another address with --api"),
        },
        rustls::Error::InvalidMessage(_) => {
            Failure::new(Kind::Invalid, format!("{address} does not speak TLS"))
                .hint("--api takes the API address of a node, port 7400 unless it was moved")
        }
        _ => Failure::new(Kind::Denied, format!("no TLS with {address}")),
    };
    Some(failure.why(error.to_string()))
}

/// The error of TLS among those that lie under this one.
fn rustls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What an I/O error wraps is not its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_that_is_none_is_refused() {
        for bad in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(client(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_found_below_other_errors() {
        let of = |error: rustls::Error| {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            failure("a:1", &std::io::Error::other(error)).map(|failure| failure.to_string())
        };
        let foreign = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(of(foreign).unwrap().contains("no node of your cluster"));
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert!(of(expired).unwrap().contains("has expired"));
        assert!(failure("a:1", &std::io::Error::other("refused")).is_none());
    }
}
