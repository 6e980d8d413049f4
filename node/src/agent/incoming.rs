//! A component on its way to this node's disk: checked as it comes, kept only when it is whole.

use bytes::Bytes;
use nigh_model::Digest;
use nigh_model::limits::COMPONENT_BYTES_MAX;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::Error;
use super::stock::Stock;

/// Chunks between the network and the disk: enough that neither waits for the other's hiccups.
const CHUNKS_WAITING: usize = 8;

/// A component being received. Dropped before [`keep`](Self::keep), it leaves nothing.
pub(crate) struct Incoming {
    stock: Stock,
    digest: Digest,
    received: u64,
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<Result<(), Error>>,
}

enum Piece {
    Chunk(Bytes),
    /// All came; look at it before it is kept, or not.
    End {
        inspect: bool,
    },
}

impl Incoming {
    pub(super) fn begin(stock: Stock, digest: Digest, bytes: Option<u64>) -> Self {
        let (pieces, coming) = mpsc::channel(CHUNKS_WAITING);
        let to = stock.clone();
        let writing = tokio::task::spawn_blocking(move || write(&to, digest, bytes, coming));
        Self { stock, digest, received: 0, pieces, writing }
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next bytes; false when they are more than a component may have, or the disk
    /// takes no more: [`keep`](Self::keep) then says why.
    pub(crate) async fn push(&mut self, chunk: Bytes) -> bool {
        self.received = self.received.saturating_add(chunk.len() as u64);
        self.received <= COMPONENT_BYTES_MAX && self.pieces.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// Keeps what came if it is what was named and, when asked for, a component that this node
    /// can run. It is synced when this returns.
    ///
    /// # Errors
    /// It is not what was named, not runnable, or the disk refuses; nothing is kept.
    pub(crate) async fn keep(self, inspect: bool) -> Result<(), Error> {
        let Self { stock, digest, pieces, writing, .. } = self;
        let _while_nothing_is_removed = stock.inner.placing.read().await;
        // When the writer has gone already, its result says why.
        let _ = pieces.send(Piece::End { inspect }).await;
        drop(pieces);
        writing.await.map_err(|error| Error::ended(&error))??;
        stock.placed(digest);
        Ok(())
    }
}

/// Runs on a thread that may block until all came or the sender is gone.
fn write(
    stock: &Stock,
    digest: Digest,
    bytes: Option<u64>,
    mut coming: mpsc::Receiver<Piece>,
) -> Result<(), Error> {
    let store = &stock.inner.store;
    let mut writer = store.begin()?;
    while let Some(piece) = coming.blocking_recv() {
        match piece {
            Piece::Chunk(chunk) => writer.write(&chunk)?,
            Piece::End { inspect } => {
                writer.commit(digest, bytes)?;
                if inspect && let Err(refused) = look_at(stock, digest) {
                    store.remove(digest)?;
                    return Err(refused);
                }
                return Ok(());
            }
        }
    }
    Err(Error::Internal("the sender left before the end".into()))
}

/// Nobody sees the component before it stands in the index.
fn look_at(stock: &Stock, digest: Digest) -> Result<(), Error> {
    let wasm = stock.inner.store.read(digest)?;
    stock.inner.engine.inspect(&wasm)?;
    Ok(())
}
