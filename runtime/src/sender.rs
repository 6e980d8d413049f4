//! Sends one outbound request over a connection of its own: TCP, for `https` TLS on it, HTTP/1.1.
//!
//! It deliberately does not know which requests are allowed, nor when the call ends.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, Result, WasiBody};

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Resolving the name, connecting and agreeing on TLS.
    pub(crate) connect: Duration,
    /// From the request to the head of its answer.
    pub(crate) first_byte: Duration,
    /// Between two pieces of the answer's body.
    pub(crate) between_bytes: Duration,
}

/// Drives the connection until it ends; the body of the answer needs it.
pub(crate) type Io = Box<dyn Future<Output = Result<()>> + Send>;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Sends a request and waits for the head of its answer. `tls` says how `https` is spoken.
pub(crate) async fn send(
    mut request: Request<WasiBody>,
    times: Times,
    tls: impl FnOnce() -> Option<Arc<ClientConfig>>,
) -> Result<(Response<WasiBody>, Io)> {
    let connected = timeout(times.connect, connect(request.uri(), tls)).await;
    let wire = TokioIo::new(connected.map_err(|_| Error::ConnectionTimeout)??);
    let (mut sender, connection) = http1::handshake(wire).await?;
    // Scheme and authority are for proxies only.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));

    let mut connection = Box::pin(connection);
    let mut ended = false;
    let response = {
        let mut response = pin!(timeout(times.first_byte, sender.send_request(request)));
        loop {
            tokio::select! {
                biased;
                response = &mut response => {
                    break response.map_err(|_| Error::ConnectionReadTimeout)??;
                }
                end = &mut connection, if !ended => {
                    ended = true;
                    end?;
                }
            }
        }
    };
    let io = async move {
        if !ended {
            connection.await?;
        }
        Ok(())
    };
    let body = |incoming| Patient::new(incoming, times.between_bytes).boxed_unsync();
    Ok((response.map(body), Box::new(io)))
}

async fn connect(
    uri: &Uri,
    tls: impl FnOnce() -> Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Wire>> {
    let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
    let is_https = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await.map_err(Error::Connect)?;
    if !is_https {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned());
    let name =
        name.map_err(|error| Error::DnsError { rcode: Some(error.to_string()), info_code: None })?;
    let config = tls().ok_or(Error::ConfigurationError)?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(Error::Tls)?;
    Ok(Box::new(stream))
}

/// The body of an answer; it breaks off when no piece of it comes for too long.
struct Patient {
    incoming: Incoming,
    between: Duration,
    late: Pin<Box<Sleep>>,
}

impl Patient {
    fn new(incoming: Incoming, between: Duration) -> Self {
        Self { incoming, between, late: Box::pin(sleep(between)) }
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(frame) => {
                let next = Instant::now() + self.between;
                self.late.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending if self.late.as_mut().poll(context).is_ready() => {
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests;
