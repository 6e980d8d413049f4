//! A request body that can be sent from its beginning again, while that is short.
//!
//! One try reads at a time. Until a node has accepted the call no more is read than can be
//! kept, so that a refused call can always go elsewhere.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use nigh_model::limits::RETRY_BODY_BYTES_MAX;
use nigh_runtime::{BodyError, RequestBody};

/// Largest piece that is handed on at once, in bytes: larger ones would hold up other calls on
/// the connection to a peer.
pub(crate) const PIECE_BYTES_MAX: usize = 64 << 10;

/// A request body that can be read more than once.
pub(crate) struct Replay {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    body: RequestBody,
    /// Taken from `body` and too large for one piece.
    rest: Bytes,
    /// All that was taken so far, unless `lost`.
    kept: Vec<Piece>,
    taken_bytes: u64,
    /// Whether a node has accepted the call.
    accepted: bool,
    /// Whether an accepted call may be tried again all the same.
    keep: bool,
    /// Whether more was taken than is kept.
    lost: bool,
    error: Option<BodyError>,
    /// The reader that waits for acceptance.
    reader: Option<Waker>,
    /// Whoever wants to know of an error.
    watcher: Option<Waker>,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl From<Piece> for Frame<Bytes> {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Data(data) => Self::data(data),
            Piece::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}

impl Replay {
    /// `keep`: the call may be tried again even after it was accepted.
    pub(crate) fn new(body: RequestBody, keep: bool) -> Self {
        let shared = Shared {
            body,
            rest: Bytes::new(),
            kept: Vec::new(),
            taken_bytes: 0,
            accepted: false,
            keep,
            lost: false,
            error: None,
            reader: None,
            watcher: None,
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// The body from its beginning, for the next try; only while it is replayable.
    pub(crate) fn read(&self) -> Reading {
        self.lock().accepted = false;
        Reading { shared: Arc::clone(&self.shared), at: 0 }
    }

    /// A node has accepted the call: the rest may flow.
    pub(crate) fn accepted(&self) {
        let mut shared = self.lock();
        shared.accepted = true;
        if !shared.keep {
            shared.lost |= !shared.kept.is_empty();
        }
        if let Some(reader) = shared.reader.take() {
            reader.wake();
        }
    }

    /// Whether all that was read can be read again.
    pub(crate) fn is_replayable(&self) -> bool {
        let shared = self.lock();
        !shared.lost && shared.error.is_none()
    }

    /// Body bytes that were read.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.lock().taken_bytes
    }

    /// Ready when the caller's body has broken off.
    pub(crate) fn poll_broken(&self, context: &mut Context<'_>) -> Poll<BodyError> {
        let mut shared = self.lock();
        match &shared.error {
            Some(error) => Poll::Ready(error.clone()),
            None => {
                shared.watcher = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Takes the next piece from the body and keeps it while there is room.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Piece, BodyError>>> {
        if let Some(error) = &self.error {
            return Poll::Ready(Some(Err(error.clone())));
        }
        let room = (RETRY_BODY_BYTES_MAX as u64).saturating_sub(self.taken_bytes);
        let mut piece_max = PIECE_BYTES_MAX;
        if !self.accepted {
            if room == 0 {
                self.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            piece_max = piece_max.min(usize::try_from(room).unwrap_or(usize::MAX));
        }
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.error = Some(error.clone());
                    if let Some(watcher) = self.watcher.take() {
                        watcher.wake();
                    }
                    return Poll::Ready(Some(Err(error)));
                }
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(frame) => {
                    let piece = Piece::Trailers(frame.into_trailers().unwrap_or_default());
                    self.keep(&piece, true);
                    return Poll::Ready(Some(Ok(piece)));
                }
            }
        }
        let data = self.rest.split_to(self.rest.len().min(piece_max));
        self.taken_bytes += data.len() as u64;
        let fits = data.len() as u64 <= room;
        let piece = Piece::Data(data);
        self.keep(&piece, fits);
        Poll::Ready(Some(Ok(piece)))
    }

    fn keep(&mut self, piece: &Piece, fits: bool) {
        if self.lost || !fits || (self.accepted && !self.keep) {
            self.lost = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(piece.clone());
        }
    }
}

/// One reading of the body.
pub(crate) struct Reading {
    shared: Arc<Mutex<Shared>>,
    /// Pieces of `kept` that were read.
    at: usize,
}

impl Body for Reading {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut shared = this.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = shared.kept.get(this.at) {
            let frame = piece.clone().into();
            this.at += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        let next = ready!(shared.poll_next(context));
        this.at = shared.kept.len();
        Poll::Ready(next.map(|piece| piece.map(Frame::from)))
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        self.at >= shared.kept.len()
            && shared.rest.is_empty()
            && shared.error.is_none()
            && shared.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    fn replay(bytes: usize, keep: bool) -> Replay {
        let body = Full::new(Bytes::from(vec![7; bytes])).map_err(|never| match never {});
        Replay::new(body.boxed_unsync(), keep)
    }

    fn read_all(reading: Reading) -> Option<usize> {
        Some(reading.collect().now_or_never()?.unwrap().to_bytes().len())
    }

    #[test]
    fn a_short_body_is_read_again() {
        let replay = replay(1_000, false);
        assert_eq!(read_all(replay.read()), Some(1_000));
        assert!(replay.is_replayable());
        assert_eq!(read_all(replay.read()), Some(1_000));
        assert_eq!(replay.taken_bytes(), 1_000);
    }

    #[test]
    fn a_long_body_waits_for_acceptance_and_is_then_read_once() {
        let replay = replay(1 << 20, true);
        assert_eq!(read_all(replay.read()), None, "it waits");
        assert_eq!(replay.taken_bytes(), RETRY_BODY_BYTES_MAX as u64);
        assert!(replay.is_replayable());
        let reading = replay.read();
        replay.accepted();
        assert_eq!(read_all(reading), Some(1 << 20));
        assert!(!replay.is_replayable());
        assert_eq!(replay.taken_bytes(), 1 << 20);
    }

    #[test]
    fn what_may_not_be_repeated_is_not_kept_once_accepted() {
        let replay = replay(10, false);
        let reading = replay.read();
        assert!(replay.is_replayable());
        replay.accepted();
        assert!(replay.is_replayable(), "nothing was read yet");
        assert_eq!(read_all(reading), Some(10));
        assert!(!replay.is_replayable());
    }

    #[test]
    fn trailers_are_read_again_too() {
        let trailers = || HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
        let frames: Vec<Result<_, BodyError>> =
            vec![Ok(Frame::data(Bytes::from_static(b"a"))), Ok(Frame::trailers(trailers()))];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        let replay = Replay::new(body, true);
        for _ in 0..2 {
            let whole = replay.read().collect().now_or_never().unwrap().unwrap();
            assert_eq!(whole.trailers(), Some(&trailers()));
        }
    }

    #[test]
    fn a_broken_body_is_told_and_not_tried_again() {
        let frames = vec![Ok(Frame::data(Bytes::new())), Err(BodyError::Aborted("gone".into()))];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        let replay = Replay::new(body, true);
        assert!(replay.read().collect().now_or_never().unwrap().is_err());
        assert!(!replay.is_replayable());
        let broken = std::future::poll_fn(|context| replay.poll_broken(context));
        assert!(broken.now_or_never().is_some());
    }
}
