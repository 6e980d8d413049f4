//! Datagrams that leave later than they were sent, where a long way is emulated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::counters::Counters;

/// Datagrams on their way at once: ten a round to each of a hundred nodes, for half a second.
const ON_THE_WAY_MAX: usize = 2_048;

/// A datagram and when it leaves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    /// When it leaves.
    pub(super) at: Instant,
    /// To whom.
    pub(super) to: SocketAddr,
    /// The datagram.
    pub(super) datagram: Bytes,
}

/// Parcels in the order in which they leave, and of equal times as they came. Pure.
#[derive(Debug, Default)]
struct DelayLine {
    parcels: BinaryHeap<Reverse<Place>>,
    pushed: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    order: (Instant, u64),
    to: SocketAddr,
    datagram: Bytes,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl DelayLine {
    /// Takes a parcel; false when too many are on their way: then the new one is lost, as
    /// datagrams may be.
    fn push(&mut self, parcel: Parcel) -> bool {
        if self.parcels.len() >= ON_THE_WAY_MAX {
            return false;
        }
        self.pushed += 1;
        let Parcel { at, to, datagram } = parcel;
        self.parcels.push(Reverse(Place { order: (at, self.pushed), to, datagram }));
        true
    }

    /// The next parcel if it leaves by now.
    fn pop(&mut self, now: Instant) -> Option<(SocketAddr, Bytes)> {
        self.next_at().filter(|at| *at <= now)?;
        self.parcels.pop().map(|Reverse(place)| (place.to, place.datagram))
    }

    fn next_at(&self) -> Option<Instant> {
        self.parcels.peek().map(|Reverse(place)| place.order.0)
    }
}

/// Sends parcels when they are due, until cancelled or until no more can come.
pub(super) async fn carry(
    mut parcels: mpsc::Receiver<Parcel>,
    socket: Arc<UdpSocket>,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let mut line = DelayLine::default();
    loop {
        let next = line.next_at();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = due => {}
            parcel = parcels.recv() => {
                let Some(parcel) = parcel else { return };
                if !line.push(parcel) {
                    counters.send_dropped.add();
                }
            }
        }
        while let Some((to, datagram)) = line.pop(Instant::now()) {
            match socket.send_to(&datagram, to).await {
                Ok(_) => counters.sent.add(),
                Err(_) => counters.send_dropped.add(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parcel(at: Instant, text: &'static str) -> Parcel {
        Parcel {
            at,
            to: "127.0.0.1:1".parse().unwrap(),
            datagram: Bytes::from_static(text.as_bytes()),
        }
    }

    fn pop(line: &mut DelayLine, now: Instant) -> Option<Bytes> {
        line.pop(now).map(|(_, datagram)| datagram)
    }

    #[test]
    fn parcels_leave_in_the_order_of_their_times() {
        let (now, mut line) = (Instant::now(), DelayLine::default());
        let at = |ms| now + Duration::from_millis(ms);
        for (ms, text) in [(30, "late"), (10, "first"), (10, "second"), (0, "now")] {
            assert!(line.push(parcel(at(ms), text)));
        }
        assert_eq!(pop(&mut line, now).unwrap(), "now");
        assert_eq!(pop(&mut line, at(9)), None);
        assert_eq!(pop(&mut line, at(40)).unwrap(), "first");
        assert_eq!(pop(&mut line, at(40)).unwrap(), "second");
        assert_eq!(line.next_at(), Some(at(30)));
        assert_eq!(pop(&mut line, at(40)).unwrap(), "late");
        assert_eq!(line.next_at(), None);
    }

    #[test]
    fn too_many_parcels_are_refused() {
        let (now, mut line) = (Instant::now(), DelayLine::default());
        assert!((0..ON_THE_WAY_MAX).all(|_| line.push(parcel(now, "x"))));
        assert!(!line.push(parcel(now, "x")));
        line.pop(now).unwrap();
        assert!(line.push(parcel(now, "x")));
    }
}
