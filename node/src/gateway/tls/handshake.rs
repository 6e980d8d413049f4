//! Agrees on TLS with a caller, in time, with the certificate of the host that it names.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nigh_runtime::Gathered;
use rustls::crypto::ring::Ticketer;
use rustls::server::Acceptor;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Certificates, refuse_plain};
use crate::identity::provider;
use crate::telemetry::Metrics;

/// The first byte of a TLS handshake (RFC 8446 §5.1).
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// TLS must be agreed on by then: a few round trips, with a guess for slow links.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// What is spoken inside, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why TLS was not agreed on, in the order of `names::HTTPS_WHY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unagreed {
    /// The caller spoke something else.
    NoTls,
    /// It took too long.
    Late,
    /// The caller went away in between.
    Gone,
    /// No version, cipher or protocol is common to both.
    NothingShared,
    /// The caller did not like what it was shown, mostly the certificate.
    Refused,
    /// What the caller sent is no proper handshake.
    Malformed,
}

/// What handshakes with callers have in common.
pub(crate) struct Handshakes {
    config: Arc<ServerConfig>,
    metrics: Metrics,
}

impl Handshakes {
    /// With the certificates of each moment.
    ///
    /// # Errors
    /// No key can be drawn for tickets.
    pub(crate) fn new(
        certificates: Arc<Certificates>,
        metrics: Metrics,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        // A session is resumed by what the caller keeps, sealed with a key of this node alone that
        // changes every 6 hours. Early data stays off: it can be replayed.
        config.ticketer = Ticketer::new()?;
        Ok(Self { config: Arc::new(config), metrics })
    }

    /// Agrees on TLS; `on_host` is told of the host that the caller names, before the rest goes on.
    /// Counts how it ends. None: the connection is over.
    pub(crate) async fn agree<T>(
        &self,
        stream: TcpStream,
        on_host: impl FnOnce(&str) -> T,
    ) -> Option<(TlsStream<Gathered>, Option<T>)> {
        let began = Instant::now();
        let agreed = timeout(WAIT_MAX, self.begin(stream, on_host)).await;
        let why = match agreed {
            Ok(Ok((stream, told))) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                self.metrics.handshake(resumed, began.elapsed());
                return Some((stream, told));
            }
            // A probe that only connects.
            Ok(Err(None)) => return None,
            Ok(Err(Some(why))) => why,
            Err(_) => Unagreed::Late,
        };
        self.metrics.handshake_failed(why);
        None
    }

    async fn begin<T>(
        &self,
        stream: TcpStream,
        on_host: impl FnOnce(&str) -> T,
    ) -> Result<(TlsStream<Gathered>, Option<T>), Option<Unagreed>> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return Err(None),
            Ok(_) => {}
        }
        if first[0] != TLS_HANDSHAKE {
            refuse_plain(stream).await;
            return Err(Some(Unagreed::NoTls));
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), Gathered::new(stream));
        let hello = hello.await.map_err(|error| Some(why(&error)))?;
        let told = hello.client_hello().server_name().map(on_host);
        let stream = hello.into_stream(Arc::clone(&self.config));
        let stream = stream.await.map_err(|error| Some(why(&error)))?;
        Ok((stream, told))
    }
}

fn why(error: &io::Error) -> Unagreed {
    // Strangers are nothing to look into; the metric says how many there are.
    tracing::debug!(%error, "no TLS with a caller");
    let within = error.get_ref().and_then(|within| within.downcast_ref::<rustls::Error>());
    match within {
        None => Unagreed::Gone,
        Some(rustls::Error::AlertReceived(_)) => Unagreed::Refused,
        Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => {
            Unagreed::NothingShared
        }
        Some(_) => Unagreed::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::super::testing::made;
    use super::*;

    /// What becomes of a caller that sends this and then waits, by the metrics.
    async fn met(sent: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        made(&["a.test"]).put(folder.path(), "a");
        let (certificates, _) = Certificates::open(folder.path().to_owned()).unwrap();
        let metrics = Metrics::new();
        let handshakes = Handshakes::new(certificates, metrics.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        caller.write_all(sent).await.unwrap();
        tokio::time::pause();
        assert!(handshakes.agree(stream, |_| ()).await.is_none());
        tokio::time::resume();
        drop(caller);
        metrics.render()
    }

    fn counted(page: &str, why: &str) -> bool {
        let line = format!("nigh_https_handshakes_failed_total{{why=\"{why}\"}} 1");
        page.lines().any(|known| known == line)
    }

    #[tokio::test]
    async fn who_does_not_begin_or_stops_midway_is_not_waited_for() {
        for sent in [&b""[..], &[TLS_HANDSHAKE, 3, 1]] {
            let page = met(sent).await;
            assert!(counted(&page, "late"), "{page}");
        }
    }

    #[tokio::test]
    async fn noise_that_looks_like_tls_is_malformed() {
        let page = met(&[TLS_HANDSHAKE, 3, 1, 0, 4, 99, 0, 0, 0]).await;
        assert!(counted(&page, "malformed"), "{page}");
    }
}
