//! Calls to one node over one connection: each is a stream of HTTP/2, whose frames the task of the call writes and
//! reads by itself. What is spoken is gRPC, as anywhere between nodes.
//!
//! It does not know what a call is; `gateway/forward.rs` does.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt as _, Shared};
use futures::{Stream, StreamExt as _};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use nigh_model::limits::GRPC_MESSAGE_BYTES_MAX;
use nigh_proto::peer::v1::{AnswerFrame, CallFrame};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::connect::{Connector, ROUND_BYTES};
use super::messages::{Messages, put};
use super::pool::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, WINDOW_BYTES};

/// What a call asks for.
const CALL: &str = "http://peer/nigh.peer.v1.Invoke/Call";

/// The connection for calls to one node: made with the first, made anew when it has broken. A clone is the same.
#[derive(Clone)]
pub(crate) struct Line(Arc<Inner>);

struct Inner {
    connector: Connector,
    head: Request<()>,
    state: Mutex<State>,
}

/// A connection that is made, for all who wait for it.
type Making = Shared<BoxFuture<'static, Result<SendRequest<Bytes>, Status>>>;

enum State {
    Closed,
    Making(Making),
    Open(SendRequest<Bytes>),
}

/// An answer that has begun.
pub(crate) struct Opened {
    /// What came ahead of it.
    pub(crate) headers: HeaderMap,
    /// Its frames.
    pub(crate) frames: Answer,
}

impl Line {
    pub(super) fn new(connector: Connector) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = Uri::from_static(CALL);
        head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        Self(Arc::new(Inner { connector, head, state: Mutex::new(State::Closed) }))
    }

    /// Sends the frames of a call and waits until its answer begins. What is not sent by then goes on beside it.
    ///
    /// # Errors
    /// The node cannot be reached, or its connection broke, or it refuses.
    pub(crate) async fn call<F>(&self, frames: F) -> Result<Opened, Status>
    where
        F: Stream<Item = CallFrame> + Send + Unpin + 'static,
    {
        let (response, stream) = self.open().await?;
        let mut sending = Sending { frames, stream, bytes: BytesMut::new(), ended: false };
        // Most calls are sent at once and need no task for that.
        let sent = poll_fn(|context| Poll::Ready(Pin::new(&mut sending).poll(context)));
        let sending = match sent.await {
            Poll::Ready(()) => None,
            Poll::Pending => Some(AbortOnDropHandle::new(tokio::spawn(sending))),
        };
        let (head, body) = response.await?.into_parts();
        match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            None if head.status != StatusCode::OK => {
                return Err(Status::unknown(format!("the node answers with {}", head.status)));
            }
            _ => {}
        }
        let messages = Messages::new(GRPC_MESSAGE_BYTES_MAX);
        let frames = Answer { body, messages, _sending: sending };
        Ok(Opened { headers: head.headers, frames })
    }

    /// A stream over the connection that is there, or over a new one.
    async fn open(&self) -> Result<(ResponseFuture, SendStream<Bytes>), Status> {
        // A connection that has ended says so here, before anything is sent.
        if let Some(mut there) = self.there()
            && let Ok(opened) = there.send_request(self.0.head.clone(), false)
        {
            return Ok(opened);
        }
        let mut made = self.making().await?;
        Ok(made.send_request(self.0.head.clone(), false)?)
    }

    fn there(&self) -> Option<SendRequest<Bytes>> {
        match &*self.state() {
            State::Open(there) => Some(there.clone()),
            _ => None,
        }
    }

    /// What makes a connection, or has just made one.
    fn making(&self) -> Making {
        let mut state = self.state();
        // One that has ended and left this behind was cut off.
        if let State::Making(making) = &*state
            && making.peek().is_none()
        {
            return making.clone();
        }
        let line = self.clone();
        // A task of its own: who waits for it may go.
        let making = tokio::spawn(async move {
            let made = line.0.connector.open().await;
            *line.state() = match &made {
                Ok(made) => State::Open(made.clone()),
                Err(_) => State::Closed,
            };
            made.map_err(|error| Status::unavailable(error.to_string()))
        });
        let making = making
            .map(|made| made.unwrap_or_else(|error| Err(Status::internal(error.to_string()))))
            .boxed()
            .shared();
        *state = State::Making(making.clone());
        making
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connector {
    /// Connects for calls; the connection is served by the scheduler that this runs on.
    async fn open(&self) -> io::Result<SendRequest<Bytes>> {
        let opening = async {
            let stream = self.connect().await?;
            let shaken = h2::client::Builder::new()
                .initial_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                // Until the node has said how many it takes.
                .initial_max_send_streams(usize::MAX >> 1)
                // An answer that a caller does not read to its end is broken off, and rightly so.
                .max_local_error_reset_streams(None)
                .enable_push(false)
                .handshake(stream);
            shaken.await.map_err(io::Error::other)
        };
        let opened = timeout(self.time_limit(), opening).await;
        let (requests, mut connection) =
            opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let pings = connection.ping_pong();
        let served = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to another node ended");
            }
        });
        if let Some(pings) = pings {
            tokio::spawn(async move {
                silence(pings).await;
                // All that waits on it ends with it.
                served.abort();
            });
        }
        Ok(requests)
    }
}

/// Asks for a sign of life every now and then, until none comes.
async fn silence(mut pings: PingPong) {
    loop {
        sleep(KEEP_ALIVE_INTERVAL).await;
        let answer = timeout(KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(answer, Ok(Ok(_))) {
            return;
        }
    }
}

/// Sends the frames of a call as they come, many at once where they are there.
struct Sending<F> {
    frames: F,
    stream: SendStream<Bytes>,
    bytes: BytesMut,
    ended: bool,
}

impl<F: Stream<Item = CallFrame> + Unpin> Future for Sending<F> {
    type Output = ();

    /// An error here is one of the answer as well, which says it.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            while !this.ended && this.bytes.len() < ROUND_BYTES {
                match this.frames.poll_next_unpin(context) {
                    Poll::Ready(Some(frame)) => put(&frame, &mut this.bytes),
                    Poll::Ready(None) => this.ended = true,
                    Poll::Pending => break,
                }
            }
            if this.bytes.is_empty() && !this.ended {
                return this.stream.poll_reset(context).map(drop);
            }
            if ready!(this.poll_room(context)).is_err() {
                return Poll::Ready(());
            }
            let sent = this.stream.send_data(this.bytes.split().freeze(), this.ended);
            if sent.is_err() || this.ended {
                return Poll::Ready(());
            }
        }
    }
}

impl<F> Sending<F> {
    /// Ready when the node takes more. What is handed over is kept until then, so it is not more than once that it
    /// is too much.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.stream.reserve_capacity(self.bytes.len().max(1));
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(context) {
                Poll::Ready(Some(room)) => room?,
                Poll::Ready(None) => return Poll::Ready(Err(Reason::CANCEL.into())),
                Poll::Pending => {
                    return self.stream.poll_reset(context).map(|why| Err(why?.into()));
                }
            };
        }
        Poll::Ready(Ok(()))
    }
}

/// The frames of an answer.
pub(crate) struct Answer {
    body: RecvStream,
    messages: Messages,
    /// The rest of the call; ends with this.
    _sending: Option<AbortOnDropHandle<()>>,
}

impl Stream for Answer {
    type Item = Result<AnswerFrame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { body, messages, .. } = self.get_mut();
        messages.poll(|| match ready!(body.poll_data(context)) {
            Some(Ok(data)) => {
                // It fails for a stream that has ended: then there is nothing to make room for.
                let _ = body.flow_control().release_capacity(data.len());
                Poll::Ready(Ok(Some(data)))
            }
            // The node has no use for the rest of the call.
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Poll::Ready(Ok(None)),
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            None => {
                let trailers = ready!(body.poll_trailers(context))?.unwrap_or_default();
                let said = Status::from_header_map(&trailers);
                let failed = said.filter(|status| status.code() != Code::Ok);
                Poll::Ready(failed.map_or(Ok(None), Err))
            }
        })
    }
}
