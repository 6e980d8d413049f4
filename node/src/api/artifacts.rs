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

    /// Says how large a component is if some node has it. One that no revision is made of yet
    /// is brought here: its deploy will ask this node for it. Others stay where they may be.
    async fn find(&self, digest: Digest) -> Result<Artifact, Error> {
        let artifact = |bytes| Artifact { digest: digest.to_string(), bytes };
        if let Some(bytes) = self.stock.size_of(digest).await? {
            return Ok(artifact(bytes));
        }
        if let Some(bytes) = self.fetcher.decided_size(digest) {
            self.fetcher.nearest_holder(digest).await?;
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
            Err(status::of(Code::Unavailable, "UPLOAD_STALLED", message))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{Bench, HELLO};

    const CORE_MODULE: &[u8] = include_bytes!("../../../tests/guests/core-module.wasm");

    fn head(digest: Digest, bytes: u64) -> Part {
        Part::Head(Artifact { digest: digest.to_string(), bytes })
    }

    fn chunks(bytes: &'static [u8]) -> Vec<Part> {
        bytes.chunks(10_000).map(|chunk| Part::Chunk(chunk.into())).collect()
    }

    async fn upload(bench: &Bench, parts: Vec<Part>) -> Result<Artifact, Status> {
        let service = ArtifactsService::new(bench.agent.stock.clone(), bench.agent.fetcher.clone());
        let parts = parts.into_iter().map(|part| Ok(UploadRequest { part: Some(part) }));
        service.take_in(futures::stream::iter(parts)).await
    }

    async fn refusal(bench: &Bench, head: Part, rest: Vec<Part>) -> String {
        let parts = [head].into_iter().chain(rest).collect();
        let status = upload(bench, parts).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        status::reason(&status).expect("a refusal names its reason")
    }

    #[tokio::test]
    async fn a_component_is_taken_in_and_then_known() {
        let (bench, _work) = Bench::new(1, "eu-1").await;
        let (digest, bytes) = (Digest::of(HELLO), HELLO.len() as u64);
        let parts = [head(digest, bytes)].into_iter().chain(chunks(HELLO)).collect();
        assert_eq!(upload(&bench, parts).await.unwrap().bytes, bytes);
        assert!(bench.agent.stock.holds(&digest));
        let again = upload(&bench, vec![head(digest, bytes)]).await;
        assert_eq!(again.unwrap().bytes, bytes, "it need not be sent again");

        let service = ArtifactsService::new(bench.agent.stock.clone(), bench.agent.fetcher.clone());
        assert_eq!(service.find(digest).await.unwrap().bytes, bytes);
        let unknown = service.find(Digest::of(b"unknown")).await.unwrap_err().status();
        assert_eq!(unknown.code(), Code::NotFound);
        assert_eq!(status::reason(&unknown).as_deref(), Some("NO_SUCH_COMPONENT"));
    }

    #[tokio::test]
    async fn a_bad_upload_is_refused_with_its_reason_and_nothing_is_kept() {
        let (bench, _work) = Bench::new(1, "eu-1").await;
        let (digest, bytes) = (Digest::of(HELLO), HELLO.len() as u64);
        let all = || chunks(HELLO);
        let part = || all().split_off(1);
        let no_digest = Part::Head(Artifact { digest: "sha256:0".into(), bytes });
        let module = (Digest::of(CORE_MODULE), CORE_MODULE.len() as u64);
        for (first, rest, reason) in [
            (Part::Chunk(HELLO.into()), vec![], "UPLOAD_NO_HEAD"),
            (no_digest, all(), "BAD_DIGEST"),
            (head(digest, bytes), vec![head(digest, bytes)], "UPLOAD_TWO_HEADS"),
            (head(digest, bytes), part(), "UPLOAD_TRUNCATED"),
            (head(digest, bytes - 1), all(), "UPLOAD_TOO_LONG"),
            (head(Digest::of(b"other"), bytes), all(), "DIGEST_MISMATCH"),
            (head(digest, COMPONENT_BYTES_MAX + 1), vec![], "COMPONENT_TOO_LARGE"),
            (head(module.0, module.1), chunks(CORE_MODULE), "CORE_MODULE"),
        ] {
            assert_eq!(refusal(&bench, first, rest).await, reason);
        }
        for kept in [digest, Digest::of(b"other"), module.0] {
            assert!(!bench.agent.stock.holds(&kept), "{kept}");
        }
        assert_eq!(bench.agent.stock.inner.store.list().unwrap(), []);
    }
}
