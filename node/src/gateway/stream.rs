//! Calls over gRPC with bodies streamed both ways: messages to a body, and a body to messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use nigh_proto::v1::invoke_stream_request::Part as Asked;
use nigh_proto::v1::invoke_stream_response::Part;
use nigh_proto::{convert, v1};
use nigh_runtime::{BodyError, RequestBody};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::body::AnswerBody;
use super::forward::pieces;
use super::problem::Problem;
use super::reasons;

/// A stream that does not begin by then is no call.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// The messages of an answer.
pub(crate) struct Answers {
    head: Option<v1::InvokeResponse>,
    body: AnswerBody,
    /// Pieces of a chunk that was too large for one message, last first.
    waiting: Vec<Bytes>,
    /// Told last.
    execution: Option<v1::Execution>,
    done: bool,
}

/// Takes the head of a call; the rest of its messages are its body.
pub(super) async fn opened(
    mut messages: Streaming<v1::InvokeStreamRequest>,
) -> Result<(v1::InvokeRequest, RequestBody), Status> {
    let bad = |why| Problem::new(reasons::INVALID_CALL, why).into_status();
    let first = timeout(HEAD_WAIT_MAX, messages.message()).await;
    let first = first.map_err(|_| bad("no head came within 10 s"))??;
    match first.and_then(|message| message.part) {
        Some(Asked::Head(head)) if head.body.is_empty() => Ok((head, body_of(messages))),
        Some(Asked::Head(_)) => Err(bad("the head of a stream holds no body: send chunks")),
        _ => Err(bad("the first message of a stream is its head")),
    }
}

fn body_of(messages: Streaming<v1::InvokeStreamRequest>) -> RequestBody {
    let frames = messages.map(|message| {
        let part = message.map_err(|status| BodyError::Aborted(status.message().to_owned()))?.part;
        match part {
            Some(Asked::Chunk(data)) => Ok(Frame::data(data)),
            Some(Asked::Trailers(trailers)) => convert::header_map(&trailers.headers)
                .map(Frame::trailers)
                .map_err(|error| BodyError::Aborted(error.to_string())),
            Some(Asked::Head(_)) | None => {
                Err(BodyError::Aborted("only the first message is a head".into()))
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// The messages of an answer: head, chunks, trailers, execution.
pub(super) fn answers(response: http::Response<AnswerBody>, execution: v1::Execution) -> Answers {
    let (head, body) = response.into_parts();
    let head = v1::InvokeResponse {
        status: head.status.as_u16().into(),
        headers: convert::headers(&head.headers),
        body: Bytes::new(),
        execution: None,
    };
    Answers { head: Some(head), body, waiting: Vec::new(), execution: Some(execution), done: false }
}

impl Stream for Answers {
    type Item = Result<v1::InvokeStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let part = |part| Poll::Ready(Some(Ok(v1::InvokeStreamResponse { part: Some(part) })));
        if let Some(head) = this.head.take() {
            return part(Part::Head(head));
        }
        if let Some(piece) = this.waiting.pop() {
            return part(Part::Chunk(piece));
        }
        if this.done {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            None => {
                this.done = true;
                match this.execution.take() {
                    Some(execution) => part(Part::Execution(execution)),
                    None => Poll::Ready(None),
                }
            }
            Some(Err(problem)) => {
                this.done = true;
                Poll::Ready(Some(Err(problem.into_status())))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    this.waiting = pieces(data).collect();
                    this.waiting.reverse();
                    part(Part::Chunk(this.waiting.pop().unwrap_or_default()))
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    part(Part::Trailers(v1::Headers { headers: convert::headers(&trailers) }))
                }
            },
        }
    }
}
