//! From the addresses of a node to a connection. A node in several networks has an address in
//! each, of which some lead nowhere from here; a container comes back with another one. So names
//! are resolved at every attempt, the address that worked last is tried first, and one that does
//! not answer does not hold up the next for long (as RFC 8305 does between IPv6 and IPv4).
//!
//! It deliberately does not know who should answer: whoever shakes hands says what came of it.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;

/// An address that has not answered by then is not waited for any longer before the next is
/// tried as well: longer than the round trip within a continent.
const STAGGER: Duration = Duration::from_millis(200);

/// The addresses of one node, and which of them to try first. All lanes to a node share it.
#[derive(Debug)]
pub(crate) struct Way {
    addresses: Vec<String>,
    first: AtomicUsize,
}

/// A connection, and by which of the addresses it was made.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// The connection.
    pub(crate) stream: TcpStream,
    /// The address's place among those of the way.
    pub(crate) at: usize,
}

impl Way {
    /// A way by these addresses, each `host:port`, the most likely one first.
    pub(crate) fn new(addresses: Vec<String>) -> Self {
        Self { addresses, first: AtomicUsize::new(0) }
    }

    /// All its addresses.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The place of the address that is tried first: the one that worked last.
    pub(crate) fn first(&self) -> usize {
        self.first.load(Relaxed)
    }

    /// Who answered at this address is who was meant: it is tried first from now on.
    pub(crate) fn worked(&self, at: usize) {
        self.first.store(at, Relaxed);
    }

    /// Somebody else answered at this address: another is tried first from now on.
    pub(crate) fn failed(&self, at: usize) {
        let next = (at + 1) % self.addresses.len().max(1);
        // Unless another lane has found a better one meanwhile.
        let _ = self.first.compare_exchange(at, next, Relaxed, Relaxed);
    }

    /// Connects to the first of the addresses that answers.
    ///
    /// # Errors
    /// None does; what the last one said.
    pub(crate) async fn dial(&self) -> io::Result<Dialed> {
        let (at, stream) =
            first_of(self.order(), |at| TcpStream::connect(self.addresses[at].as_str())).await?;
        Ok(Dialed { stream, at })
    }

    /// The places of the addresses in the order in which they are tried.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.first(), self.addresses.len());
        (0..count).map(move |n| (first + n) % count)
    }
}

/// The first of these attempts that succeeds. Each is begun when the one before has failed or
/// taken [`STAGGER`]; all go on until one succeeds.
async fn first_of<T, F>(
    mut order: impl Iterator<Item = usize>,
    attempt: impl Fn(usize) -> F,
) -> io::Result<(usize, T)>
where
    F: Future<Output = io::Result<T>>,
{
    let mut open = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the node has no address");
    loop {
        let begun = order.next();
        if let Some(at) = begun {
            let attempt = attempt(at);
            open.push(async move { (at, attempt.await) });
        }
        tokio::select! {
            ended = open.next() => match ended {
                Some((at, Ok(done))) => return Ok((at, done)),
                Some((_, Err(error))) => last = error,
                None => return Err(last),
            },
            () = tokio::time::sleep(STAGGER), if begun.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    async fn closed() -> String {
        listener().await.1
    }

    #[tokio::test]
    async fn addresses_are_tried_in_turn_and_what_worked_is_remembered() {
        let (_there, there) = listener().await;
        let way = Way::new(vec![closed().await, "no-such-host.invalid:1".into(), there]);
        let dialed = way.dial().await.unwrap();
        assert_eq!(dialed.at, 2);
        way.worked(dialed.at);
        assert_eq!(way.order().collect::<Vec<_>>(), [2, 0, 1]);
        way.failed(2);
        assert_eq!(way.first(), 0);
        way.failed(2);
        assert_eq!(way.first(), 0, "a lane that failed before changes nothing");
    }

    #[tokio::test]
    async fn a_node_that_answers_nowhere_is_an_error() {
        let way = Way::new(vec![closed().await, closed().await]);
        let error = way.dial().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(Way::new(Vec::new()).dial().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_holds_up_the_next_for_a_moment_only() {
        let began = Instant::now();
        let attempt = |at| async move {
            // The first never answers; the others take a while.
            if at == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(50 * at as u64)).await;
            Ok(())
        };
        let (at, ()) = first_of(0..3, attempt).await.unwrap();
        assert_eq!((at, began.elapsed()), (1, STAGGER + Duration::from_millis(50)));
    }
}
