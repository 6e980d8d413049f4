//! `nigh operator backup` and `restore`: all that is deployed, as one file.

use std::future::ready;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use nigh_model::{Digest, Kind};
use nigh_proto::v1::{BackupPiece, BackupRequest};
use sha2::{Digest as _, Sha256};

use crate::api::Api;
use crate::failure::{Failure, Result};
use crate::output::{self, Format};

/// Bytes in a message.
const PIECE_BYTES: usize = 256 << 10;
/// The SHA-256 at the end of the file.
const DIGEST_BYTES: u64 = 32;

/// Writes a backup to a file, which is there when it is whole or not at all.
pub(super) async fn backup(api: &Api, file: &Path, format: Format) -> Result {
    let failed = |error: io::Error| cannot("write", file, &error);
    if file.exists() {
        return Err(Failure::usage(format!("{} exists already", file.display()))
            .hint("a backup replaces no file: give it another name"));
    }
    let partial = partial(file);
    let written = write(api, &partial).await;
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(failure) => {
            // What is left of it is of no use, and the failure says why.
            let _ = std::fs::remove_file(&partial);
            return Err(failure);
        }
    };
    let digest = match check(&partial) {
        Ok(digest) => digest,
        Err(failure) => {
            let _ = std::fs::remove_file(&partial);
            return Err(failure);
        }
    };
    std::fs::rename(&partial, file).map_err(failed)?;
    sync_folder(file).map_err(failed)?;
    match format {
        Format::Json => output::json(&serde_json::json!({
            "file": file, "bytes": bytes, "digest": digest.to_string(),
        })),
        Format::Table => output::line(format!("{}: {bytes} bytes, {digest}", file.display())),
    }
}

/// Sends a file to a cluster, which takes in what it does not have.
pub(super) async fn restore(api: &Api, file: &Path, format: Format) -> Result {
    check(file)?;
    let opened = tokio::fs::File::open(file).await;
    let opened = opened.map_err(|error| cannot("read", file, &error))?;
    let pieces = tokio_util::io::ReaderStream::with_capacity(opened, PIECE_BYTES);
    // An unreadable file ends the stream early, which the node refuses as cut short.
    let pieces = pieces.take_while(|data| ready(data.is_ok()));
    let pieces = pieces.filter_map(|data| ready(data.ok().map(|data| BackupPiece { data })));
    let answer = api.cluster().restore(pieces).await;
    let restored = answer.map_err(|status| api.failure(&status))?.into_inner();
    match format {
        Format::Json => output::json(&serde_json::json!({
            "apps": restored.apps,
            "components": restored.components,
            "apps_digest": restored.apps_digest,
        })),
        Format::Table => output::line(format!(
            "{} apps with {} components restored, {}",
            restored.apps, restored.components, restored.apps_digest
        )),
    }
}

async fn write(api: &Api, file: &Path) -> Result<u64> {
    let failed = |error: io::Error| cannot("write", file, &error);
    let answer = api.cluster().backup(BackupRequest {}).await;
    let mut pieces = answer.map_err(|status| api.failure(&status))?.into_inner();
    let mut out = std::fs::File::create(file).map_err(failed)?;
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await.map_err(|status| api.failure(&status))? {
        let data: Bytes = piece.data;
        out.write_all(&data).map_err(failed)?;
        bytes += data.len() as u64;
    }
    out.sync_all().map_err(failed)?;
    Ok(bytes)
}

/// Reads a backup to its end: whether its bytes fit the digest that it ends with.
fn check(file: &Path) -> Result<Digest> {
    let failed = |error: io::Error| cannot("read", file, &error);
    let broken = || {
        Failure::new(Kind::Corrupt, format!("{} is no whole backup", file.display()))
            .hint("make it again, or use another one")
    };
    let mut opened = std::fs::File::open(file).map_err(failed)?;
    let length = opened.metadata().map_err(failed)?.len();
    let content = length.checked_sub(DIGEST_BYTES).ok_or_else(broken)?;
    let mut hash = Sha256::new();
    io::copy(&mut (&mut opened).take(content), &mut hash).map_err(failed)?;
    let mut written = Vec::new();
    opened.seek(SeekFrom::Start(content)).map_err(failed)?;
    opened.read_to_end(&mut written).map_err(failed)?;
    let found: [u8; 32] = hash.finalize().into();
    if written != found { Err(broken()) } else { Ok(Digest::from_bytes(found)) }
}

fn partial(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    file.with_file_name(name)
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn cannot(what: &str, file: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot {what} {}", file.display())).why(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_looked_at_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("b");
        let mut bytes = b"all that is deployed".to_vec();
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(check(&file).unwrap(), digest);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).unwrap();
            assert!(check(&file).unwrap_err().to_string().contains("no whole backup"));
            std::fs::write(&file, &bytes[..at]).unwrap();
            check(&file).unwrap_err();
        }
    }
}
