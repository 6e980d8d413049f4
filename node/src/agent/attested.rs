//! Compiled artifacts that travel: what this node hands over, and what it takes in.
//!
//! Nothing is taken in here that was not judged before (see `copy`).

use bytes::Bytes;
use nigh_model::Digest;
use nigh_proto::peer::v1::CompiledHead;
use nigh_storage::artifacts::{Attested, Reader};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::{Error, blocking};
use super::stock::{Inner, Stock};
use crate::identity::{Attestation, Statement};

/// Chunks between the network and the disk: enough that neither waits for the other's hiccups.
const CHUNKS_WAITING: usize = 8;

impl Stock {
    /// Signs what was compiled here, for those who copy it. What cannot be signed does not travel.
    /// Blocks.
    pub(super) fn attest(
        &self,
        digest: Digest,
        content: Digest,
        bytes: u64,
    ) -> Option<CompiledHead> {
        let Inner { store, engine, identity, .. } = &*self.inner;
        let statement = Statement { component: digest, engine: engine.key(), content, bytes };
        let attested = identity.attest(&statement).map_err(|error| error.to_string());
        let kept = attested.and_then(|attestation| {
            let head = head_of(content, bytes, attestation);
            let kept = store.put_attestation(engine.key(), digest, content, &head.encode_to_vec());
            kept.map(|()| head).map_err(|error| error.to_string())
        });
        match kept {
            Ok(head) => Some(head),
            Err(error) => {
                tracing::warn!(component = %digest, error, "what was compiled here cannot be signed");
                None
            }
        }
    }

    /// A compiled artifact with what is said of it, to be handed over.
    ///
    /// # Errors
    /// It is not here, or the disk refuses. One that turns out to be damaged is removed.
    pub(super) async fn open_compiled(
        &self,
        digest: Digest,
    ) -> Result<(CompiledHead, Reader), Error> {
        let stock = self.clone();
        blocking(move || {
            let Inner { store, engine, .. } = &*stock.inner;
            let gone = || Error::from(nigh_storage::Error::NoSuchArtifact { digest });
            let head = stock.head(digest)?.ok_or_else(gone)?;
            let content = head.content.parse().map_err(|_| gone())?;
            Ok((head, store.open_compiled(engine.key(), digest, content)?))
        })
        .await
    }

    /// What is said of a compiled artifact. What this node compiled itself is signed anew when its
    /// certificate was renewed: an authority that signed the old one is forgotten some day.
    fn head(&self, digest: Digest) -> Result<Option<CompiledHead>, Error> {
        let Inner { store, engine, identity, .. } = &*self.inner;
        let kept = store.attestation(engine.key(), digest)?;
        let head = kept.and_then(|bytes| CompiledHead::decode(bytes.as_slice()).ok());
        // Who made it is not known without one: this node must not put its name to it.
        let Some(head) = head else { return Ok(None) };
        let attestation = attestation_of(&head);
        if identity.made(&attestation) && !identity.is_current(&attestation) {
            let content = head.content.parse().ok();
            let renewed = content.and_then(|content| self.attest(digest, content, head.bytes));
            return Ok(Some(renewed.unwrap_or(head)));
        }
        Ok(Some(head))
    }

    /// Begins to take in what was compiled elsewhere, and was judged by what is said of it.
    pub(super) fn receive_compiled(&self, digest: Digest, head: CompiledHead) -> Arriving {
        let (pieces, coming) = mpsc::channel(CHUNKS_WAITING);
        let stock = self.clone();
        let writing = tokio::task::spawn_blocking(move || write(&stock, digest, &head, coming));
        Arriving { stock: self.clone(), digest, pieces, writing }
    }
}

/// A compiled artifact being received. Dropped before [`keep`](Self::keep), it leaves nothing.
pub(super) struct Arriving {
    stock: Stock,
    digest: Digest,
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<Result<(), Error>>,
}

enum Piece {
    Chunk(Bytes),
    /// All came.
    End,
}

impl Arriving {
    /// Takes the next bytes; false when the disk takes no more: [`keep`](Self::keep) says why.
    pub(super) async fn push(&mut self, chunk: Bytes) -> bool {
        self.pieces.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// Keeps what came if it is what was signed. It is synced when this returns.
    ///
    /// # Errors
    /// It is something else, or the disk refuses; nothing is kept.
    pub(super) async fn keep(self) -> Result<(), Error> {
        let Self { stock, digest, pieces, writing } = self;
        // When the writer has gone already, its result says why.
        let _ = pieces.send(Piece::End).await;
        drop(pieces);
        writing.await.map_err(|error| Error::ended(&error))??;
        // Counted before it is told: who sees that it is here finds it counted.
        stock.counters().copied.add();
        stock.compiled(digest);
        Ok(())
    }
}

/// Runs on a thread that may block until all came or the sender is gone.
fn write(
    stock: &Stock,
    digest: Digest,
    head: &CompiledHead,
    mut coming: mpsc::Receiver<Piece>,
) -> Result<(), Error> {
    let Inner { store, engine, .. } = &*stock.inner;
    let content = head.content.parse();
    let content = content.map_err(|_| Error::Internal("a head without a digest".into()))?;
    let mut writer = store.begin_compiled(engine.key())?;
    let mut received = 0;
    while let Some(piece) = coming.blocking_recv() {
        match piece {
            Piece::Chunk(chunk) => {
                received += chunk.len() as u64;
                if received > head.bytes {
                    let expected = head.bytes;
                    return Err(nigh_storage::Error::WrongLength { expected, received }.into());
                }
                writer.write(&chunk)?;
            }
            Piece::End => {
                let attestation = head.encode_to_vec();
                let attested = Attested { content, bytes: head.bytes, attestation: &attestation };
                return Ok(store.commit_compiled(engine.key(), digest, writer, attested)?);
            }
        }
    }
    Err(Error::Internal("the sender left before the end".into()))
}

fn head_of(content: Digest, bytes: u64, attestation: Attestation) -> CompiledHead {
    let Attestation { certificate, signature } = attestation;
    let content = content.to_string();
    CompiledHead { content, bytes, certificate: certificate.into(), signature: signature.into() }
}

/// Who says what a head says.
pub(super) fn attestation_of(head: &CompiledHead) -> Attestation {
    let (certificate, signature) = (head.certificate.to_vec(), head.signature.to_vec());
    Attestation { certificate, signature }
}
