//! A byte stream whose bytes arrive later than they were sent, each way.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes on the way in one direction before the sender has to wait: the product of a fast
/// link and a long way (1 Gbit/s over 250 ms would be 31 MB; a window of this is enough here).
const ON_THE_WAY_BYTES_MAX: usize = 8 << 20;
/// Most bytes taken from the socket at once.
const READ_BYTES: usize = 64 << 10;

/// A stream that delays both directions by the same time.
pub(crate) struct Delayed<S> {
    inner: S,
    delay: Duration,
    outgoing: Way,
    incoming: Way,
    read_ended: bool,
    read_buffer: Box<[u8]>,
}

/// Bytes on the way in one direction, in order of arrival.
struct Way {
    pieces: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    timer: Pin<Box<Sleep>>,
}

impl Way {
    fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
            bytes: 0,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    fn push(&mut self, at: Instant, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back((at, piece));
    }

    /// Ready when the first piece has arrived, or at once when there is none.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Option<&mut Bytes>> {
        let Some(at) = self.pieces.front().map(|(at, _)| *at) else { return Poll::Ready(None) };
        if at > Instant::now() {
            self.timer.as_mut().reset(at);
            ready!(self.timer.as_mut().poll(cx));
        }
        Poll::Ready(self.pieces.front_mut().map(|(_, piece)| piece))
    }

    fn consume(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some((_, piece)) = self.pieces.front_mut() {
            piece.advance(bytes);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Delayed<S> {
    /// Delays each direction of `inner` by `delay`.
    pub(crate) fn new(inner: S, delay: Duration) -> Self {
        Self {
            inner,
            delay,
            outgoing: Way::new(),
            incoming: Way::new(),
            read_ended: false,
            read_buffer: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// Hands over to the socket what has arrived at its end.
    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Some(piece) = ready!(self.outgoing.poll_arrival(cx)) else {
                return Poll::Ready(Ok(()));
            };
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, piece))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(written);
        }
    }

    /// Takes what the socket holds and notes when it arrives here.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.read_ended && self.incoming.bytes < ON_THE_WAY_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut self.read_buffer);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.read_ended = true,
                Poll::Ready(Ok(())) => {
                    let piece = Bytes::copy_from_slice(buffer.filled());
                    self.incoming.push(Instant::now() + self.delay, piece);
                }
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Delayed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A writer that waits for nothing more is polled here alone: deliver for it too.
        if let Poll::Ready(Err(error)) = self.poll_deliver(cx) {
            return Poll::Ready(Err(error));
        }
        self.poll_fill(cx)?;
        let read_ended = self.read_ended;
        match self.incoming.poll_arrival(cx) {
            Poll::Ready(Some(piece)) => {
                let taken = piece.len().min(buffer.remaining());
                buffer.put_slice(&piece[..taken]);
                self.incoming.consume(taken);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(None) if read_ended => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Delayed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let delivered = self.poll_deliver(cx);
        if let Poll::Ready(Err(error)) = delivered {
            return Poll::Ready(Err(error));
        }
        if self.outgoing.bytes >= ON_THE_WAY_BYTES_MAX {
            return Poll::Pending;
        }
        let at = Instant::now() + self.delay;
        self.outgoing.push(at, Bytes::copy_from_slice(bytes));
        // Arms the timer of the piece that was just sent, should it be the first.
        if let Poll::Ready(Err(error)) = self.poll_deliver(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The far end is not waited for: its distance is what is emulated.
        match self.poll_deliver(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_deliver(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_in_order_and_one_way_later_each_way() {
        let delay = Duration::from_millis(40);
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Delayed::new(near, delay);
        let began = Instant::now();
        let echo = tokio::spawn(async move {
            let mut got = [0; 4];
            far.read_exact(&mut got).await.unwrap();
            assert!(began.elapsed() >= delay);
            far.write_all(&got).await.unwrap();
        });
        near.write_all(b"ab").await.unwrap();
        near.write_all(b"cd").await.unwrap();
        let mut got = [0; 4];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"abcd");
        assert!(began.elapsed() >= 2 * delay && began.elapsed() < 3 * delay);
        echo.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_transfer_arrives_whole() {
        let (near, mut far) = tokio::io::duplex(4 << 10);
        let mut near = Delayed::new(near, Duration::from_millis(10));
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(reader.await.unwrap() == expected);
    }
}
