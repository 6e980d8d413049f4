//! Copies a compiled artifact from another node: asks how far it is, judges who compiled it, and
//! takes the bytes.
//!
//! It deliberately does not decide whom to ask or to wait for; `make` does.

use std::time::Duration;

use bytes::Bytes;
use nigh_model::{Digest, Kind, NodeId};
use nigh_proto::peer::v1::artifacts_client::ArtifactsClient;
use nigh_proto::peer::v1::fetch_compiled_part::Part;
use nigh_proto::peer::v1::{
    CompiledHead, CompiledRequest, FetchCompiledPart, FetchCompiledRequest, Progress,
};
use nigh_storage::artifacts::{ATTESTATION_BYTES_MAX, COMPILED_BYTES_MAX};
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::attested::attestation_of;
use super::error::Error;
use super::stock::Stock;
use crate::decided::Decided;
use crate::identity::{Statement, Unproven};
use crate::peer::{Lane, Peers, is_member};

/// A node that has not answered by then, beyond what it was asked to wait, is passed over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A transfer that brings nothing for so long is given up …
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// … and so is one that takes longer in all: as much as is allowed, at 4 MiB/s.
const COPY_TIMEOUT: Duration = Duration::from_secs(100);
/// Transfers at once: more would only share the same wire.
const COPIES_MAX: usize = 4;

/// Why an artifact was not copied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotCopied {
    /// The node did not hand it over, or it could not be kept.
    #[error("{0}")]
    Failed(String),
    /// Who compiled it is not believed.
    #[error(transparent)]
    Unproven(#[from] Unproven),
    /// The bytes are not those that were signed.
    #[error("its bytes are not those that were signed: {0}")]
    Damaged(String),
}

/// Copies compiled artifacts.
pub(super) struct Copier {
    stock: Stock,
    decided: Decided,
    peers: Peers,
    room: Semaphore,
}

impl Copier {
    pub(super) fn new(stock: Stock, decided: Decided, peers: Peers) -> Self {
        Self { stock, decided, peers, room: Semaphore::new(COPIES_MAX) }
    }

    /// How far a node is with a component, as soon as that is not `known`, or after `wait`; none
    /// when it does not answer, or is of a build that knows no such question.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        digest: Digest,
        known: Progress,
        wait: Duration,
    ) -> Option<Progress> {
        let channel = self.peers.channel(node, Lane::Control)?;
        let request = CompiledRequest {
            cluster_id: self.cluster(),
            digest: digest.to_string(),
            engine: self.engine(),
            known: known.into(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let mut client = ArtifactsClient::new(channel);
        match timeout(wait + ANSWER_TIMEOUT, client.compiled(request)).await {
            Ok(Ok(answer)) => Some(answer.into_inner().progress()),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Copies the artifact from a node.
    ///
    /// # Errors
    /// It has none, its answer broke off, or what it has is not believed; nothing is kept.
    pub(super) async fn copy(&self, digest: Digest, from: NodeId) -> Result<(), NotCopied> {
        let stopping = |_| NotCopied::Failed("the node stops".into());
        let _room = self.room.acquire().await.map_err(stopping)?;
        let began = tokio::time::Instant::now();
        let copied = timeout(COPY_TIMEOUT, self.transfer(digest, from)).await;
        let late = || NotCopied::Failed(format!("it took longer than {COPY_TIMEOUT:?}"));
        let counters = self.stock.counters();
        match copied.unwrap_or_else(|_| Err(late())) {
            Ok((bytes, compiled_by)) => {
                counters.copied_bytes.add_many(bytes);
                let ms = began.elapsed().as_millis();
                tracing::info!(component = %digest, peer = %from, %compiled_by, bytes, ms, "copied what another node compiled");
                Ok(())
            }
            Err(why) => {
                match &why {
                    NotCopied::Failed(_) => counters.copy_failed.add(),
                    refused => {
                        counters.refused(refused);
                        tracing::warn!(component = %digest, peer = %from, why = %refused, "a compiled artifact is refused");
                    }
                }
                Err(why)
            }
        }
    }

    /// How many bytes came, and who compiled them.
    async fn transfer(&self, digest: Digest, from: NodeId) -> Result<(u64, NodeId), NotCopied> {
        let failed = |why: &str| NotCopied::Failed(why.to_owned());
        let channel = self.peers.channel(from, Lane::Bulk);
        let channel = channel.ok_or_else(|| failed("no such node is registered"))?;
        let request = FetchCompiledRequest {
            cluster_id: self.cluster(),
            digest: digest.to_string(),
            engine: self.engine(),
        };
        let mut client = ArtifactsClient::new(channel);
        let mut parts = match timeout(STALL_TIMEOUT, client.fetch_compiled(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(failed(status.message())),
            Err(_) => return Err(failed("no answer")),
        };
        let Some(Part::Head(head)) = next(&mut parts).await? else {
            return Err(failed("it does not begin with its head"));
        };
        let compiled_by = self.judge(digest, &head)?;
        let bytes = head.bytes;
        let mut arriving = self.stock.receive_compiled(digest, head);
        while let Some(part) = next(&mut parts).await? {
            let Part::Chunk(chunk) = part else { return Err(failed("a part is no chunk")) };
            if !arriving.push(chunk).await {
                break;
            }
        }
        match arriving.keep().await {
            Ok(()) => Ok((bytes, compiled_by)),
            Err(error @ Error::Storage(_)) if error.kind() == Kind::Invalid => {
                Err(NotCopied::Damaged(error.to_string()))
            }
            Err(error) => Err(NotCopied::Failed(error.to_string())),
        }
    }

    /// Whether to believe what is said of an artifact; the node that compiled it. Nothing of it is
    /// taken before.
    pub(super) fn judge(&self, digest: Digest, head: &CompiledHead) -> Result<NodeId, NotCopied> {
        if head.bytes > COMPILED_BYTES_MAX || head.encoded_len() > ATTESTATION_BYTES_MAX {
            return Err(NotCopied::Failed(format!("{} bytes are too many", head.bytes)));
        }
        let content = head.content.parse().map_err(|_| Unproven::Malformed)?;
        let engine = self.stock.inner.engine.key();
        let statement = Statement { component: digest, engine, content, bytes: head.bytes };
        let decision = self.decided.now();
        let is_member = |node| is_member(&decision.state, node);
        let identity = &self.stock.inner.identity;
        Ok(identity.check(&statement, &attestation_of(head), is_member)?)
    }

    fn cluster(&self) -> String {
        self.decided.state().cluster.clone().map(String::from).unwrap_or_default()
    }

    fn engine(&self) -> String {
        self.stock.inner.engine.key().to_owned()
    }
}

async fn next(parts: &mut tonic::Streaming<FetchCompiledPart>) -> Result<Option<Part>, NotCopied> {
    match timeout(STALL_TIMEOUT, parts.message()).await {
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(FetchCompiledPart { part: None }))) => {
            // A newer build's: it has nothing that this one needs.
            Ok(Some(Part::Chunk(Bytes::new())))
        }
        Ok(Ok(Some(FetchCompiledPart { part }))) => Ok(part),
        Ok(Err(status)) => Err(NotCopied::Failed(status.message().to_owned())),
        Err(_) => Err(NotCopied::Failed(format!("nothing came for {STALL_TIMEOUT:?}"))),
    }
}
