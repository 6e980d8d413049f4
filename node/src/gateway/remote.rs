//! The body of an answer that comes from another node, frame by frame.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream as _, TryStreamExt as _};
use http_body::{Body, Frame, SizeHint};
use nigh_model::{NodeId, NodeName};
use nigh_proto::convert;
use nigh_proto::peer::v1::{AnswerFrame, answer_frame::Part};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until, timeout};

use super::deadline::{Deadline, GRACE};
use super::problem::Problem;
use super::reasons;
use super::replay::Replay;
use crate::peer::{Answer, Peers};

/// How long the end of an exchange is waited for when the whole answer is there.
const END_WAIT_MAX: Duration = Duration::from_secs(1);
/// Frames that may come behind an answer: its end, and that of the stream.
const FRAMES_BEHIND_MAX: usize = 4;

/// The body of an answer that comes from another node.
pub(crate) struct Remote {
    /// None when it was let go.
    frames: Option<Answer>,
    from: Arc<From>,
    /// What is left of the declared length; tells the server how to frame the answer.
    left: Option<u64>,
    late: Pin<Box<Sleep>>,
    done: bool,
    /// Whether the node has said that this is all.
    ended: bool,
}

/// Which node answers, and what must go on while it does.
pub(crate) struct From {
    /// Its id.
    pub(crate) id: NodeId,
    /// Its name.
    pub(crate) name: NodeName,
    /// When the call is over.
    pub(crate) deadline: Deadline,
    /// The request, which may still be on its way.
    pub(crate) request: Arc<Replay>,
    /// Told when the connection breaks.
    pub(crate) peers: Peers,
}

impl From {
    /// The node broke the rules, or its connection broke.
    pub(crate) fn lost(&self, why: &str) -> Problem {
        let message =
            format!("the call ran on node `{}` and its answer broke off: {why}", self.name);
        Problem::new(reasons::PEER_LOST, message).at(&self.name)
    }

    /// What the node says of a call that failed there.
    pub(crate) fn failed(&self, problem: nigh_proto::peer::v1::Problem) -> Problem {
        let problem = Problem::from(problem).at(&self.name);
        // The node knows how much time it was given, not by whom.
        if problem.reason() == reasons::TIME_LIMIT {
            return self.deadline.problem(&self.name, "the function ran");
        }
        problem
    }

    /// The caller's body broke off.
    pub(crate) fn broken(&self, error: &nigh_runtime::BodyError) -> Problem {
        Problem::new(reasons::BAD_REQUEST_BODY, error.to_string())
    }
}

impl Remote {
    /// The rest of an answer whose head was taken.
    pub(crate) fn new(frames: Answer, from: Arc<From>, content_length: Option<u64>) -> Self {
        let late = Box::pin(sleep_until(from.deadline.at + GRACE));
        let frames = Some(frames);
        Self { frames, from, left: content_length, late, done: false, ended: false }
    }

    fn take(&mut self, frame: AnswerFrame) -> Option<Result<Frame<Bytes>, Problem>> {
        Some(match frame.part {
            Some(Part::Chunk(data)) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Ok(Frame::data(data))
            }
            Some(Part::Trailers(trailers)) => match convert::header_map(&trailers.headers) {
                Ok(map) => Ok(Frame::trailers(map)),
                Err(error) => Err(self.from.lost(&error.to_string())),
            },
            Some(Part::End(_)) => {
                self.ended = true;
                return None;
            }
            Some(Part::Failed(problem)) => Err(self.from.failed(problem)),
            Some(Part::Head(_) | Part::Refused(_)) | None => {
                Err(self.from.lost("it sent a frame out of turn"))
            }
        })
    }
}

impl Body for Remote {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let Some(frames) = &mut this.frames else { return Poll::Ready(None) };
        let next = match Pin::new(frames).poll_next(context) {
            Poll::Ready(Some(Ok(frame))) => this.take(frame),
            Poll::Ready(Some(Err(status))) => {
                this.from.peers.failed(this.from.id);
                Some(Err(this.from.lost(status.message())))
            }
            Poll::Ready(None) => Some(Err(this.from.lost("it ended without its last frame"))),
            Poll::Pending => match this.from.request.poll_broken(context) {
                Poll::Ready(error) => Some(Err(this.from.broken(&error))),
                Poll::Pending if this.late.as_mut().poll(context).is_ready() => {
                    let doing = "the answer was on its way";
                    Some(Err(this.from.deadline.problem(&this.from.name, doing)))
                }
                Poll::Pending => return Poll::Pending,
            },
        };
        this.done = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A server that was told the length of an answer takes no more than that. The exchange is read to its end
/// all the same: to break it off would be a reset of its stream, of which a connection bears only so many
/// before it is closed as under attack (CVE-2023-44487, CVE-2025-8671).
impl Drop for Remote {
    fn drop(&mut self) {
        let is_whole = self.ended || self.left == Some(0);
        let Some(mut frames) = self.frames.take().filter(|_| is_whole) else { return };
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..FRAMES_BEHIND_MAX {
            match Pin::new(&mut frames).poll_next(&mut context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return,
                Poll::Pending => break,
            }
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(END_WAIT_MAX, async move {
                while let Ok(Some(_)) = frames.try_next().await {}
            }));
        }
    }
}
