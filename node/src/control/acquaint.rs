//! The first connection of a node that belongs to no cluster yet: it knows the fingerprint of
//! the cluster's authority from its token, and nothing else.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use nigh_model::Digest;
use rustls::{AlertDescription, CertificateError, InvalidMessage};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::identity::{any_server_name, pinned_client};

/// A connection that is not there by then will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why no connection was made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotMet {
    /// Nothing answers, for now.
    Silent(String),
    /// What answers is no node of the cluster that is meant.
    Foreign(String),
}

/// Connects to a peer port, and makes sure that it belongs to the cluster of this authority.
///
/// # Errors
/// Nothing answers there, or something else does.
pub(super) async fn connect(address: &str, authority: Digest) -> Result<Channel, NotMet> {
    let met = tokio::time::timeout(CONNECT_TIMEOUT, meet(address, authority));
    let stream =
        met.await.unwrap_or_else(|_| Err(NotMet::Silent("no answer within 3 s".to_owned())))?;
    // One connection, made already: should it break, the caller asks anew.
    let mut stream = Some(TokioIo::new(stream));
    let channel = Endpoint::from_static("http://peer")
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
            std::future::ready(stream.map_err(std::io::Error::from))
        }))
        .await;
    channel.map_err(|error| NotMet::Silent(error.to_string()))
}

async fn meet(
    address: &str,
    authority: Digest,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, NotMet> {
    let silent = |error: std::io::Error| NotMet::Silent(error.to_string());
    let stream = TcpStream::connect(address).await.map_err(silent)?;
    stream.set_nodelay(true).map_err(silent)?;
    let connector = TlsConnector::from(pinned_client(authority));
    connector.connect(any_server_name(), stream).await.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner.map_or_else(|| NotMet::Silent(error.to_string()), judge)
    })
}

/// What a failed handshake says of the other end.
fn judge(error: &rustls::Error) -> NotMet {
    let foreign = |why: &str| NotMet::Foreign(why.to_owned());
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            foreign("it does not speak TLS: is this its HTTP port?")
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => {
            foreign("it speaks TLS, but not as a node to nodes: is this its API port?")
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => foreign(
            "it is not of the cluster that made the join token, or that cluster has replaced \
             its authority since",
        ),
        rustls::Error::InvalidCertificate(why) => {
            NotMet::Foreign(format!("its certificate is not valid: {why}"))
        }
        error => NotMet::Silent(error.to_string()),
    }
}
