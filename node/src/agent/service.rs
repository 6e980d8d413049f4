//! What other nodes ask of this one's components.

use std::pin::Pin;

use futures::Stream;
use nigh_model::{Digest, NodeId};
use nigh_proto::peer::v1::artifacts_server::Artifacts;
use nigh_proto::peer::v1::{
    FetchChunk, FetchRequest, ReplicateRequest, ReplicateResponse, StatRequest, StatResponse,
};
use nigh_proto::status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::error::Error;
use super::fetch::Fetcher;
use super::stock::Stock;
use crate::decided::Decided;

/// Bytes of a component in one message: well below what a gRPC message may have.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the wire.
const CHUNKS_AHEAD: usize = 4;
/// Digests in one question.
const DIGESTS_MAX: usize = 1_000;

/// The `Artifacts` service between nodes.
#[derive(Clone)]
pub(crate) struct PeerArtifacts {
    stock: Stock,
    fetcher: Fetcher,
    decided: Decided,
}

impl PeerArtifacts {
    /// Serves this stock.
    pub(crate) fn new(stock: Stock, fetcher: Fetcher, decided: Decided) -> Self {
        Self { stock, fetcher, decided }
    }
}

#[tonic::async_trait]
impl Artifacts for PeerArtifacts {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<FetchChunk, Status>> + Send>>;

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let mut digests = request.into_inner().digests;
        if digests.len() > DIGESTS_MAX {
            let message = format!("{} digests, at most {DIGESTS_MAX} are allowed", digests.len());
            return Err(status::of(Code::InvalidArgument, "TOO_MANY_DIGESTS", message));
        }
        // Who asks means to use it.
        let held = |text: &String| text.parse().is_ok_and(|d| self.stock.holds_for_use(&d));
        digests.retain(held);
        Ok(Response::new(StatResponse { held: digests }))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let digest = digest_of(&request.into_inner().digest)?;
        if !self.stock.holds_for_use(&digest) {
            let error = Error::from(nigh_storage::Error::NoSuchArtifact { digest });
            return Err(error.status());
        }
        let (chunks, answer) = mpsc::channel(CHUNKS_AHEAD);
        let stock = self.stock.clone();
        tokio::task::spawn_blocking(move || send(&stock, digest, &chunks));
        Ok(Response::new(Box::pin(ReceiverStream::new(answer))))
    }

    async fn replicate(
        &self,
        request: Request<ReplicateRequest>,
    ) -> Result<Response<ReplicateResponse>, Status> {
        let ReplicateRequest { cluster_id, digest, from } = request.into_inner();
        let digest = digest_of(&digest)?;
        let own = self.decided.state().cluster.clone();
        if own.as_ref().map(|id| id.as_str()) != Some(cluster_id.as_str()) {
            let own = own.map_or_else(|| "none".to_owned(), String::from);
            let message = format!("this node belongs to cluster {own}, not to {cluster_id}");
            return Err(status::of(Code::FailedPrecondition, "WRONG_CLUSTER", message));
        }
        // The caller picked this node for its region; the component's functions are not known here.
        let done = self.fetcher.fetch_from(digest, NodeId(from)).await;
        done.map_err(|error| error.status())?;
        Ok(Response::new(ReplicateResponse {}))
    }
}

fn digest_of(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|error: nigh_model::digest::BadDigest| {
        status::of(Code::InvalidArgument, "BAD_DIGEST", error.to_string())
    })
}

/// Runs on a thread that may block until all is sent or the receiver is gone.
fn send(stock: &Stock, digest: Digest, chunks: &mpsc::Sender<Result<FetchChunk, Status>>) {
    let read = || -> Result<(), nigh_storage::Error> {
        let mut reader = stock.inner.store.open_reader(digest)?;
        while let Some(data) = reader.next(CHUNK_BYTES)? {
            if chunks.blocking_send(Ok(FetchChunk { data })).is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    if let Err(error) = read() {
        tracing::warn!(component = %digest, %error, "a component cannot be read");
        let runtime = tokio::runtime::Handle::current();
        if let Err(error) = runtime.block_on(stock.forget_if_broken(digest, &error)) {
            tracing::warn!(component = %digest, %error, "a lost component cannot be removed");
        }
        // Nobody listens any more when this fails.
        let _ = chunks.blocking_send(Err(Error::from(error).status()));
    }
}
