//! A call sent to another node: one stream there, one stream back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http::{Response, StatusCode, request};
use http_body::Body as _;
use nigh_model::{Node, RequestId};
use nigh_proto::peer::v1::{AnswerHead, CallFrame, CallHead, answer_frame, call_frame};
use nigh_proto::{convert, status, v1};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::body::AnswerBody;
use super::deadline::{Deadline, GRACE};
use super::problem::Problem;
use super::receive::ACCEPTED;
use super::remote::{From, Remote};
use super::replay::{Reading, Replay};
use super::retry::Ended;
use super::timings::Timings;
use super::{Gateway, reasons};
use crate::decided::Target;
use crate::peer::Answer;
use crate::telemetry::Metrics;

/// A call as it is sent.
pub(crate) struct Outbound<'a> {
    /// What is called.
    pub(crate) target: &'a Target,
    /// Its head, as the guest shall see it.
    pub(crate) head: &'a request::Parts,
    /// Its whole URL.
    pub(crate) url: &'a str,
    /// Its id.
    pub(crate) request_id: &'a RequestId,
    /// When it is over.
    pub(crate) deadline: Deadline,
}

/// An answer of another node.
pub(crate) struct Far {
    /// The answer.
    pub(crate) response: Response<AnswerBody>,
    /// Where its time went there.
    pub(crate) timings: Timings,
    /// Whether it waited for a load.
    pub(crate) cold: bool,
}

/// What became of it.
pub(crate) enum Way {
    /// The function answered.
    Answered(Box<Far>),
    /// A guest ran and failed, or the caller did: there is nothing to try again.
    Failed(Problem),
    /// There is no answer, and another node might give one.
    Ended(Ended, Problem),
}

impl Gateway {
    /// Sends a call to a node and waits for the head of its answer.
    pub(crate) async fn forward(
        &self,
        to: &Node,
        call: Outbound<'_>,
        request: &Arc<Replay>,
    ) -> Way {
        let core = self.core();
        let Some(line) = core.peers.line(to.id, core.engine.threads().here()) else {
            let message = format!("node `{}` has left the cluster", to.name);
            return Way::Ended(Ended::Unreached, Problem::new(reasons::PEER_UNREACHABLE, message));
        };
        let rtt = Duration::from_secs_f64(core.peers.rtt_ms(to.id).unwrap_or(0.0).max(0.0) / 1e3);
        let began = Instant::now();
        let left = Arc::new(AtomicBool::new(false));
        let head = call_head(self, to, &call, call.deadline.budget(began, rtt));
        let outgoing = Outgoing {
            head: Some(head),
            left: Arc::clone(&left),
            body: request.read(),
            ended: false,
        };
        let from = Arc::new(From {
            id: to.id,
            name: to.name.clone(),
            deadline: call.deadline,
            request: Arc::clone(request),
            peers: core.peers.clone(),
        });
        let exchange = async {
            let mut opened = line.call(outgoing).await?;
            if opened.headers.contains_key(ACCEPTED) {
                request.accepted();
            }
            let first = opened.frames.try_next().await?;
            Ok::<_, Status>((opened.frames, first))
        };
        let result = tokio::select! {
            result = timeout_at(call.deadline.at + GRACE, exchange) => match result {
                Ok(result) => result,
                Err(_) => {
                    let doing = "it was on its way there and back";
                    return Way::Failed(call.deadline.problem(&to.name, doing));
                }
            },
            error = poll_fn(|context| request.poll_broken(context)) => {
                return Way::Failed(from.broken(&error));
            }
        };
        match result {
            Ok((frames, first)) => {
                let first = first.and_then(|frame| frame.part);
                opened(frames, first, from, core.metrics.clone())
            }
            Err(status) => self.no_way(&status, to, left.load(Relaxed)),
        }
    }

    /// The call ended without a frame.
    fn no_way(&self, status: &Status, to: &Node, left: bool) -> Way {
        // The node itself refuses to talk to us.
        if let Some(reason) = status::reason(status) {
            let problem = Problem::new(reasons::named(&reason), status.message()).at(&to.name);
            return Way::Ended(Ended::Refused, problem);
        }
        if status.code() != Code::Cancelled {
            self.core().peers.failed(to.id);
        }
        if left {
            let message = format!(
                "the connection to node `{}` broke while the call was there: {}",
                to.name,
                status.message()
            );
            Way::Ended(Ended::Broken, Problem::new(reasons::PEER_LOST, message).at(&to.name))
        } else {
            let message = format!("node `{}` cannot be reached: {}", to.name, status.message());
            Way::Ended(Ended::Unreached, Problem::new(reasons::PEER_UNREACHABLE, message))
        }
    }
}

/// What the first frame of an answer says.
fn opened(
    frames: Answer,
    first: Option<answer_frame::Part>,
    from: Arc<From>,
    metrics: Metrics,
) -> Way {
    match first {
        Some(answer_frame::Part::Head(head)) => match answer_of(head, frames, &from, metrics) {
            Ok(far) => Way::Answered(Box::new(far)),
            Err(problem) => Way::Failed(problem),
        },
        Some(answer_frame::Part::Failed(problem)) => Way::Failed(from.failed(problem)),
        Some(answer_frame::Part::Refused(problem)) => {
            Way::Ended(Ended::Refused, Problem::from(problem).at(&from.name))
        }
        _ => Way::Ended(Ended::Broken, from.lost("it sent no head")),
    }
}

fn answer_of(
    head: AnswerHead,
    frames: Answer,
    from: &Arc<From>,
    metrics: Metrics,
) -> Result<Far, Problem> {
    let us = Duration::from_micros;
    let timings = Timings {
        queue: us(head.queue_us),
        start: us(head.start_us),
        exec: us(head.exec_us),
        ..Timings::default()
    };
    let status = u16::try_from(head.status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| from.lost("it sent a status that is none"))?;
    let headers =
        convert::peer_header_map(&head.headers).map_err(|error| from.lost(&error.to_string()))?;
    let length = headers.get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = AnswerBody::there(Remote::new(frames, Arc::clone(from), length), metrics);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(Far { response, timings, cold: head.cold })
}

fn call_head(gateway: &Gateway, to: &Node, call: &Outbound<'_>, budget: Duration) -> CallHead {
    let core = gateway.core();
    CallHead {
        cluster_id: core.cluster.to_string(),
        from: core.own.0,
        to: to.id.0,
        revision: call.target.function.revision.0,
        function: call.target.function.function.to_string(),
        method: call.head.method.to_string(),
        uri: call.url.to_owned(),
        headers: convert::peer_headers(&call.head.headers),
        request_id: call.request_id.to_string(),
        budget_us: u64::try_from(budget.as_micros()).unwrap_or(u64::MAX),
        app: call.target.app.to_string(),
    }
}

/// The frames of a call: its head, then its body as it comes.
struct Outgoing {
    head: Option<CallHead>,
    /// Set when the head is taken to be sent: from then on a guest may have seen it.
    left: Arc<AtomicBool>,
    body: Reading,
    ended: bool,
}

impl Stream for Outgoing {
    type Item = CallFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<CallFrame>> {
        let frame = |part| Poll::Ready(Some(CallFrame { part: Some(part) }));
        if let Some(head) = self.head.take() {
            self.left.store(true, Relaxed);
            return frame(call_frame::Part::Head(head));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => {
                self.ended = true;
                Poll::Ready(None)
            }
            Some(Ok(piece)) => match piece.into_data() {
                Ok(data) => frame(call_frame::Part::Chunk(data)),
                Err(piece) => {
                    let trailers = piece.into_trailers().unwrap_or_default();
                    let headers = convert::headers(&trailers);
                    frame(call_frame::Part::Trailers(v1::Headers { headers }))
                }
            },
            // An end here would pass for a whole body. Whoever watches the request ends the call.
            Some(Err(_)) => Poll::Pending,
        }
    }
}

/// Splits a piece that is too large for one frame.
pub(crate) fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        (!data.is_empty()).then(|| data.split_to(data.len().min(super::replay::PIECE_BYTES_MAX)))
    })
}
