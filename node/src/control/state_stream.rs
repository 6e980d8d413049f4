//! A whole state on its way to a node that follows: encoded while it is sent and decoded while it
//! arrives, so that neither side holds more of its bytes than a few pieces.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use nigh_model::State;
use nigh_model::encoding::{Undecodable, read_state, write_state};
use nigh_proto::peer::v1::watch_event::Event;
use nigh_proto::peer::v1::{SnapshotPiece, WatchEvent};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;

/// Bytes of a state in one message.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait to be decoded.
const QUEUE: usize = 4;
/// Largest state taken from a replica.
const STATE_BYTES_MAX: usize = 1 << 30;

/// Where a watcher takes its events from.
pub(super) type Events = mpsc::Sender<Result<WatchEvent, Status>>;

/// Sends the whole state; the index that it is at, or none when the watcher has gone.
pub(super) async fn send(state: Arc<State>, events: &Events) -> Option<u64> {
    let index = state.applied;
    let mut pieces = Pieces { index, events: events.clone(), filled: BytesMut::new() };
    let sent = tokio::task::spawn_blocking(move || {
        write_state(&state, &mut pieces)?;
        pieces.send(true)
    });
    sent.await.ok()?.ok()?;
    Some(index)
}

/// Sends what is written to it, a piece at a time.
struct Pieces {
    index: u64,
    events: Events,
    filled: BytesMut,
}

impl Pieces {
    fn send(&mut self, last: bool) -> io::Result<()> {
        let data = self.filled.split().freeze();
        let event = Event::Snapshot(SnapshotPiece { index: self.index, data, last });
        let sent = self.events.blocking_send(Ok(WatchEvent { event: Some(event) }));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled.is_empty() {
            self.filled.reserve(PIECE_BYTES);
        }
        let taken = bytes.len().min(PIECE_BYTES - self.filled.len());
        self.filled.extend_from_slice(&bytes[..taken]);
        if self.filled.len() == PIECE_BYTES {
            self.send(false)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A state that arrives.
pub(super) struct Arriving {
    pieces: mpsc::Sender<Bytes>,
    decoded: JoinHandle<Result<State, Undecodable>>,
    bytes: usize,
}

/// Why none came of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// More than there can be.
    #[error("its state is larger than 1 GiB")]
    TooLarge,
    /// This build cannot read it.
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    /// Nobody decoded it: the node is stopping.
    #[error("the state is decoded no more: {0}")]
    Stopping(#[from] tokio::task::JoinError),
}

impl Arriving {
    pub(super) fn begin() -> Self {
        let (pieces, queue) = mpsc::channel(QUEUE);
        let mut source = Source { queue, piece: Bytes::new() };
        let decoded = tokio::task::spawn_blocking(move || read_state(&mut source));
        Self { pieces, decoded, bytes: 0 }
    }

    /// Takes a piece; waits while too many wait to be decoded.
    pub(super) async fn add(&mut self, piece: Bytes) -> Result<(), Unfit> {
        self.bytes += piece.len();
        if self.bytes > STATE_BYTES_MAX {
            return Err(Unfit::TooLarge);
        }
        // Nobody takes it when an earlier piece was wrong; the end says so.
        let _ = self.pieces.send(piece).await;
        Ok(())
    }

    /// The state, when all pieces came.
    pub(super) async fn end(self) -> Result<State, Unfit> {
        drop(self.pieces);
        Ok(self.decoded.await??)
    }
}

/// Reads pieces one after the other, until no more come.
struct Source {
    queue: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use nigh_model::RequestId;

    use super::*;

    fn pieces_of(event: WatchEvent) -> SnapshotPiece {
        match event.event {
            Some(Event::Snapshot(piece)) => piece,
            other => panic!("{other:?} is no piece"),
        }
    }

    /// A state of more than a MiB.
    fn large() -> State {
        let mut state = State { applied: 9, ..State::default() };
        for index in 0..20_000 {
            let id = RequestId::new(format!("{index:064}")).unwrap();
            state.replies_by_index.insert(index, id);
        }
        state
    }

    #[tokio::test]
    async fn a_state_arrives_as_it_was_sent_in_pieces_of_bounded_size() {
        let state = Arc::new(large());
        let (events, mut watcher) = mpsc::channel(2);
        let sent = tokio::spawn({
            let state = state.clone();
            async move { send(state, &events).await }
        });
        let mut arriving = Arriving::begin();
        let mut count = 0;
        loop {
            let piece = pieces_of(watcher.recv().await.unwrap().unwrap());
            assert!(piece.data.len() <= PIECE_BYTES && piece.index == 9);
            count += 1;
            arriving.add(piece.data).await.unwrap();
            if piece.last {
                break;
            }
        }
        assert_eq!(sent.await.unwrap(), Some(9));
        assert!(count > 2, "{count} pieces");
        assert_eq!(arriving.end().await.unwrap(), *state);
    }

    #[tokio::test]
    async fn a_state_that_is_cut_short_is_refused() {
        let mut arriving = Arriving::begin();
        let bytes = rmp_serde::to_vec_named(&large()).unwrap();
        arriving.add(bytes[..bytes.len() / 2].to_vec().into()).await.unwrap();
        assert!(matches!(arriving.end().await, Err(Unfit::Undecodable(_))));
    }

    #[tokio::test]
    async fn a_watcher_that_goes_ends_the_sending() {
        let (events, watcher) = mpsc::channel(1);
        drop(watcher);
        assert_eq!(send(Arc::new(large()), &events).await, None);
    }
}
