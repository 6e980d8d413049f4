//! Uploading a component by chunks, unless the cluster knows it.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use indicatif::ProgressBar;
use nigh_model::Digest;
use nigh_proto::v1::upload_request::Part;
use nigh_proto::v1::{Artifact, StatRequest, UploadRequest};
use tokio_util::io::ReaderStream;
use tonic::Code;

use crate::api::{Api, timed};
use crate::failure::{Failure, Result};
use crate::package::{Component, Source};
use crate::progress::Progress;

/// Bytes in a message: large enough to be few, far below what a message may have.
const CHUNK_BYTES: usize = 256 << 10;

type Chunks = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Sends a component if the cluster does not know it. Its bytes may be in these regions only;
/// none: anywhere.
pub(crate) async fn send(
    api: &Api,
    digest: &Digest,
    component: &Component,
    regions: Vec<String>,
    progress: &Progress,
) -> Result {
    let digest = digest.to_string();
    let known = StatRequest { digest: digest.clone(), regions: regions.clone() };
    match api.artifacts().stat(timed(known)).await {
        Ok(_) => return Ok(()),
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) => return Err(api.failure(&status)),
    }
    let bar = progress.upload(&component.name, component.bytes);
    let chunks = read(&component.source).await?;
    let head = Part::Head(Artifact { digest, bytes: component.bytes });
    let head = UploadRequest { regions, ..part(head) };
    let parts = stream::iter([head]).chain(counted(chunks, bar.clone()));
    let answer = api.artifacts().upload(parts).await;
    bar.finish_and_clear();
    answer.map(|_| ()).map_err(|status| api.failure(&status).about(&component.name))
}

fn part(part: Part) -> UploadRequest {
    UploadRequest { part: Some(part), ..UploadRequest::default() }
}

async fn read(source: &Source) -> Result<Chunks> {
    match source {
        Source::Memory(bytes) => {
            let bytes = bytes.clone();
            let starts = (0..bytes.len()).step_by(CHUNK_BYTES);
            let chunk =
                move |start: usize| Ok(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES)));
            Ok(Box::pin(stream::iter(starts.map(chunk))))
        }
        Source::File(path) => {
            let file = tokio::fs::File::open(path).await.map_err(|error| {
                Failure::invalid(format!("cannot read {}", path.display())).why(error.to_string())
            })?;
            Ok(Box::pin(ReaderStream::with_capacity(file, CHUNK_BYTES)))
        }
    }
}

/// The chunks as messages. A file that cannot be read to its end ends the stream, and the
/// cluster refuses what is shorter than was said.
fn counted(chunks: Chunks, bar: ProgressBar) -> impl Stream<Item = UploadRequest> + Send {
    chunks.scan((), |(), chunk| std::future::ready(chunk.ok())).map(move |chunk| {
        bar.inc(chunk.len() as u64);
        part(Part::Chunk(chunk))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_are_the_bytes_in_order() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 5).map(|n| n as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.wasm");
        std::fs::write(&path, &bytes).unwrap();
        for source in [Source::Memory(bytes.clone().into()), Source::File(path)] {
            let chunks = read(&source).await.unwrap();
            let bar = ProgressBar::hidden();
            let parts: Vec<UploadRequest> = counted(chunks, bar.clone()).collect().await;
            let joined: Vec<u8> = parts
                .into_iter()
                .flat_map(|request| match request.part {
                    Some(Part::Chunk(chunk)) => chunk.to_vec(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(joined, bytes);
            assert_eq!(bar.position(), bytes.len() as u64);
        }
    }
}
