//! The other end of a line: the frames of a call out of a request's body, and those of its answer into one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body as _, Frame};
use nigh_model::limits::GRPC_MESSAGE_BYTES_MAX;
use nigh_proto::peer::v1::{AnswerFrame, CallFrame};
use tonic::Status;
use tonic::body::Body;

use super::connect::ROUND_BYTES;
use super::messages::{Messages, put};

/// How an exchange went: 0 is well.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The frames of a call.
pub(crate) struct Call {
    body: Body,
    messages: Messages,
}

impl Call {
    /// Out of what came with a request.
    pub(crate) fn new(body: Body) -> Self {
        Self { body, messages: Messages::new(GRPC_MESSAGE_BYTES_MAX) }
    }
}

impl Stream for Call {
    type Item = Result<CallFrame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { body, messages } = self.get_mut();
        messages.poll(|| {
            while let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(context)) {
                // A call has no trailers.
                if let Ok(data) = frame?.into_data() {
                    return Poll::Ready(Ok(Some(data)));
                }
            }
            Poll::Ready(Ok(None))
        })
    }
}

/// An answer of these frames, as the body of a response; `opens` goes ahead of it.
pub(crate) fn response<F>(frames: F, opens: Option<HeaderName>) -> Response<Body>
where
    F: Stream<Item = AnswerFrame> + Send + Unpin + 'static,
{
    let frames = Frames { frames, bytes: BytesMut::new(), ended: false, told: false };
    let mut response = Response::new(Body::new(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(name) = opens {
        headers.insert(name, HeaderValue::from_static("1"));
    }
    response
}

/// Frames as bytes, many at once where they are there; that the exchange went well comes last.
struct Frames<F> {
    frames: F,
    bytes: BytesMut,
    ended: bool,
    told: bool,
}

impl<F: Stream<Item = AnswerFrame> + Unpin> http_body::Body for Frames<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        while !this.ended && this.bytes.len() < ROUND_BYTES {
            match this.frames.poll_next_unpin(context) {
                Poll::Ready(Some(frame)) => put(&frame, &mut this.bytes),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => break,
            }
        }
        if !this.bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.bytes.split().freeze()))));
        }
        if !this.ended {
            return Poll::Pending;
        }
        if this.told {
            return Poll::Ready(None);
        }
        this.told = true;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.told
    }
}
