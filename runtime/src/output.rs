//! What a guest prints: split into lines, bounded, handed to the caller's sink.
//!
//! Printing never blocks a guest and never keeps more than one partial line a stream: what is
//! beyond a bound is counted and dropped.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use nigh_model::limits::{LOG_BYTES_PER_CALL_MAX, LOG_LINE_BYTES_MAX, LOG_LINES_PER_CALL_MAX};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Most bytes that a guest may hand over in one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Which stream a line was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what a guest prints. Called on guest threads: it must neither block nor panic.
pub trait LogSink: Send + Sync {
    /// A line, without its end.
    fn line(&self, stream: Stream, line: &str);
    /// At the end of a call: how many bytes were dropped beyond its bounds, if any.
    fn dropped(&self, bytes: u64);
}

/// The output of an instance, one call after the other.
pub(crate) struct Output(Mutex<State>);

struct State {
    /// Takes the lines of the call.
    sink: Arc<dyn LogSink>,
    stdout: Lines,
    stderr: Lines,
    left: Budget,
    dropped: u64,
}

/// What may still be kept of a call, of both streams together.
#[derive(Debug)]
struct Budget {
    bytes: usize,
    /// Lines that may still begin.
    lines: usize,
}

impl Output {
    pub(crate) fn new(sink: Arc<dyn LogSink>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::new(sink))))
    }

    /// The next call of the same instance begins; the one before has finished.
    pub(crate) fn begin(&self, sink: Arc<dyn LogSink>) {
        *self.state() = State::new(sink);
    }

    /// The guest's end of a stream.
    pub(crate) fn pipe(self: &Arc<Self>, stream: Stream) -> Pipe {
        Pipe { output: Arc::clone(self), stream }
    }

    /// Hands over what is left. Called at the end of a call; again, it does nothing.
    pub(crate) fn finish(&self) {
        let mut state = self.state();
        let State { sink, stdout, stderr, dropped, .. } = &mut *state;
        stdout.finish(&mut |line| sink.line(Stream::Stdout, line));
        stderr.finish(&mut |line| sink.line(Stream::Stderr, line));
        let dropped = std::mem::take(dropped);
        if dropped > 0 {
            sink.dropped(dropped);
        }
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.state();
        let State { sink, stdout, stderr, left, dropped } = &mut *state;
        let lines = match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        };
        *dropped += lines.push(bytes, left, &mut |line| sink.line(stream, line));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(sink: Arc<dyn LogSink>) -> Self {
        Self {
            sink,
            stdout: Lines::default(),
            stderr: Lines::default(),
            left: Budget { bytes: LOG_BYTES_PER_CALL_MAX, lines: LOG_LINES_PER_CALL_MAX },
            dropped: 0,
        }
    }
}

/// Splits bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes, emits the lines they complete, and says how many bytes were dropped.
    ///
    /// A line's end counts as a byte kept, so that empty lines are bounded too.
    fn push(&mut self, mut bytes: &[u8], left: &mut Budget, emit: &mut dyn FnMut(&str)) -> u64 {
        let mut dropped = 0;
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                if left.bytes == 0 || left.lines == 0 {
                    return dropped + bytes.len() as u64;
                }
                left.lines -= 1;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, rest) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..]),
                None => (bytes, &[][..]),
            };
            let kept = line.len().min(LOG_LINE_BYTES_MAX - self.partial.len()).min(left.bytes);
            self.partial.extend_from_slice(&line[..kept]);
            left.bytes -= kept;
            dropped += (line.len() - kept) as u64;
            if end.is_some() {
                self.emit(emit);
                left.bytes = left.bytes.saturating_sub(1);
            }
            bytes = rest;
        }
        dropped
    }

    /// Emits the last line if it has no end.
    fn finish(&mut self, emit: &mut dyn FnMut(&str)) {
        if !self.partial.is_empty() {
            self.emit(emit);
        }
    }

    fn emit(&mut self, emit: &mut dyn FnMut(&str)) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        emit(&String::from_utf8_lossy(line));
        self.partial.clear();
    }
}

/// The guest's end of a stream: always ready, never full.
#[derive(Clone)]
pub(crate) struct Pipe {
    output: Arc<Output>,
    stream: Stream,
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.output.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines emitted, bytes dropped.
    fn split(chunks: &[&[u8]], bytes: usize) -> (Vec<String>, u64) {
        let mut lines = Lines::default();
        let mut left = Budget { bytes, lines: LOG_LINES_PER_CALL_MAX };
        let mut emitted = Vec::new();
        let mut dropped = 0;
        for chunk in chunks {
            dropped += lines.push(chunk, &mut left, &mut |line| emitted.push(line.to_owned()));
        }
        lines.finish(&mut |line| emitted.push(line.to_owned()));
        (emitted, dropped)
    }

    #[test]
    fn lines_are_put_together_from_chunks() {
        let (lines, dropped) = split(&[b"on", b"e\ntwo\r\n\n", b"th", b"ree"], 1_000);
        assert_eq!(lines, ["one", "two", "", "three"]);
        assert_eq!(dropped, 0);
    }

    #[test]
    fn broken_text_is_replaced() {
        assert_eq!(split(&[b"a\xffb\n"], 1_000).0, ["a\u{fffd}b"]);
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = vec![b'x'; LOG_LINE_BYTES_MAX + 7];
        let (lines, dropped) = split(&[&long[..5], &long[5..], b"\nnext\n"], 1_000_000);
        assert_eq!(lines[0].len(), LOG_LINE_BYTES_MAX);
        assert_eq!(lines[1], "next");
        assert_eq!(dropped, 7);
    }

    #[test]
    fn beyond_the_budget_all_is_counted_and_dropped() {
        let (lines, dropped) = split(&[b"abc\ndef\n", b"ghi\n"], 6);
        assert_eq!(lines, ["abc", "de"]);
        assert_eq!(dropped, 1 + 4);
        assert!(split(&[&[b'\n'; 100]], 10).0.len() <= 10);
    }

    #[test]
    fn beyond_the_most_lines_of_a_call_all_is_counted_and_dropped() {
        let (lines, dropped) = split(&[&b"a\n".repeat(LOG_LINES_PER_CALL_MAX + 3)], 1_000_000);
        assert_eq!((lines.len(), dropped), (LOG_LINES_PER_CALL_MAX, 6));
        let (lines, dropped) = split(&[&vec![b'\n'; LOG_LINES_PER_CALL_MAX + 3]], 1_000_000);
        assert_eq!((lines.len(), dropped), (LOG_LINES_PER_CALL_MAX, 3));
    }

    #[test]
    fn both_streams_share_the_lines_of_a_call_and_keep_what_has_begun() {
        #[derive(Default)]
        struct Counted(Mutex<(usize, u64)>);
        impl LogSink for Counted {
            fn line(&self, _: Stream, _: &str) {
                self.0.lock().unwrap().0 += 1;
            }
            fn dropped(&self, bytes: u64) {
                self.0.lock().unwrap().1 += bytes;
            }
        }
        let sink = Arc::new(Counted::default());
        let output = Output::new(sink.clone());
        output.write(Stream::Stderr, b"beg");
        output.write(Stream::Stdout, &b"a\n".repeat(LOG_LINES_PER_CALL_MAX));
        output.write(Stream::Stderr, b"un\nnext\n");
        output.finish();
        assert_eq!(*sink.0.lock().unwrap(), (LOG_LINES_PER_CALL_MAX, 2 + 5));
    }
}
