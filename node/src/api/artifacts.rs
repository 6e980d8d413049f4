//! The public `Artifacts` service: takes in components, and says which are known.

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use nigh_model::spec::{PlacementSpec, RegionPattern};
use nigh_model::{Digest, Region};
use nigh_proto::status;
use nigh_proto::v1::artifacts_server::Artifacts;
use nigh_proto::v1::upload_request::Part;
use nigh_proto::v1::{Artifact, StatRequest, UploadRequest};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};

use super::apps::nobody_in;
use crate::agent::{Agent, Copies, Error, Fetcher, Intake, Stock};

/// An upload that brings nothing for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Regions said of one upload: those of all functions of an app that are made of it.
const UPLOAD_REGIONS_MAX: usize = 4_096;
/// The public `Artifacts` service.
pub(crate) struct ArtifactsService {
    stock: Stock,
    intake: Intake,
    fetcher: Fetcher,
    copies: Copies,
}

impl ArtifactsService {
    /// Serves what this agent has.
    pub(crate) fn new(agent: &Agent) -> Self {
        let Agent { stock, intake, fetcher, copies, .. } = agent.clone();
        Self { stock, intake, fetcher, copies }
    }

    /// Takes in what is uploaded, or says what is wrong with it; nothing is kept then. What may
    /// not be in this region is handed on to where it may be.
    async fn take_in(
        &self,
        parts: impl Stream<Item = Result<UploadRequest, Status>> + Send,
    ) -> Result<Artifact, Status> {
        let _one_of_few = self.intake.place()?;
        let mut parts = std::pin::pin!(parts);
        let (head, regions) = match next(&mut parts).await? {
            Some((Part::Head(head), regions)) => (head, regions),
            Some((Part::Chunk(_), _)) | None => {
                return Err(invalid("UPLOAD_NO_HEAD", "an upload begins with its head"));
            }
        };
        let digest = digest_of(&head.digest)?;
        let placement = placement_of(regions)?;
        let chunks = stream::unfold(parts, |mut parts| async {
            let chunk = match next(&mut parts).await {
                Ok(Some((Part::Chunk(chunk), _))) => Ok(chunk),
                Ok(Some((Part::Head(_), _))) => {
                    Err(invalid("UPLOAD_TWO_HEADS", "an upload has one head"))
                }
                Ok(None) => return None,
                Err(status) => Err(status),
            };
            Some((chunk, parts))
        });
        if placement.allows(self.copies.region()) {
            self.intake.take_in(digest, head.bytes, chunks).await?;
        } else {
            let allowed = |region: &Region| placement.allows(region);
            let state = self.copies.state();
            if !state.nodes.values().any(|node| allowed(&node.region)) {
                return Err(invalid("NO_ALLOWED_NODE", nobody_in(&state, &placement)));
            }
            self.copies.hand_on(digest, head.bytes, chunks, allowed).await?;
        }
        Ok(head)
    }

    /// Says how large a component is if some node has it. One that no revision is made of yet
    /// is brought here if it may be here: its deploy will ask this node for it. One that may not
    /// is uploaded again, which costs nothing if it is where it would be handed on to. Others
    /// stay where they may be.
    async fn find(&self, digest: Digest, placement: &PlacementSpec) -> Result<Artifact, Error> {
        let artifact = |bytes| Artifact { digest: digest.to_string(), bytes };
        if let Some(bytes) = self.stock.size_of(digest).await? {
            return Ok(artifact(bytes));
        }
        if let Some(bytes) = self.fetcher.decided_size(digest) {
            self.fetcher.nearest_holder(digest).await?;
            return Ok(artifact(bytes));
        }
        if !placement.allows(self.copies.region()) {
            return Err(Error::NowhereHeld { digest });
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
        let StatRequest { digest, regions } = request.into_inner();
        let found = self.find(digest_of(&digest)?, &placement_of(regions)?).await;
        Ok(Response::new(found.map_err(|error| error.status())?))
    }
}

/// The next part, and the regions that were said with it.
async fn next(
    parts: &mut (impl Stream<Item = Result<UploadRequest, Status>> + Unpin),
) -> Result<Option<(Part, Vec<String>)>, Status> {
    match timeout(STALL_TIMEOUT, parts.next()).await {
        Ok(Some(Ok(UploadRequest { part: Some(part), regions }))) => Ok(Some((part, regions))),
        Ok(Some(Ok(UploadRequest { part: None, .. }))) => {
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

/// Where the bytes may be, as the caller says.
fn placement_of(regions: Vec<String>) -> Result<PlacementSpec, Status> {
    if regions.len() > UPLOAD_REGIONS_MAX {
        let message =
            format!("{} regions, at most {UPLOAD_REGIONS_MAX} may be said", regions.len());
        return Err(invalid("BAD_SPEC", message));
    }
    let patterns = regions.into_iter().map(RegionPattern::try_from);
    let regions = patterns.collect::<Result<_, _>>().map_err(|why| invalid("BAD_SPEC", why))?;
    Ok(PlacementSpec { regions, ..PlacementSpec::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use nigh_model::limits::COMPONENT_BYTES_MAX;

    use crate::agent::testing::{Bench, HELLO, add_node, all_see_each_other};

    const CORE_MODULE: &[u8] = include_bytes!("../../../tests/guests/core-module.wasm");

    fn head(digest: Digest, bytes: u64) -> Part {
        Part::Head(Artifact { digest: digest.to_string(), bytes })
    }

    fn chunks(bytes: &'static [u8]) -> Vec<Part> {
        bytes.chunks(10_000).map(|chunk| Part::Chunk(chunk.into())).collect()
    }

    async fn upload(bench: &Bench, parts: Vec<Part>) -> Result<Artifact, Status> {
        upload_for(bench, &[], parts).await
    }

    /// What is uploaded may be in these regions only.
    async fn upload_for(
        bench: &Bench,
        regions: &[&str],
        parts: Vec<Part>,
    ) -> Result<Artifact, Status> {
        let regions: Vec<String> = regions.iter().map(|region| (*region).to_owned()).collect();
        let part = |part| Ok(UploadRequest { part: Some(part), regions: regions.clone() });
        let parts = parts.into_iter().map(part);
        ArtifactsService::new(&bench.agent).take_in(futures::stream::iter(parts)).await
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

        let (service, anywhere) = (ArtifactsService::new(&bench.agent), PlacementSpec::default());
        assert_eq!(service.find(digest, &anywhere).await.unwrap().bytes, bytes);
        let unknown = service.find(Digest::of(b"unknown"), &anywhere).await.unwrap_err().status();
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

    /// Two nodes that see each other, one in each region.
    async fn near_and_far() -> (Bench, Bench) {
        let (near, _) = Bench::new(1, "eu-1").await;
        let (far, _) = Bench::new(2, "us-1").await;
        let mut state = crate::agent::testing::state();
        add_node(&mut state, 1, "eu-1", &near.address);
        add_node(&mut state, 2, "us-1", &far.address);
        for bench in [&near, &far] {
            bench.decided.publish(Arc::new(state.clone()));
        }
        all_see_each_other(&[&near, &far]);
        (near, far)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_upload_that_may_not_be_here_is_handed_on_and_not_kept() {
        let (near, far) = near_and_far().await;
        let (digest, bytes) = (Digest::of(HELLO), HELLO.len() as u64);
        let parts = || [head(digest, bytes)].into_iter().chain(chunks(HELLO)).collect();
        // Twice: it is where it is handed on to by then.
        for _ in 0..2 {
            assert_eq!(upload_for(&near, &["us-*"], parts()).await.unwrap().bytes, bytes);
            assert!(far.agent.stock.holds(&digest) && !near.agent.stock.holds(&digest));
        }
        let service = ArtifactsService::new(&near.agent);
        let far_only = placement_of(vec!["us-*".to_owned()]).unwrap();
        let found = service.find(digest, &far_only).await.map_err(|error| error.reason());
        assert_eq!(found.err(), Some("NO_SUCH_COMPONENT"), "looking does not bring it here");
        assert!(!near.agent.stock.holds(&digest));
        upload_for(&near, &["us-1", "eu-1"], parts()).await.unwrap();
        assert!(near.agent.stock.holds(&digest), "here it may be");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_wrong_with_an_upload_is_said_by_the_node_it_is_handed_on_to() {
        let (near, far) = near_and_far().await;
        let (digest, bytes) = (Digest::of(HELLO), HELLO.len() as u64);
        let other = Digest::of(b"other");
        let module = (Digest::of(CORE_MODULE), CORE_MODULE.len() as u64);
        let all = || chunks(HELLO);
        for (first, rest, regions, reason) in [
            (head(digest, bytes), all().split_off(1), "us-1", "UPLOAD_TRUNCATED"),
            (head(digest, bytes - 1), all(), "us-1", "UPLOAD_TOO_LONG"),
            (head(digest, bytes), vec![head(digest, bytes)], "us-1", "UPLOAD_TWO_HEADS"),
            (head(other, bytes), all(), "us-1", "DIGEST_MISMATCH"),
            (head(digest, COMPONENT_BYTES_MAX + 1), vec![], "us-1", "COMPONENT_TOO_LARGE"),
            (head(module.0, module.1), chunks(CORE_MODULE), "us-1", "CORE_MODULE"),
            (head(digest, bytes), all(), "ap-1", "NO_ALLOWED_NODE"),
            (head(digest, bytes), all(), "US!", "BAD_SPEC"),
        ] {
            let parts = [first].into_iter().chain(rest).collect();
            let refused = upload_for(&near, &[regions], parts).await.unwrap_err();
            assert_eq!(status::reason(&refused).as_deref(), Some(reason), "{refused}");
        }
        far.stop.cancel();
        let mut state = near.decided.state().as_ref().clone();
        add_node(&mut state, 2, "us-1", "127.0.0.1:1");
        near.decided.publish(Arc::new(state));
        let parts = [head(digest, bytes)].into_iter().chain(all()).collect();
        let unreached = upload_for(&near, &["us-1"], parts).await.unwrap_err();
        assert_eq!(status::reason(&unreached).as_deref(), Some("HAND_ON_FAILED"), "{unreached}");
        for bench in [&near, &far] {
            assert_eq!(bench.agent.stock.inner.store.list().unwrap(), []);
        }
    }
}
