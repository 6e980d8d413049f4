//! Bodies on their way in and out: streamed frame by frame, held to their limits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use wasmtime_wasi_http::Error as HttpError;

use crate::pipe::Reader;
use crate::task::Task;
use crate::{Failure, Usage, headers};

/// What a guest reads its request from, trailers included.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// Why a request body broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than it may be.
    #[error("the request body is too large")]
    TooLarge,
    /// Its sender went away or broke the protocol.
    #[error("the request body broke off: {0}")]
    Aborted(String),
}

impl From<BodyError> for HttpError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::HttpRequestBodySize(None),
            BodyError::Aborted(_) => Self::ConnectionTerminated,
        }
    }
}

/// A request body that ends with an error where it passes its limit.
pub(crate) struct Bounded {
    body: RequestBody,
    left: u64,
    overrun: Overrun,
}

impl Bounded {
    /// `overrun` is told when the limit is passed, here or by whoever feeds the body.
    pub(crate) fn new(body: RequestBody, overrun: Overrun) -> Self {
        Self { body, left: overrun.limit_bytes, overrun }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let length = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(BodyError::TooLarge)) => u64::MAX,
            Some(Err(BodyError::Aborted(_))) | None => 0,
        };
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Poll::Ready(frame)
            }
            None => {
                self.left = 0;
                self.overrun.seen.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyError::TooLarge)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a guest's answer.
///
/// Ends with a [`Failure`] when the guest traps, passes a limit or leaves its body unfinished.
/// Dropped before its end it stops the guest; after its end the guest may finish what it does,
/// within its limits.
pub struct ResponseBody {
    // Stopped before the body's reader goes, or it would see a closed stream and end by itself.
    guest: Task,
    body: Reader,
    /// How the guest ended. Sent before the body's writer goes away.
    end: oneshot::Receiver<Result<(), Failure>>,
    /// What is left of the declared length.
    left: Option<u64>,
    done: bool,
    usage: Arc<Usage>,
    request: Overrun,
}

/// Whether the request's body passed its limit: then no answer to it counts.
#[derive(Clone)]
pub(crate) struct Overrun {
    seen: Arc<AtomicBool>,
    limit_bytes: u64,
}

impl Overrun {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { seen: Arc::new(AtomicBool::new(false)), limit_bytes }
    }

    /// The failure that it is, if it happened.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.seen.load(Ordering::Relaxed) {
            return Err(Failure::BodyTooLarge { limit_bytes: self.limit_bytes });
        }
        Ok(())
    }
}

impl ResponseBody {
    /// Splits a guest's answer into a response with this body.
    pub(crate) fn attach(
        answer: Response<Reader>,
        method: &Method,
        end: oneshot::Receiver<Result<(), Failure>>,
        mut guest: Task,
        usage: Arc<Usage>,
        request: Overrun,
    ) -> Response<Self> {
        // HTTP carries no body here: that nobody reads it does not mean that nobody waits.
        let bodiless = *method == Method::HEAD
            || matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let left = headers::declared_length(answer.headers()).ok().flatten().filter(|_| !bodiless);
        if bodiless || left == Some(0) || answer.body().is_end_stream() {
            guest.let_go();
        } else {
            guest.stand_alone();
        }
        answer.map(|body| Self { body, end, guest, left, done: false, usage, request })
    }

    /// What the call has used; final once the guest has ended.
    pub fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.usage)
    }

    /// Checks a frame of the guest's.
    fn check(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Failure> {
        let bad = |message: String| Failure::BadAnswer { message };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let Ok(mut trailers) = frame.into_trailers() else {
                    return Err(bad("a frame of an unknown kind".into()));
                };
                headers::strip_hop_by_hop(&mut trailers);
                headers::check_size(&trailers).map_err(bad)?;
                return Ok(Frame::trailers(trailers));
            }
        };
        if let Some(left) = &mut self.left {
            let Some(rest) = left.checked_sub(data.len() as u64) else {
                return Err(bad("its body is longer than its content-length".into()));
            };
            *left = rest;
            if rest == 0 {
                // A server reads no further than the declared length.
                self.guest.let_go();
            }
        } else if self.body.is_end_stream() {
            // Nor than the length that it was told.
            self.guest.let_go();
        }
        Ok(Frame::data(data))
    }

    /// The guest has finished its body: is it whole?
    fn complete(&mut self) -> Result<(), Failure> {
        self.request.check()?;
        if self.left.is_some_and(|left| left > 0) {
            let message = "its body is shorter than its content-length".into();
            return Err(Failure::BadAnswer { message });
        }
        self.guest.let_go();
        Ok(())
    }

    /// The guest's body broke off: why?
    fn broken_off(&mut self) -> Failure {
        if let Err(failure) = self.request.check() {
            return failure;
        }
        match self.end.try_recv() {
            Ok(Err(failure)) => failure,
            Ok(Ok(())) | Err(TryRecvError::Empty) => {
                Failure::BadAnswer { message: "its body was dropped before it was finished".into() }
            }
            Err(TryRecvError::Closed) => {
                Failure::Internal { message: "the guest's end is not known".into() }
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.done {
            return Poll::Ready(None);
        }
        // First the guest, which makes the frames.
        self.guest.poll(context);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let result = match frame {
            Some(Ok(frame)) => self.check(frame).map(Some),
            Some(Err(_)) => Err(self.broken_off()),
            None => self.complete().map(|()| None),
        };
        self.done = !matches!(result, Ok(Some(_)));
        Poll::Ready(result.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").field("left", &self.left).field("done", &self.done).finish()
    }
}
