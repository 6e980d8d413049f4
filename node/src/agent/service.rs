//! What other nodes ask of this one's components and compiled artifacts.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use nigh_model::{Digest, NodeId};
use nigh_proto::peer::v1::artifacts_server::Artifacts;
use nigh_proto::peer::v1::take_request::Part;
use nigh_proto::peer::v1::{
    CompiledRequest, CompiledResponse, FetchChunk, FetchCompiledRequest, FetchRequest,
    ReplicateRequest, ReplicateResponse, StatRequest, StatResponse, TakeRequest, TakeResponse,
};
use nigh_proto::status;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::error::Error;
use super::fetch::Fetcher;
use super::hand_over;
use super::intake::Intake;
use super::stock::Stock;
use crate::decided::Decided;

/// Bytes of a component in one message: well below what a gRPC message may have.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the wire.
const CHUNKS_AHEAD: usize = 4;
/// An upload that is handed on and brings nothing for so long is given up: longer than its
/// caller is waited for.
const STALL_TIMEOUT: Duration = Duration::from_secs(40);
/// Digests in one question.
const DIGESTS_MAX: usize = 1_000;

/// The `Artifacts` service between nodes.
#[derive(Clone)]
pub(crate) struct PeerArtifacts {
    stock: Stock,
    intake: Intake,
    fetcher: Fetcher,
    decided: Decided,
}

impl PeerArtifacts {
    /// Serves this stock.
    pub(super) fn new(stock: Stock, intake: Intake, fetcher: Fetcher, decided: Decided) -> Self {
        Self { stock, intake, fetcher, decided }
    }

    /// Which component is where is told to nodes of the same cluster alone.
    fn check_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        let own = self.decided.state().cluster.clone();
        if own.as_ref().map(|id| id.as_str()) == Some(cluster_id) {
            return Ok(());
        }
        let own = own.map_or_else(|| "none".to_owned(), String::from);
        let message = format!("this node belongs to cluster {own}, not to {cluster_id}");
        Err(status::of(Code::FailedPrecondition, "WRONG_CLUSTER", message))
    }

    async fn take_in(
        &self,
        parts: impl Stream<Item = Result<TakeRequest, Status>> + Send,
    ) -> Result<(), Status> {
        let _one_of_few = self.intake.place()?;
        let mut parts = std::pin::pin!(parts);
        let first = timeout(STALL_TIMEOUT, parts.next()).await.map_err(|_| stalled())?;
        let Some(Part::Head(head)) = first.transpose()?.and_then(|first| first.part) else {
            return Err(malformed("UPLOAD_NO_HEAD", "an upload begins with its head"));
        };
        self.check_cluster(&head.cluster_id)?;
        let chunks = stream::unfold(parts, |mut parts| async {
            let chunk = match timeout(STALL_TIMEOUT, parts.next()).await {
                Err(_) => Err(stalled()),
                Ok(part) => match part? {
                    Ok(TakeRequest { part: Some(Part::Chunk(chunk)) }) => Ok(chunk),
                    Ok(_) => Err(malformed("UPLOAD_UNKNOWN_PART", "a part is no chunk")),
                    Err(status) => Err(status),
                },
            };
            Some((chunk, parts))
        });
        // The caller picked this node for its region; the component's functions are not known here.
        self.intake.take_in(digest_of(&head.digest)?, head.bytes, chunks).await
    }
}

#[tonic::async_trait]
impl Artifacts for PeerArtifacts {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<FetchChunk, Status>> + Send>>;
    type FetchCompiledStream = hand_over::Parts;

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
        self.check_cluster(&cluster_id)?;
        // The caller picked this node for its region; the component's functions are not known here.
        let done = self.fetcher.fetch_from(digest, NodeId(from)).await;
        done.map_err(|error| error.status())?;
        Ok(Response::new(ReplicateResponse {}))
    }

    async fn take(
        &self,
        request: Request<Streaming<TakeRequest>>,
    ) -> Result<Response<TakeResponse>, Status> {
        self.take_in(request.into_inner()).await?;
        Ok(Response::new(TakeResponse {}))
    }

    async fn compiled(
        &self,
        request: Request<CompiledRequest>,
    ) -> Result<Response<CompiledResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let digest = digest_of(&request.digest)?;
        let known = request.known();
        let wait = Duration::from_millis(request.wait_ms.into());
        let progress = self.stock.progress_beyond(&request.engine, digest, known, wait).await;
        Ok(Response::new(CompiledResponse { progress: progress.into() }))
    }

    async fn fetch_compiled(
        &self,
        request: Request<FetchCompiledRequest>,
    ) -> Result<Response<Self::FetchCompiledStream>, Status> {
        let FetchCompiledRequest { cluster_id, digest, engine } = request.into_inner();
        self.check_cluster(&cluster_id)?;
        let parts = self.stock.hand_over(&engine, digest_of(&digest)?).await;
        Ok(Response::new(parts.map_err(|error| error.status())?))
    }
}

fn malformed(reason: &str, why: &str) -> Status {
    status::of(Code::InvalidArgument, reason, why)
}

fn stalled() -> Status {
    let message = format!("the upload brought nothing for {STALL_TIMEOUT:?}");
    status::of(Code::Unavailable, "UPLOAD_STALLED", message)
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
