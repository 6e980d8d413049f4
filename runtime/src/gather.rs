//! Short answers of many connections, handed to the kernel in one system call.
//!
//! A caller that is woken by the first of several answers takes the processor, reads that one, asks again and
//! sleeps: two changes of threads for each call. So what connections of a thread of guests write is gathered
//! while the calls that have come are run, and handed over together after them: their callers find all of it.
//! Linux's `io_submit` does that for sockets, which it serves on the spot. Where there is none, each connection
//! writes for itself.
//!
//! What is long, or comes while earlier bytes wait for a slow caller, is written as usual. That bytes were
//! taken here does not say that they were sent: an error shows with the next read or write.

mod kernel;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use kernel::Kernel;

/// Most bytes of a caller's connection that wait to be handed over: an answer of a page. More is written at once.
const BYTES_MAX: usize = 4 << 10;
/// Most connections that are served by one system call.
const AT_ONCE_MAX: usize = 64;

thread_local! {
    static ROUND: RefCell<Option<Round>> = const { RefCell::new(None) };
}

/// What waits on this thread.
struct Round {
    kernel: Kernel,
    lines: Vec<Arc<Mutex<Line>>>,
    begun: Arc<Notify>,
}

/// Gathers on this thread from now on; the future hands over what was gathered, and is to be run here. None:
/// the kernel has no way to do that.
pub(crate) fn begin() -> Option<impl Future<Output = ()> + Send> {
    let kernel = Kernel::open()?;
    let begun = Arc::new(Notify::new());
    let round = Round { kernel, lines: Vec::new(), begun: Arc::clone(&begun) };
    ROUND.set(Some(round));
    Some(async move {
        loop {
            begun.notified().await;
            hand_over();
        }
    })
}

/// Whether this thread gathers what its connections write.
pub fn gathers() -> bool {
    ROUND.with_borrow(Option::is_some)
}

/// A caller's connection whose short writes are gathered.
#[derive(Debug)]
pub struct Gathered {
    stream: TcpStream,
    line: Arc<Mutex<Line>>,
}

/// Moves a connection from the scheduler of one thread to that of another.
#[derive(Debug)]
pub struct Mover(Arc<Mutex<Line>>);

impl Mover {
    /// Whoever reads next has its own scheduler watch the connection from then on. To be called when the
    /// task that has read so far does so no more.
    pub fn move_on(&self) {
        lock(&self.0).moves = true;
    }
}

/// What one connection has to say.
#[derive(Debug)]
struct Line {
    socket: RawFd,
    bytes: Vec<u8>,
    /// So many of them may wait.
    bytes_max: usize,
    /// Whether it is part of the round. If not, bytes that are left wait for a slow caller.
    joined: bool,
    /// What became of bytes that were taken.
    failed: Option<io::Error>,
    /// Whether the scheduler of whoever reads next shall watch the socket from then on.
    moves: bool,
    /// Whom to tell that bytes are left, or lost.
    owner: Option<Waker>,
}

impl Gathered {
    /// Of a caller's connection.
    pub fn new(stream: TcpStream) -> Self {
        Self::with_room(stream, BYTES_MAX)
    }

    /// Of a connection of many calls, of which so many bytes may wait to be handed over.
    pub fn with_room(stream: TcpStream, bytes_max: usize) -> Self {
        let socket = stream.as_raw_fd();
        let line = Line {
            socket,
            bytes: Vec::new(),
            bytes_max,
            joined: false,
            failed: None,
            moves: false,
            owner: None,
        };
        Self { stream, line: Arc::new(Mutex::new(line)) }
    }

    /// The address that it was accepted at.
    ///
    /// # Errors
    /// The kernel does not know.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// What moves it to another scheduler while something else holds it.
    pub fn mover(&self) -> Mover {
        Mover(Arc::clone(&self.line))
    }

    fn poll_write_all(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut line = lock(&self.line);
        if let Some(error) = line.failed.take() {
            return Poll::Ready(Err(error));
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let is_short = line.bytes.len() + length <= line.bytes_max;
        // Behind bytes that wait for a slow caller it waits too.
        let is_open = line.joined || line.bytes.is_empty();
        if is_short && is_open && (line.joined || join(&self.line)) {
            line.joined = true;
            slices.iter().for_each(|slice| line.bytes.extend_from_slice(slice));
            if !line.owner.as_ref().is_some_and(|owner| owner.will_wake(context.waker())) {
                line.owner = Some(context.waker().clone());
            }
            return Poll::Ready(Ok(length));
        }
        ready!(line.poll_drain(&mut self.stream, context))?;
        drop(line);
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

impl Line {
    /// Has the scheduler here watch the socket, in place of the one that did.
    fn settle(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        self.moves = false;
        *stream = TcpStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?;
        self.socket = stream.as_raw_fd();
        Ok(())
    }

    /// Writes what is left in the usual way.
    fn poll_drain(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(context, &self.bytes))?;
            self.bytes.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// So many bytes were sent, or none for this reason.
    fn sent(&mut self, result: io::Result<usize>) {
        match result {
            Ok(sent) => {
                self.bytes.drain(..sent.min(self.bytes.len()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.bytes.clear();
                self.failed = Some(error);
            }
        }
        if (!self.bytes.is_empty() || self.failed.is_some())
            && let Some(owner) = self.owner.take()
        {
            owner.wake();
        }
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut line = lock(&this.line);
        if let Some(error) = line.failed.take() {
            return Poll::Ready(Err(error));
        }
        if line.moves {
            line.settle(&mut this.stream)?;
        }
        if !line.joined && !line.bytes.is_empty() {
            // Whoever reads may write nothing more: so what is left is sent here.
            if let Poll::Ready(Err(error)) = line.poll_drain(&mut this.stream, context) {
                return Poll::Ready(Err(error));
            }
        }
        drop(line);
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_all(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_all(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut line = lock(&this.line);
        // What is part of the round is on its way.
        if line.joined { Poll::Ready(Ok(())) } else { line.poll_drain(&mut this.stream, context) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(lock(&this.line).poll_drain(&mut this.stream, context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        let mut line = lock(&self.line);
        if !line.bytes.is_empty() {
            // The caller may still be there, and nobody else will send it.
            let _ = self.stream.try_write(&line.bytes);
        }
        // The number of the socket will be another's: the round must find nothing to send to it.
        line.bytes.clear();
        line.owner = None;
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a connection part of this thread's round; false: there is none.
fn join(line: &Arc<Mutex<Line>>) -> bool {
    ROUND.with_borrow_mut(|round| {
        let Some(round) = round else { return false };
        if round.lines.is_empty() {
            // Behind all that waits for its turn on this thread.
            round.begun.notify_one();
        }
        round.lines.push(Arc::clone(line));
        true
    })
}

/// Hands over what was gathered on this thread, if there is something.
pub(crate) fn hand_over() {
    ROUND.with_borrow_mut(|round| {
        let Some(round) = round else { return };
        for lines in round.lines.chunks(AT_ONCE_MAX) {
            let mut lines: Vec<_> = lines.iter().map(|line| lock(line)).collect();
            lines.iter_mut().for_each(|line| line.joined = false);
            lines.retain(|line| !line.bytes.is_empty());
            round.kernel.send(&mut lines);
        }
        round.lines.clear();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    /// Runs on a thread that gathers; some of what it does must not wait for anything.
    fn gathering<F: Future<Output = ()>>(work: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.spawn(begin().expect("this kernel has io_submit"));
        assert!(gathers());
        runtime.block_on(work);
        ROUND.set(None);
    }

    async fn pair() -> (Gathered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Gathered::new(listener.accept().await.unwrap().0), far)
    }

    #[test]
    fn what_many_write_arrives_with_each_of_them_and_not_before_the_round_ends() {
        gathering(async {
            let mut pairs = Vec::new();
            for _ in 0..AT_ONCE_MAX + 3 {
                pairs.push(pair().await);
            }
            for (n, (near, far)) in pairs.iter_mut().enumerate() {
                near.write_all(format!("answer {n};").as_bytes()).await.unwrap();
                near.write_all(b" more").await.unwrap();
                near.flush().await.unwrap();
                assert!(far.try_read(&mut [0; 9]).is_err(), "nothing is there yet");
            }
            for (n, (_near, far)) in pairs.iter_mut().enumerate() {
                let expected = format!("answer {n}; more");
                let mut text = vec![0; expected.len()];
                far.read_exact(&mut text).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&text), expected);
            }
        });
    }

    #[test]
    fn long_and_short_writes_keep_their_order_also_towards_a_slow_caller() {
        gathering(async {
            let (mut near, mut far) = pair().await;
            let pieces: Vec<Vec<u8>> = (0..200_u32)
                .map(|n| vec![n as u8; if n % 3 == 0 { 100_000 } else { 50 }])
                .collect();
            let expected = pieces.concat();
            let writing = async {
                for piece in &pieces {
                    near.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                near.shutdown().await.unwrap();
            };
            let reading = async {
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.unwrap();
                all
            };
            let ((), all) = tokio::join!(writing, reading);
            assert!(all == expected, "{} of {} bytes", all.len(), expected.len());
        });
    }

    #[test]
    fn what_a_full_socket_does_not_take_is_sent_when_it_does() {
        gathering(async {
            let (mut near, mut far) = pair().await;
            // Until the kernel takes no more; then what is short waits here.
            let filler = [7; 64 << 10];
            let mut filled = 0;
            while let Ok(more) = near.stream.try_write(&filler) {
                filled += more;
            }
            near.write_all(b"the end").await.unwrap();
            tokio::task::yield_now().await;
            let answer = async {
                // A server waits for the next request.
                near.read(&mut [0; 1]).await
            };
            let reading = async {
                let mut all = vec![0; filled + 7];
                far.read_exact(&mut all).await.unwrap();
                far.write_all(b"x").await.unwrap();
                all
            };
            let (read, all) = tokio::join!(answer, reading);
            assert_eq!((read.unwrap(), &all[filled..]), (1, &b"the end"[..]));
        });
    }

    #[test]
    fn a_connection_that_goes_sends_what_it_has_and_its_number_is_safe() {
        gathering(async {
            let (mut near, mut far) = pair().await;
            near.write_all(b"bye").await.unwrap();
            let number = near.stream.as_raw_fd();
            drop(near);
            // Most likely the same number.
            let (other, mut far_of_other) = pair().await;
            let mut text = Vec::new();
            far.read_to_end(&mut text).await.unwrap();
            assert_eq!(text, b"bye");
            tokio::task::yield_now().await;
            let nothing = far_of_other.try_read(&mut [0; 9]);
            assert!(nothing.is_err(), "{number} {} {nothing:?}", other.stream.as_raw_fd());
            drop(other);
            assert_eq!(far_of_other.read(&mut [0; 9]).await.unwrap(), 0);
        });
    }

    #[test]
    fn a_caller_that_is_gone_is_an_error_of_the_next_read_or_write() {
        gathering(async {
            let (mut near, far) = pair().await;
            far.set_zero_linger().unwrap();
            drop(far);
            // The first may be taken by the kernel before it knows.
            let mut said = Ok(());
            for _ in 0..100 {
                said = near.write_all(b"x").await;
                if said.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert!(said.is_err());
        });
    }

    #[test]
    fn elsewhere_each_connection_writes_for_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = pair().await;
            assert!(!gathers());
            near.write_all(b"now").await.unwrap();
            let mut text = [0; 3];
            far.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"now");
        });
    }

    #[test]
    fn what_was_gathered_is_sent_when_somebody_says_so() {
        gathering(async {
            let (mut near, far) = pair().await;
            far.writable().await.unwrap();
            near.write_all(b"answer").await.unwrap();
            assert!(far.try_read(&mut [0; 9]).is_err(), "nothing is there yet");
            hand_over();
            let mut text = [0; 6];
            far.readable().await.unwrap();
            assert_eq!((far.try_read(&mut text).unwrap(), &text), (6, b"answer"));
        });
    }

    #[test]
    fn a_connection_that_has_moved_needs_nothing_of_where_it_was() {
        let scheduler =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (before, after, elsewhere) = (scheduler(), scheduler(), scheduler());
        let listener = elsewhere.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let mut far = elsewhere.block_on(TcpStream::connect(address)).unwrap();
        let (near, _) = elsewhere.block_on(listener.accept()).unwrap();
        let mut near = before.block_on(async {
            let near = TcpStream::from_std(near.into_std().unwrap()).unwrap();
            Gathered::new(near)
        });
        elsewhere.block_on(far.write_all(b"one")).unwrap();
        let mut text = [0; 3];
        before.block_on(near.read_exact(&mut text)).unwrap();
        near.mover().move_on();
        // Its sockets are dead from here on.
        drop(before);
        let asked = elsewhere.spawn(async move {
            far.write_all(b"two").await.unwrap();
            let mut answer = [0; 5];
            far.read_exact(&mut answer).await.unwrap();
            answer
        });
        let answering = std::thread::spawn(move || {
            after.block_on(async {
                near.read_exact(&mut text).await.unwrap();
                assert_eq!(&text, b"two");
                near.write_all(b"three").await.unwrap();
                near.flush().await.unwrap();
            });
        });
        assert_eq!(&elsewhere.block_on(asked).unwrap(), b"three");
        answering.join().unwrap();
    }
}
