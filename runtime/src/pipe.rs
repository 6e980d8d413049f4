//! A body on its way from a guest that writes it to whoever reads it.
//!
//! Both ends are mostly held by one task, the guest's caller: chunks lie in one place under a lock
//! that nobody waits for, and no channel is made for them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_http::Error as HttpError;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

/// Most bytes that a guest hands over in one write.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Chunks that wait for the reader; a guest that is further ahead waits.
const CHUNKS_MAX: usize = 2;

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// That of a guest's answer.
    Answer,
    /// That of a request that a guest makes.
    Request,
}

/// A body that a guest has begun. It is broken off when this goes before it was finished.
#[derive(Debug)]
pub(crate) struct Writer {
    pipe: Arc<Pipe>,
    direction: Direction,
    stream_taken: bool,
}

/// What the guest writes to.
#[derive(Debug)]
pub(crate) struct WriteStream {
    pipe: Arc<Pipe>,
    direction: Direction,
}

/// The other end.
#[derive(Debug)]
pub(crate) struct Reader {
    pipe: Arc<Pipe>,
}

#[derive(Debug)]
struct Pipe(Mutex<State>);

#[derive(Debug)]
struct State {
    chunks: VecDeque<Bytes>,
    /// The length that the head declares.
    declared: Option<u64>,
    written: u64,
    end: Option<End>,
    reader_gone: bool,
    reading: Option<Waker>,
    writing: Option<Waker>,
}

#[derive(Debug)]
enum End {
    Finished(Option<HeaderMap>),
    BrokenOff,
}

/// Makes both ends of a body of which the head declares this length, if any.
pub(crate) fn pipe(direction: Direction, declared: Option<u64>) -> (Writer, Reader) {
    let pipe = Arc::new(Pipe(Mutex::new(State {
        chunks: VecDeque::new(),
        declared,
        written: 0,
        end: None,
        reader_gone: false,
        reading: None,
        writing: None,
    })));
    (Writer { pipe: Arc::clone(&pipe), direction, stream_taken: false }, Reader { pipe })
}

impl Direction {
    /// The error of a body that has another length than was declared.
    const fn wrong_length(self, written: u64) -> ErrorCode {
        match self {
            Self::Answer => ErrorCode::HttpResponseBodySize(Some(written)),
            Self::Request => ErrorCode::HttpRequestBodySize(Some(written)),
        }
    }
}

impl Writer {
    /// What to write to; once.
    pub(crate) fn stream(&mut self) -> Option<WriteStream> {
        let taken = std::mem::replace(&mut self.stream_taken, true);
        (!taken).then(|| WriteStream { pipe: Arc::clone(&self.pipe), direction: self.direction })
    }

    /// Ends the body.
    ///
    /// # Errors
    /// It is shorter or longer than was declared; it is broken off then.
    pub(crate) fn finish(self, trailers: Option<HeaderMap>) -> Result<(), ErrorCode> {
        let mut state = self.pipe.state();
        let written = state.written;
        if state.declared.is_some_and(|declared| declared != written) {
            return Err(self.direction.wrong_length(written));
        }
        state.end = Some(End::Finished(trailers));
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.pipe.state();
        state.end.get_or_insert(End::BrokenOff);
        let reader = state.reading.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl OutputStream for WriteStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut state = self.pipe.state();
        if state.reader_gone {
            return Err(StreamError::Closed);
        }
        if bytes.len() > CHUNK_BYTES_MAX || state.chunks.len() >= CHUNKS_MAX {
            return Err(StreamError::trap("write exceeded the permitted amount"));
        }
        state.written += bytes.len() as u64;
        let written = state.written;
        let is_too_long = state.declared.is_some_and(|declared| written > declared);
        if !bytes.is_empty() {
            state.chunks.push_back(bytes);
        }
        let reader = state.reading.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        if is_too_long {
            let error = self.direction.wrong_length(written);
            return Err(StreamError::LastOperationFailed(wasmtime::format_err!(error)));
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        // Nothing is held back.
        match self.pipe.state().reader_gone {
            true => Err(StreamError::Closed),
            false => Ok(()),
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let state = self.pipe.state();
        match (state.reader_gone, state.chunks.len() < CHUNKS_MAX) {
            (true, _) => Err(StreamError::Closed),
            (false, true) => Ok(CHUNK_BYTES_MAX),
            (false, false) => Ok(0),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for WriteStream {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| {
            let mut state = self.pipe.state();
            if state.reader_gone || state.chunks.len() < CHUNKS_MAX {
                return Poll::Ready(());
            }
            state.writing = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let mut state = self.pipe.state();
        if let Some(chunk) = state.chunks.pop_front() {
            let writer = state.writing.take();
            drop(state);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        Poll::Ready(match &mut state.end {
            Some(End::Finished(trailers)) => trailers.take().map(|t| Ok(Frame::trailers(t))),
            Some(End::BrokenOff) => Some(Err(HttpError::HttpProtocolError)),
            None => {
                state.reading = Some(context.waker().clone());
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let state = self.pipe.state();
        state.chunks.is_empty() && matches!(state.end, Some(End::Finished(None)))
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.pipe.state();
        match state.end {
            Some(End::Finished(None)) => {
                SizeHint::with_exact(state.chunks.iter().map(|chunk| chunk.len() as u64).sum())
            }
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.pipe.state();
        state.reader_gone = true;
        state.chunks.clear();
        let writer = state.writing.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn answer(declared: Option<u64>) -> (Writer, WriteStream, Reader) {
        let (mut writer, reader) = pipe(Direction::Answer, declared);
        let stream = writer.stream().unwrap();
        assert!(writer.stream().is_none());
        (writer, stream, reader)
    }

    #[tokio::test]
    async fn what_is_written_is_read_in_its_order_with_its_trailers() {
        let (writer, mut stream, reader) = answer(None);
        stream.write("ab".into()).unwrap();
        stream.write("cd".into()).unwrap();
        drop(stream);
        writer
            .finish(Some(HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())])))
            .unwrap();
        let whole = reader.collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["etag"], "x");
        assert_eq!(whole.to_bytes(), "abcd");
    }

    #[tokio::test]
    async fn a_writer_that_is_ahead_waits_for_the_reader() {
        let (_writer, mut stream, mut reader) = answer(None);
        for _ in 0..CHUNKS_MAX {
            assert_eq!(stream.check_write().unwrap(), CHUNK_BYTES_MAX);
            stream.write("x".into()).unwrap();
        }
        assert_eq!(stream.check_write().unwrap(), 0);
        assert!(matches!(stream.write("x".into()), Err(StreamError::Trap(_))));
        assert!(futures::poll!(stream.ready()).is_pending());
        let waits = tokio::spawn(async move { stream.ready().await });
        reader.frame().await.unwrap().unwrap();
        waits.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_is_woken_by_what_comes_and_by_the_end() {
        let (writer, mut stream, reader) = answer(None);
        let read = tokio::spawn(reader.collect());
        tokio::task::yield_now().await;
        stream.write("x".into()).unwrap();
        tokio::task::yield_now().await;
        writer.finish(None).unwrap();
        assert_eq!(read.await.unwrap().unwrap().to_bytes(), "x");
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_or_has_another_length_is_broken_off() {
        let (writer, _stream, reader) = answer(None);
        drop(writer);
        assert!(matches!(reader.collect().await, Err(HttpError::HttpProtocolError)));

        let (writer, mut stream, reader) = answer(Some(2));
        stream.write("x".into()).unwrap();
        let error = writer.finish(None).unwrap_err();
        assert!(matches!(error, ErrorCode::HttpResponseBodySize(Some(1))));
        assert!(reader.collect().await.is_err());

        let (_writer, mut stream, _reader) = answer(Some(2));
        assert!(matches!(stream.write("xyz".into()), Err(StreamError::LastOperationFailed(_))));
    }

    #[tokio::test]
    async fn a_writer_hears_that_nobody_reads() {
        let (_writer, mut stream, reader) = answer(None);
        drop(reader);
        assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
        assert!(matches!(stream.write("x".into()), Err(StreamError::Closed)));
        stream.ready().await;
    }

    #[test]
    fn a_finished_body_knows_its_length() {
        let (writer, mut stream, reader) = answer(None);
        stream.write("abc".into()).unwrap();
        assert_eq!(reader.size_hint().exact(), None);
        writer.finish(None).unwrap();
        assert_eq!(reader.size_hint().exact(), Some(3));
    }
}
