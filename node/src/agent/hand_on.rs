//! Hands an upload on to a node that may hold it, for one that may not: nothing of it touches
//! this node's disk.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use nigh_model::{Digest, NodeId, Region};
use nigh_proto::peer::v1::artifacts_client::ArtifactsClient;
use nigh_proto::peer::v1::take_request::Part;
use nigh_proto::peer::v1::{TakeHead, TakeRequest};
use nigh_proto::status;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::error::Error;
use super::replicate::{Copies, next};
use crate::peer::Lane;

/// Chunks between the caller and the other node: enough that neither waits for the other's
/// hiccups.
const CHUNKS_WAITING: usize = 8;
/// The other node takes the next chunk by then, and looks at the whole by then; or it hangs.
const HANG_TIMEOUT: Duration = Duration::from_secs(30);

impl Copies {
    /// Hands an upload on to the nearest live node in an allowed region, which checks and keeps
    /// it. It is sent once: what the caller has sent is gone by the time that a node fails.
    ///
    /// # Errors
    /// What the caller's stream says, what the other node refuses, or why it was not reached.
    pub(crate) async fn hand_on(
        &self,
        digest: Digest,
        bytes: u64,
        chunks: impl Stream<Item = Result<Bytes, Status>> + Send,
        allowed: impl Fn(&Region) -> bool,
    ) -> Result<(), Status> {
        let sites = self.sites(allowed);
        let Some(to) = next(&sites, &BTreeSet::new(), &BTreeSet::new()) else {
            return Err(Error::NoAllowedNode { digest }.status());
        };
        let hangs = || failed(digest, to, format!("it took nothing for {HANG_TIMEOUT:?}"));
        let gone = || failed(digest, to, "no such node is registered".to_owned());
        let channel = self.peers().channel(to, Lane::Bulk).ok_or_else(gone)?;
        let mut client = ArtifactsClient::new(channel);

        let (parts, outgoing) = mpsc::channel(CHUNKS_WAITING);
        let cluster_id = self.cluster();
        let head = Part::Head(TakeHead { cluster_id, digest: digest.to_string(), bytes });
        let feed = async move {
            let mut chunks = pin!(chunks.map(|chunk| chunk.map(Part::Chunk)));
            let mut part = head;
            loop {
                match timeout(HANG_TIMEOUT, parts.send(TakeRequest { part: Some(part) })).await {
                    Ok(Ok(())) => {}
                    // It has answered already, and reads no more.
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => return Err(hangs()),
                }
                match chunks.next().await {
                    Some(next) => part = next?,
                    None => return Ok(()),
                }
            }
        };
        let mut answer = pin!(client.take(ReceiverStream::new(outgoing)));
        let answered = tokio::select! {
            answered = &mut answer => answered,
            fed = feed => {
                // Dropping the answer tells the other node that there is no more to come.
                fed?;
                timeout(HANG_TIMEOUT, answer).await.map_err(|_| hangs())?
            }
        };
        answered.map_err(|status| self.not_taken(digest, to, &status))?;
        tracing::info!(component = %digest, peer = %to, bytes, "an upload was handed on");
        Ok(())
    }

    /// A refusal is passed on as it is.
    fn not_taken(&self, digest: Digest, to: NodeId, status: &Status) -> Status {
        if let Some(reason) = status::reason(status) {
            return status::of(status.code(), &reason, status.message());
        }
        if status.code() == Code::Unavailable {
            self.peers().failed(to);
        }
        failed(digest, to, status.message().to_owned())
    }
}

fn failed(digest: Digest, to: NodeId, why: String) -> Status {
    Error::HandOn { digest, to, why }.status()
}
