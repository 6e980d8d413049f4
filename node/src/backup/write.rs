//! Making the file, piece by piece: nothing larger than a piece is held but the apps.

use bytes::Bytes;
use futures::StreamExt as _;
use nigh_model::{Digest, Kind, State};
use nigh_proto::status;
use nigh_proto::v1::BackupPiece;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tonic::Status;

use super::{FORMAT, Header, MAGIC, apps_of, components_of, digest_of};
use crate::agent::Fetcher;
use crate::clock;

/// Bytes in a message.
const PIECE_BYTES: usize = 256 << 10;

/// Where the pieces go, with the digest of all that went.
struct Output {
    pieces: mpsc::Sender<Result<BackupPiece, Status>>,
    hash: Sha256,
}

impl Output {
    async fn put(&mut self, data: Bytes) -> Result<(), Status> {
        self.hash.update(&data);
        for start in (0..data.len()).step_by(PIECE_BYTES) {
            let data = data.slice(start..data.len().min(start + PIECE_BYTES));
            let sent = self.pieces.send(Ok(BackupPiece { data })).await;
            sent.map_err(|_| Status::cancelled("the caller has gone"))?;
        }
        Ok(())
    }
}

/// Sends the apps of a state and their components, from wherever these are.
pub(crate) async fn write(
    state: std::sync::Arc<State>,
    fetcher: Fetcher,
    pieces: mpsc::Sender<Result<BackupPiece, Status>>,
) {
    let mut output = Output { pieces: pieces.clone(), hash: Sha256::new() };
    if let Err(status) = send(&state, &fetcher, &mut output).await {
        let _ = pieces.send(Err(status)).await;
    }
}

async fn send(state: &State, fetcher: &Fetcher, output: &mut Output) -> Result<(), Status> {
    let apps = apps_of(state);
    let body = rmp_serde::to_vec_named(&apps).map_err(|error| internal(&error))?;
    let components: Vec<_> = components_of(&apps).into_iter().collect();
    let header = Header {
        cluster: state.cluster.clone(),
        applied: state.applied,
        created_ms: clock::now_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        apps_bytes: body.len() as u64,
        apps_digest: digest_of(&apps),
        components: components.clone(),
    };
    let header = rmp_serde::to_vec_named(&header).map_err(|error| internal(&error))?;
    let length = u32::try_from(header.len()).map_err(|error| internal(&error))?;
    let mut first = MAGIC.to_vec();
    first.extend_from_slice(&FORMAT.to_le_bytes());
    first.extend_from_slice(&length.to_le_bytes());
    first.extend_from_slice(&header);
    output.put(first.into()).await?;
    output.put(body.into()).await?;
    for (digest, bytes) in components {
        component(fetcher, digest, bytes, output).await?;
    }
    let digest = Bytes::copy_from_slice(&output.hash.clone().finalize());
    output.put(digest).await
}

/// One component, looked at on its way.
async fn component(
    fetcher: &Fetcher,
    digest: Digest,
    bytes: u64,
    output: &mut Output,
) -> Result<(), Status> {
    let mut chunks = fetcher.read(digest).await.map_err(|error| error.status())?;
    let (mut hash, mut sent) = (Sha256::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| error.status())?;
        hash.update(&chunk);
        sent += chunk.len() as u64;
        output.put(chunk).await?;
    }
    let found = Digest::from_bytes(hash.finalize().into());
    if (found, sent) != (digest, bytes) {
        let message = format!("component {digest} came as {found} with {sent} bytes; try again");
        return Err(status::of_kind(Kind::Unavailable, "FETCH_FAILED", message));
    }
    Ok(())
}

fn internal(error: &dyn std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
