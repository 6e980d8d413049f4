//! One connection of a caller of functions, from what is spoken on it to its end.
//!
//! Over HTTP/1.1, a connection on which nothing happens gives back what it has room for: its buffers, and all else
//! that only requests need. What is left waits for the next byte. Callers keep many more connections than they use.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::http::{Connection, HttpBody};
use super::listen::aside;
use super::pulse::{Beat, IDLE_MAX, LOOK, Pulse, Seen, Verdict};
use super::servers::Servers;
use super::socket::{PREFACE, Socket};
use crate::stopping::Stopping;
use crate::telemetry::Metrics;

/// By then a scheduler has told of bytes that had come when the node closed: a call may be in them.
const READ_BY_THEN: Duration = Duration::from_millis(100);

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("no request came in time")]
    Late,
    #[error(transparent)]
    Lost(#[from] std::io::Error),
}

/// Serves one connection to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    servers: &Servers,
    stream: S,
    connection: Connection,
    gateway: Gateway,
    stopping: Stopping,
) {
    let metrics = gateway.core().metrics.clone();
    metrics.connections().inc();
    let connection = Arc::new(connection);
    let caller = Arc::clone(&connection);
    let mut socket = Socket::new(stream);
    let pulse = Arc::clone(socket.pulse());
    let begun = tokio::select! {
        biased;
        begun = begins(&mut socket) => begun.map(Some),
        () = closed(&stopping.closing) => Ok(None),
    };
    let ended = match begun {
        Ok(None) => Ok(()),
        Ok(Some(spoken)) => {
            let calls = Calls(Arc::new(Common {
                gateway,
                connection,
                pulse,
                // Shared with no other connection: a token has a lock inside, which all threads of guests would
                // take.
                leaving: stopping.leaving.child_token(),
                is_gathered: nigh_runtime::gathers(),
                called: Notify::new(),
                stopping,
            }));
            match spoken {
                Spoken::Http1 => serve_http1(servers, socket, calls, &metrics).await,
                Spoken::Http2 => Box::pin(serve_http2(servers, socket, calls)).await,
            }
        }
        Err(error) => Err(Ended::Lost(error)),
    };
    metrics.connections().dec();
    if let Err(error) = ended {
        // A caller that goes, or sends what is no HTTP, is nothing to look into.
        tracing::debug!(from = ?caller.from, %error, "connection ended");
    }
}

/// Waits until the node closes, and what had come by then could be read.
async fn closed(closing: &CancellationToken) {
    closing.cancelled().await;
    sleep(READ_BY_THEN).await;
}

/// Which HTTP a caller speaks.
enum Spoken {
    Http1,
    Http2,
}

/// Waits for the first bytes, which say it.
async fn begins<S: AsyncRead + Unpin>(socket: &mut Socket<S>) -> std::io::Result<Spoken> {
    let mut first = [0; PREFACE.len()];
    let mut length = 0;
    while length < first.len() && PREFACE.starts_with(&first[..length]) {
        let came = socket.read(&mut first[length..]).await?;
        if came == 0 {
            break;
        }
        length += came;
    }
    socket.unread(Bytes::copy_from_slice(&first[..length]));
    Ok(if first[..length] == *PREFACE { Spoken::Http2 } else { Spoken::Http1 })
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    servers: &Servers,
    socket: Socket<S>,
    calls: Calls,
) -> Result<(), Ended> {
    let common = Arc::clone(&calls.0);
    let told = async move {
        // Such a connection is told by GOAWAY that it ends, and loses nothing. One over HTTP/1.1 is told with its
        // next answer. Who comes when the node already leaves knows no other: a first call is answered.
        let leaves = async {
            common.called.notified().await;
            common.stopping.leaving.cancelled().await;
        };
        tokio::select! {
            () = common.stopping.closing.cancelled() => {}
            () = leaves => {}
        }
    };
    let mut told = aside(told);
    let mut connection = Box::pin(servers.http2.serve_connection(TokioIo::new(socket), calls));
    tokio::select! {
        biased;
        ended = connection.as_mut() => Ok(ended?),
        _ = told.next() => {
            connection.as_mut().graceful_shutdown();
            Ok(connection.await?)
        }
    }
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    servers: &Servers,
    mut socket: Socket<S>,
    calls: Calls,
    metrics: &Metrics,
) -> Result<(), Ended> {
    let closing = calls.0.stopping.closing.clone();
    let mut seen = Seen::default();
    loop {
        let connection = servers.http1.serve_connection(TokioIo::new(socket), calls.clone());
        // What it needs is given back when it is idle.
        let going = Box::pin(go_on(connection, &calls.0.pulse, &mut seen, &closing));
        let Some((idle, unread)) = going.await? else { return Ok(()) };
        socket = idle;
        if !unread.is_empty() {
            // A part of a head.
            socket.unread(unread);
            continue;
        }
        // Empty, it still holds the buffer.
        drop(unread);
        let mut first = [0; 16];
        metrics.parked().inc();
        let came = tokio::select! {
            biased;
            came = timeout(IDLE_MAX, socket.read(&mut first)) => came,
            () = closed(&closing) => Ok(Ok(0)),
        };
        metrics.parked().dec();
        match came {
            // The caller has gone, or nobody waits for it any more.
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(came) => socket.unread(Bytes::copy_from_slice(&first[..came?])),
        }
        seen = Seen::default();
    }
}

/// Lets a connection go on until it ends, or has nothing to do: then what it is made of, and what it has read and not
/// understood.
async fn go_on<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    mut connection: http1::Connection<TokioIo<Socket<S>>, Calls>,
    pulse: &Pulse,
    seen: &mut Seen,
    closing: &CancellationToken,
) -> Result<Option<(Socket<S>, Bytes)>, Ended> {
    let mut told = aside(closing.cancelled());
    let mut looks = FuturesUnordered::from_iter([sleep(LOOK)]);
    let idle = std::future::poll_fn(|context| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
            return Poll::Ready(ended.map(|()| false).map_err(Ended::Http));
        }
        if told.poll_next_unpin(context) == Poll::Ready(Some(())) {
            Pin::new(&mut connection).graceful_shutdown();
            context.waker().wake_by_ref();
        }
        while looks.poll_next_unpin(context) == Poll::Ready(Some(())) {
            match seen.look(pulse) {
                Verdict::Going => looks.push(sleep(LOOK)),
                Verdict::Idle => return Poll::Ready(Ok(true)),
                Verdict::Late => return Poll::Ready(Err(Ended::Late)),
            }
        }
        Poll::Pending
    })
    .await?;
    Ok(idle.then(|| {
        let parts = connection.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }))
}

/// What all calls over a connection have in common.
struct Common {
    gateway: Gateway,
    connection: Arc<Connection>,
    pulse: Arc<Pulse>,
    leaving: CancellationToken,
    is_gathered: bool,
    /// Told of calls over HTTP/2.
    called: Notify,
    stopping: Stopping,
}

/// Answers what comes over a connection.
#[derive(Clone)]
struct Calls(Arc<Common>);

impl Service<Request<Incoming>> for Calls {
    type Response = Response<Watched>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let is_h1 = request.version() < http::Version::HTTP_2;
        let common = Arc::clone(&self.0);
        common.stopping.came();
        if !is_h1 {
            common.called.notify_one();
        }
        let beat = common.pulse.begins(!request.body().is_end_stream());
        // Boxed: a connection without a call has no room for one.
        Box::pin(async move {
            let Common { gateway, connection, pulse, leaving, is_gathered, .. } = &*common;
            let request = request.map(|body| Asked { body, pulse: Arc::clone(pulse) });
            let mut response = gateway.http(request, connection).await;
            if !is_gathered || !is_h1 {
                // Other calls that have come to this thread run first: answers are then written one
                // after the other, and a caller with many of them wakes up once.
                tokio::task::yield_now().await;
            }
            if is_h1 && leaving.is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(response.map(|body| Watched { body, _beat: beat }))
        })
    }
}

/// The body of a request, whose end is known to its connection.
pub(super) struct Asked {
    body: Incoming,
    pulse: Arc<Pulse>,
}

impl Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(context);
        if matches!(poll, Poll::Ready(None)) || self.body.is_end_stream() {
            self.pulse.read();
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, whose end is known to its connection.
pub(super) struct Watched {
    body: HttpBody,
    _beat: Beat,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = <HttpBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
