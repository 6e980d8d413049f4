//! A connection to another node, from its addresses to the last of its handshakes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::NodeId;
use nigh_runtime::Gathered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::at_once::AtOnce;
use super::delay::Delayed;
use super::dial::Way;
use crate::identity::{Tls, server_name};

/// A connection that is not there by then will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of calls and answers of one connection that are handed to the kernel at once.
pub(super) const ROUND_BYTES: usize = 32 << 10;

/// The bytes of a connection.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bytes for S {}
pub(super) type Stream = AtOnce<Box<dyn Bytes>>;

/// How a node is connected to.
#[derive(Clone)]
pub(super) struct Connector {
    /// None: whichever node of the cluster is there.
    pub(super) to: Option<NodeId>,
    /// Where it is.
    pub(super) way: Arc<Way>,
    /// None only in tests of what goes through the connections.
    pub(super) tls: Option<Arc<Tls>>,
    /// What bytes are made to take from here to there; zero: as long as they do.
    pub(super) delay: Duration,
}

impl Connector {
    /// By then a connection is there, or will not be.
    pub(super) fn time_limit(&self) -> Duration {
        // TCP and TLS take a round trip each.
        CONNECT_TIMEOUT + 4 * self.delay
    }

    /// Connects.
    ///
    /// # Errors
    /// No address answers, or who does is not who was meant.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        let dialed = self.way.dial().await?;
        dialed.stream.set_nodelay(true)?;
        // A handshake takes a round trip as well.
        tokio::time::sleep(2 * self.delay).await;
        let stream = Gathered::with_room(dialed.stream, ROUND_BYTES);
        let stream: Box<dyn Bytes> = match self.delay.is_zero() {
            true => Box::new(stream),
            false => Box::new(Delayed::new(stream, self.delay)),
        };
        let Some(tls) = &self.tls else {
            self.way.worked(dialed.at);
            return Ok(AtOnce(stream));
        };
        let name = server_name(self.to, tls.cluster());
        match TlsConnector::from(tls.peer_client()).connect(name, stream).await {
            Ok(stream) => {
                self.way.worked(dialed.at);
                Ok(AtOnce(Box::new(stream)))
            }
            Err(error) => {
                // Another node may stand there, in another network.
                self.way.failed(dialed.at);
                Err(error)
            }
        }
    }
}
