//! The body of an answer, from a guest here or on another node.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use nigh_model::NodeName;
use nigh_runtime::ResponseBody;

use super::deadline::Deadline;
use super::problem::Problem;
use super::remote::Remote;
use super::run::explain;
use crate::telemetry::{Metrics, UnderWay};

/// The body of an answer. Dropped before its end it stops the guest, wherever that is.
pub(crate) struct AnswerBody {
    source: Source,
    metrics: Metrics,
    _under_way: UnderWay,
    /// Why it breaks off, as soon as what came before is on its way.
    broken: Option<Problem>,
}

enum Source {
    Here { body: ResponseBody, deadline: Deadline, node: NodeName },
    There(Box<Remote>),
}

impl AnswerBody {
    /// A body that a guest on this node writes.
    pub(crate) fn here(
        body: ResponseBody,
        deadline: Deadline,
        node: NodeName,
        metrics: Metrics,
    ) -> Self {
        Self::of(Source::Here { body, deadline, node }, metrics)
    }

    /// A body that comes from another node.
    pub(crate) fn there(remote: Remote, metrics: Metrics) -> Self {
        Self::of(Source::There(Box::new(remote)), metrics)
    }

    fn of(source: Source, metrics: Metrics) -> Self {
        let under_way = metrics.under_way();
        Self { source, metrics, _under_way: under_way, broken: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = &mut *self;
        if let Some(problem) = this.broken.take() {
            return Poll::Ready(Some(Err(problem)));
        }
        let poll = match &mut this.source {
            Source::There(remote) => Pin::new(remote.as_mut()).poll_frame(context),
            Source::Here { body, deadline, node } => Pin::new(body)
                .poll_frame(context)
                .map_err(|failure| explain(failure, *deadline, node)),
        };
        let Poll::Ready(Some(Err(problem))) = poll else { return poll };
        this.metrics.broken();
        tracing::debug!(%problem, reason = problem.reason().name, "answer broke off");
        // A server that is told of a failure drops what it has not sent yet, the head too. One
        // turn later it has sent it, and the caller sees an answer that broke off.
        this.broken = Some(problem);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Here { body, .. } => body.is_end_stream(),
            Source::There(remote) => remote.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Here { body, .. } => body.size_hint(),
            Source::There(remote) => remote.size_hint(),
        }
    }
}
