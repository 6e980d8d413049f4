//! A caller's connection, held to what is fair: it begins in time, it takes what it is sent, and
//! what it still sends at the end does not cost it its answer.

use std::future::Future as _;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::pulse::Pulse;

/// A connection that has not begun by then is closed: nothing has come, or only a part of what
/// tells HTTP/2 from HTTP/1, for which the server waits without a limit of its own.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(30);
/// How HTTP/2 begins (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A caller that takes no byte for this long is gone, or means harm.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// So does one that takes fewer bytes while it is waited for as long: 1 KiB a second.
const WRITE_BYTES_MIN: usize = 32 << 10;
/// After the last answer what still comes is read and dropped for this long: closing a socket
/// with unread bytes resets it, and a reset can overtake the answer (RFC 9112 §9.6).
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Most bytes that are dropped so.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// A caller's connection.
pub(crate) struct Socket<S> {
    stream: S,
    /// What was read of it already, and is to be read again.
    ahead: Bytes,
    pulse: Arc<Pulse>,
    /// Runs until it is told which HTTP is spoken, with how much of the preface has come.
    silence: Option<(Pin<Box<Sleep>>, usize)>,
    /// Since when the caller is behind.
    stall: Option<Stall>,
    /// Runs after the last byte was sent, with what may still be dropped.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

/// A caller that is behind.
struct Stall {
    /// Runs out when it was waited for too long.
    sleep: Pin<Box<Sleep>>,
    /// Since when it takes nothing.
    since: Option<Instant>,
    /// How long it was waited for before that.
    waited: Duration,
    /// What it has taken meanwhile, in bytes.
    taken: usize,
}

impl<S> Socket<S> {
    /// Holds a connection, over TCP or over TLS, to what is fair.
    pub(crate) fn new(stream: S) -> Self {
        let silence = Some((Box::pin(sleep(BEGIN_WAIT_MAX)), 0));
        let (ahead, pulse) = (Bytes::new(), Arc::default());
        Self { stream, ahead, pulse, silence, stall: None, linger: None }
    }

    /// What happens on it.
    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// These bytes were read of it, and are to be read again.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    /// Passes on the result of a write, unless the caller has been too slow for too long.
    fn watch(
        &mut self,
        poll: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.pulse.blocked(poll.is_pending());
        if let Poll::Ready(written) = &poll {
            self.pulse.moved();
            let taken = written.as_ref().copied().unwrap_or(0);
            self.stall.take_if(|stall| stall.is_over(taken));
            return poll;
        }
        ready!(self.stall.get_or_insert_with(Stall::new).poll(context));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the caller takes too few bytes")))
    }
}

impl Stall {
    fn new() -> Self {
        let sleep = Box::pin(sleep(WRITE_STALL_MAX));
        Self { sleep, since: None, waited: Duration::ZERO, taken: 0 }
    }

    /// The caller has taken something: whether that is enough.
    fn is_over(&mut self, taken: usize) -> bool {
        self.waited += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.taken += taken;
        self.taken >= WRITE_BYTES_MIN
    }

    /// The caller takes nothing: ready when it was waited for too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            self.sleep.as_mut().reset(now + WRITE_STALL_MAX.saturating_sub(self.waited));
        }
        self.sleep.as_mut().poll(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if poll.is_ready() {
            self.pulse.moved();
        }
        let Some((silence, matched)) = &mut self.silence else { return poll };
        if poll.is_pending() {
            ready!(silence.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "it did not begin")));
        }
        let came = &buffer.filled()[before..];
        *matched += came.len();
        let undecided = !came.is_empty()
            && *matched < PREFACE.len()
            && PREFACE[*matched - came.len()..].starts_with(came);
        if !undecided {
            self.silence = None;
        }
        poll
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.pulse.blocked(poll.is_pending());
        poll
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        let (until, left) =
            this.linger.get_or_insert_with(|| (Box::pin(sleep(LINGER_MAX)), LINGER_BYTES_MAX));
        let mut scratch = [0; 8 << 10];
        while *left > 0 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Pending => {
                    ready!(until.as_mut().poll(context));
                    break;
                }
                // The caller has closed too, or is gone.
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => break,
                Poll::Ready(Err(_)) => break,
                Poll::Ready(Ok(())) => *left = left.saturating_sub(buffer.filled().len()),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    /// What a second read brings after this was sent, and nothing more; none: it waits on.
    async fn second_read(sent: &[u8]) -> Option<io::Result<usize>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0);
        caller.write_all(sent).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(socket.read(&mut buffer).await.unwrap(), sent.len());
        tokio::time::pause();
        let second = tokio::time::timeout(2 * BEGIN_WAIT_MAX, socket.read(&mut buffer)).await;
        tokio::time::resume();
        second.ok()
    }

    #[tokio::test]
    async fn a_caller_that_sends_a_part_of_the_preface_is_not_waited_for() {
        let second = second_read(b"PRI * HT").await.unwrap();
        assert_eq!(second.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    /// Writes until the caller is given up, while it takes so much every ten seconds; how long that takes.
    async fn stalls_after(each: usize) -> Option<Duration> {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut socket = Socket::new(near);
        let writing = tokio::spawn(async move {
            let began = Instant::now();
            let written = socket.write_all(&[0; 1 << 20]).await;
            written.is_err().then(|| began.elapsed())
        });
        let reading = async {
            let mut taken = vec![0; each];
            while far.read_exact(&mut taken).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        };
        tokio::select! {
            given_up = writing => given_up.unwrap(),
            () = reading => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_its_answer_by_the_drop_is_given_up() {
        let about = |seconds| move |took: Duration| took.as_secs().abs_diff(seconds) <= 1;
        assert!(stalls_after(2 << 20).await.is_none());
        assert!(stalls_after(20 << 10).await.is_none(), "slow, and not too slow");
        assert!(stalls_after(100).await.is_some_and(about(30)), "it takes a little each time");
    }

    #[tokio::test]
    async fn a_caller_that_has_begun_may_take_its_time() {
        assert!(second_read(b"G").await.is_none());
        assert!(second_read(PREFACE).await.is_none());
    }
}
