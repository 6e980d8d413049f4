//! Calls forwarded by other nodes: run here or refused, never sent on.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderName, Method, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use nigh_model::{AppName, FunctionName, FunctionRef, NodeId, NodeName, RequestId, RevisionId};
use nigh_proto::peer::v1::invoke_server::SERVICE_NAME;
use nigh_proto::peer::v1::{
    AnswerEnd, AnswerFrame, AnswerHead, CallHead, answer_frame::Part, call_frame,
};
use nigh_proto::{convert, status, v1};
use nigh_runtime::{BodyError, RequestBody};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::body::AnswerBody;
use super::deadline::Deadline;
use super::forward::pieces;
use super::problem::Problem;
use super::run::{Errand, Prepared, Ran};
use super::{Gateway, reasons};
use crate::decided::Target;
use crate::peer::{Call, response};

/// A stream that does not begin by then is none of ours.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(5);

/// Opens the answer to a call that has a place here; a refusal comes without it.
pub(crate) const ACCEPTED: HeaderName = HeaderName::from_static("nigh-accepted");

/// The service that other nodes forward calls to.
pub(crate) fn peer_invoke_service(gateway: Gateway) -> Receiver {
    Receiver { gateway }
}

/// Takes calls forwarded by other nodes: the service `nigh.peer.v1.Invoke`, whose frames are read and written here
/// without the layers that serve any method.
#[derive(Clone)]
pub(crate) struct Receiver {
    gateway: Gateway,
}

type Frames = Pin<Box<dyn Stream<Item = AnswerFrame> + Send>>;

impl NamedService for Receiver {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for Receiver {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let receiver = self.clone();
        Box::pin(async move {
            let answered = receiver.answer(Call::new(request.into_body())).await;
            Ok(answered.unwrap_or_else(Status::into_http))
        })
    }
}

impl Receiver {
    async fn answer(&self, mut frames: Call) -> Result<Response<Body>, Status> {
        let first = timeout(HEAD_WAIT_MAX, frames.try_next()).await;
        let first = first.map_err(|_| malformed("no head came"))??;
        let Some(call_frame::Part::Head(head)) = first.and_then(|frame| frame.part) else {
            return Err(malformed("the first frame is no head"));
        };
        self.gateway.core().metrics.received();
        let call = match self.accept(head)? {
            Ok(call) => call,
            Err(refusal) => return Ok(response(refused(&refusal), None)),
        };
        let prepared = match self.gateway.prepare(&call.target, call.deadline).await {
            Ok(prepared) => prepared,
            Err(refusal) => return Ok(response(refused(&refusal), None)),
        };
        // Returning opens the answer: the other node learns that the call has a place here
        // before the guest has said a word, and lets the rest of the body flow.
        let answer = stream::once(run(self.gateway.clone(), prepared, call, body_of(frames)));
        Ok(response(Box::pin(answer.flatten()), Some(ACCEPTED)))
    }
}

/// A forwarded call that is meant for this node.
struct Incoming {
    target: Target,
    request_id: RequestId,
    entry: NodeName,
    deadline: Deadline,
    head: Request<()>,
}

impl Receiver {
    /// Checks a call's head. A call for another node or cluster is an error, one for what is not
    /// here a refusal.
    fn accept(&self, head: CallHead) -> Result<Result<Incoming, Problem>, Status> {
        let core = self.gateway.core();
        if head.cluster_id != core.cluster.as_str() || head.to != core.own.0 {
            let message = format!(
                "this is node {} of cluster {}, the call is meant for node {} of cluster {}",
                core.own, core.cluster, head.to, head.cluster_id
            );
            return Err(status::of(Code::FailedPrecondition, reasons::WRONG_NODE.name, message));
        }
        let app: AppName = head.app.parse().map_err(|error| malformed(&format!("{error}")))?;
        let function: FunctionName =
            head.function.parse().map_err(|error| malformed(&format!("{error}")))?;
        let function = FunctionRef { revision: RevisionId(head.revision), function };
        let request_id: RequestId =
            head.request_id.parse().map_err(|error| malformed(&format!("{error}")))?;
        let decision = core.decided.now();
        let Some(target) = decision.target_of(&app, &function) else {
            let message = format!("node `{}` does not know `{function}` of `{app}`", core.name);
            return Ok(Err(Problem::new(reasons::NOT_HERE, message)));
        };
        if !target.spec.placement.allows(&core.region) {
            let message = format!("`{function}` may not run in region `{}`", core.region);
            return Ok(Err(Problem::new(reasons::NOT_HERE, message)));
        }
        let from = NodeId(head.from);
        let entry = decision.state.nodes.get(&from).map(|node| node.name.clone());
        let method = Method::from_bytes(head.method.as_bytes());
        let mut request = Request::builder()
            .method(method.map_err(|error| malformed(&error.to_string()))?)
            .uri(head.uri)
            .body(())
            .map_err(|error| malformed(&error.to_string()))?;
        *request.headers_mut() = convert::peer_header_map(&head.headers)
            .map_err(|error| malformed(&error.to_string()))?;
        let budget = Duration::from_micros(head.budget_us);
        let timeout_ms = target.spec.limits.timeout_ms;
        Ok(Ok(Incoming {
            deadline: Deadline::new(Instant::now(), timeout_ms, None).within(budget),
            entry: entry.unwrap_or_else(|| core.name.clone()),
            head: request,
            target,
            request_id,
        }))
    }
}

/// Runs a call and turns what comes of it into frames.
async fn run(gateway: Gateway, prepared: Prepared, call: Incoming, body: RequestBody) -> Frames {
    let Incoming { target, request_id, entry, deadline, head } = call;
    let errand = Errand { target: &target, request_id: &request_id, entry: &entry, deadline };
    let is_head = head.method() == Method::HEAD;
    match gateway.run(prepared, errand, head.map(|()| body), None).await {
        Ok(ran) => frames_of(ran, is_head),
        Err(problem) if problem.reason() == reasons::NO_INSTANCE_SLOT => refused(&problem),
        Err(problem) => once(Part::Failed((&problem).into())),
    }
}

fn frames_of(ran: Ran, is_head: bool) -> Frames {
    let Ran { response, timings, cold } = ran;
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let (head, body) = response.into_parts();
    let head = Part::Head(AnswerHead {
        status: head.status.as_u16().into(),
        headers: convert::peer_headers(&head.headers),
        cold,
        queue_us: us(timings.queue),
        start_us: us(timings.start),
        exec_us: us(timings.exec),
    });
    let head = stream::once(std::future::ready(AnswerFrame { part: Some(head) }));
    if is_head {
        // Nobody reads a body here; the guest may finish by itself.
        drop(body);
        return Box::pin(head.chain(once(Part::End(AnswerEnd {}))));
    }
    Box::pin(head.chain(BodyFrames { body, waiting: Vec::new(), done: false }))
}

fn once(part: Part) -> Frames {
    Box::pin(stream::once(std::future::ready(AnswerFrame { part: Some(part) })))
}

fn refused(problem: &Problem) -> Frames {
    once(Part::Refused(problem.into()))
}

fn malformed(why: &str) -> Status {
    status::of(Code::InvalidArgument, reasons::INVALID_CALL.name, why)
}

/// The rest of an answer as frames; the last one says that it is whole, or why it is not.
struct BodyFrames {
    body: AnswerBody,
    /// Pieces of a chunk that was too large for one frame, last first.
    waiting: Vec<bytes::Bytes>,
    done: bool,
}

impl Stream for BodyFrames {
    type Item = AnswerFrame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let part = match this.waiting.pop() {
            Some(piece) => Part::Chunk(piece),
            None => match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                None => Part::End(AnswerEnd {}),
                Some(Err(problem)) => Part::Failed((&problem).into()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.waiting = pieces(data).collect();
                        this.waiting.reverse();
                        Part::Chunk(this.waiting.pop().unwrap_or_default())
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        Part::Trailers(v1::Headers { headers: convert::headers(&trailers) })
                    }
                },
            },
        };
        this.done = matches!(part, Part::End(_) | Part::Failed(_));
        Poll::Ready(Some(AnswerFrame { part: Some(part) }))
    }
}

/// The frames after the head as a body.
fn body_of(frames: Call) -> RequestBody {
    let frames = frames.map(|frame| {
        let part = frame.map_err(|status| BodyError::Aborted(status.message().to_owned()))?.part;
        match part {
            Some(call_frame::Part::Chunk(data)) => Ok(Frame::data(data)),
            Some(call_frame::Part::Trailers(trailers)) => convert::header_map(&trailers.headers)
                .map(Frame::trailers)
                .map_err(|error| BodyError::Aborted(error.to_string())),
            Some(call_frame::Part::Head(_)) | None => {
                Err(BodyError::Aborted("a frame out of turn".into()))
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::replay::PIECE_BYTES_MAX;

    #[test]
    fn large_chunks_are_split_and_nothing_is_lost() {
        let data = bytes::Bytes::from(vec![1; 2 * PIECE_BYTES_MAX + 1]);
        let lengths: Vec<usize> = pieces(data).map(|piece| piece.len()).collect();
        assert_eq!(lengths, [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 1]);
        assert_eq!(pieces(bytes::Bytes::new()).count(), 0);
    }

    #[test]
    fn a_refusal_is_one_frame() {
        let problem = Problem::new(reasons::NOT_HERE, "no");
        let frames: Vec<_> = futures::executor::block_on(refused(&problem).collect());
        let [AnswerFrame { part: Some(Part::Refused(told)) }] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!(told.reason, "NOT_HERE");
    }
}
