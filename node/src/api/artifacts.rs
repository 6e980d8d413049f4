//! The public `Artifacts` service: takes in components, and says which are known.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use nigh_model::Digest;
use nigh_model::limits::COMPONENT_BYTES_MAX;
use nigh_proto::status;
use nigh_proto::v1::artifacts_server::Artifacts;
use nigh_proto::v1::upload_request::Part;
use nigh_proto::v1::{Artifact, StatRequest, UploadRequest};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::agent::{Error, Fetcher, Stock};

/// An upload that brings nothing for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Uploads at once: each may hold a whole component in memory while it is looked at.
const UPLOADS_MAX: usize = 8;

/// The public `Artifacts` service.
pub(crate) struct ArtifactsService {
    stock: Stock,
    fetcher: Fetcher,
    uploads: Semaphore,
}

impl ArtifactsService {
    /// Serves this stock.
    pub(crate) fn new(stock: Stock, fetcher: Fetcher) -> Self {
        Self { stock, fetcher, uploads: Semaphore::new(UPLOADS_MAX) }
    }

    /// Takes in what is uploaded, or says what is wrong with it; nothing is kept then.
    async fn take_in(
        &self,
        parts: impl Stream<Item = Result<UploadRequest, Status>> + Send,
    ) -> Result<Artifact, Status> {
        let _one_of_few = self.uploads.try_acquire().map_err(|_| {
            let message = format!("{UPLOADS_MAX} uploads are under way here; try again");
            let after = Some(Duration::from_secs(1));
            status::with_retry(Code::ResourceExhausted, "TOO_MANY_UPLOADS", message, after)
        })?;
        let mut parts = std::pin::pin!(parts);
        let head = match next(&mut parts).await? {
            Some(Part::Head(head)) => head,
            Some(Part::Chunk(_)) | None => {
                return Err(invalid("UPLOAD_NO_HEAD", "an upload begins with its head"));
            }
        };
        let digest = digest_of(&head.digest)?;
        if head.bytes > COMPONENT_BYTES_MAX {
            return Err(too_large(head.bytes));
        }
        if self.stock.size_of(digest).await.map_err(|error| error.status())? == Some(head.bytes) {
            return Ok(head);
        }
        let mut incoming = self.stock.receive(digest, Some(head.bytes));
        while let Some(part) = next(&mut parts).await? {
            let Part::Chunk(chunk) = part else {
                return Err(invalid("UPLOAD_TWO_HEADS", "an upload has one head"));
            };
            let came = incoming.received() + chunk.len() as u64;
            if came > COMPONENT_BYTES_MAX {
                return Err(too_large(came));
            }
            if came > head.bytes {
                let message = format!("more than the {} bytes that were announced", head.bytes);
                return Err(invalid("UPLOAD_TOO_LONG", message));
            }
            if !incoming.push(chunk).await {
                break;
            }
        }
        incoming.keep(true).await.map_err(|error| error.status())?;
        tracing::info!(component = %digest, bytes = head.bytes, "a component was uploaded");
        Ok(head)
    }

    /// Says how large a component is; one that only others have is brought here.
    async fn find(&self, digest: Digest) -> Result<Artifact, Error> {
        let artifact = |bytes| Artifact { digest: digest.to_string(), bytes };
        if let Some(bytes) = self.stock.size_of(digest).await? {
            return Ok(artifact(bytes));
        }
        self.fetcher.fetch(digest).await?;
        match self.stock.size_of(digest).await? {
            Some(bytes) => Ok(artifact(bytes)),
            None => Err(Error::NowhereHeld { digest }),
        }
    }
}

#[tonic::async_trait]
impl Artifacts for ArtifactsService {
    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<Artifact>, Status> {
        Ok(Response::new(self.take_in(request.into_inner()).await?))
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<Artifact>, Status> {
        let digest = digest_of(&request.into_inner().digest)?;
        let found = self.find(digest).await;
        Ok(Response::new(found.map_err(|error| error.status())?))
    }
}

async fn next(
    parts: &mut (impl Stream<Item = Result<UploadRequest, Status>> + Unpin),
) -> Result<Option<Part>, Status> {
    match timeout(STALL_TIMEOUT, parts.next()).await {
        Ok(Some(Ok(UploadRequest { part: Some(part) }))) => Ok(Some(part)),
        Ok(Some(Ok(UploadRequest { part: None }))) => {
            Err(invalid("UPLOAD_UNKNOWN_PART", "a part is neither head nor chunk"))
        }
        Ok(Some(Err(status))) => Err(status),
        Ok(None) => Ok(None),
        Err(_) => {
            let message = format!("the upload brought nothing for {STALL_TIMEOUT:?}");
            Err(status::of(Code::DeadlineExceeded, "UPLOAD_STALLED", message))
        }
    }
}

fn digest_of(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|error: nigh_model::digest::BadDigest| invalid("BAD_DIGEST", error.to_string()))
}

fn invalid(reason: &str, message: impl Into<String>) -> Status {
    status::of(Code::InvalidArgument, reason, message)
}

fn too_large(bytes: u64) -> Status {
    let message = format!(
        "the component has {bytes} bytes or more, at most {COMPONENT_BYTES_MAX} are allowed"
    );
    invalid("COMPONENT_TOO_LARGE", message)
}
