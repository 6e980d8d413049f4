//! Hands compiled artifacts over to other nodes, and tells them how far this one is.
//!
//! It deliberately does not ask whether the bytes may be there: who asks for them has.

use std::time::Duration;

use nigh_model::Digest;
use nigh_proto::peer::v1::fetch_compiled_part::Part;
use nigh_proto::peer::v1::{CompiledHead, FetchCompiledPart, Progress};
use nigh_storage::artifacts::Reader;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::error::Error;
use super::stock::Stock;

/// Nobody waits longer for one answer: who has gone by then is not waited for either.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes of an artifact in one message: well below what a gRPC message may have.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the wire.
const CHUNKS_AHEAD: usize = 4;

/// An artifact in parts, its head first.
pub(super) type Parts = ReceiverStream<Result<FetchCompiledPart, Status>>;

impl Stock {
    /// How far this node is with a component, as soon as that is not `known`, or after `wait`. For
    /// another engine than this node's it has nothing, and never will.
    pub(super) async fn progress_beyond(
        &self,
        engine: &str,
        digest: Digest,
        known: Progress,
        wait: Duration,
    ) -> Progress {
        if engine != self.inner.engine.key() {
            return Progress::None;
        }
        let ends = Instant::now() + wait.min(WAIT_MAX);
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let progress = self.progress(&digest);
            if progress != known {
                return progress;
            }
            match timeout_at(ends, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return progress,
            }
        }
    }

    /// The compiled artifact of a component.
    ///
    /// # Errors
    /// It is not here, or not for this engine.
    pub(super) async fn hand_over(&self, engine: &str, digest: Digest) -> Result<Parts, Error> {
        if engine != self.inner.engine.key() || !self.is_compiled(&digest) {
            return Err(nigh_storage::Error::NoSuchArtifact { digest }.into());
        }
        let (head, reader) = self.open_compiled(digest).await?;
        let (parts, answer) = mpsc::channel(CHUNKS_AHEAD);
        let stock = self.clone();
        tokio::task::spawn_blocking(move || stock.send(digest, head, reader, &parts));
        Ok(ReceiverStream::new(answer))
    }

    /// Runs on a thread that may block until all is sent or the receiver is gone.
    fn send(
        &self,
        digest: Digest,
        head: CompiledHead,
        mut reader: Reader,
        parts: &mpsc::Sender<Result<FetchCompiledPart, Status>>,
    ) {
        let send = |part| parts.blocking_send(Ok(FetchCompiledPart { part: Some(part) })).is_ok();
        let read = || -> Result<(), nigh_storage::Error> {
            let mut goes_on = send(Part::Head(head));
            while goes_on && let Some(chunk) = reader.next(CHUNK_BYTES)? {
                goes_on = send(Part::Chunk(chunk));
            }
            Ok(())
        };
        let Err(error) = read() else { return };
        tracing::warn!(component = %digest, %error, "a compiled artifact cannot be read");
        if error.kind() == nigh_model::Kind::Corrupt {
            let removed = self.remove_compiled(digest);
            if let Err(error) = tokio::runtime::Handle::current().block_on(removed) {
                tracing::warn!(component = %digest, %error, "a damaged one cannot be removed");
            }
        }
        // Nobody listens any more when this fails.
        let _ = parts.blocking_send(Err(Error::from(error).status()));
    }
}
