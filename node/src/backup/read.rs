//! Reading the file as it comes: components go to the disk, apps are kept until all of it proved
//! whole.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use nigh_model::command::{Command, Envelope};
use nigh_model::refusal::Refusal;
use nigh_model::{App, Digest, Kind, State};
use nigh_proto::status;
use nigh_proto::v1::BackupPiece;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::{
    APPS_BYTES_MAX, Apps, DIGEST_BYTES, FORMAT, HEADER_BYTES_MAX, Header, MAGIC, PREFIX_BYTES,
    digest_of,
};
use crate::agent::Stock;
use crate::clock;

/// A file that comes in pieces.
pub(crate) struct Reading<S> {
    pieces: S,
    /// What came and was not taken.
    waiting: BytesMut,
    hash: Sha256,
}

/// What was in a file that is whole.
#[derive(Debug)]
pub(crate) struct Backup {
    /// The apps.
    pub(crate) apps: Vec<App>,
    /// How many components came with them.
    pub(crate) components: usize,
    /// The digest of the apps.
    pub(crate) apps_digest: Digest,
}

impl<S: Stream<Item = Result<BackupPiece, Status>> + Unpin> Reading<S> {
    /// Begins to read.
    pub(crate) fn new(pieces: S) -> Self {
        Self { pieces, waiting: BytesMut::new(), hash: Sha256::new() }
    }

    /// Reads all of it. Components are on this node's disk then. `check` looks at the apps before
    /// any component is taken.
    ///
    /// # Errors
    /// It is no backup, is damaged or of a newer format, `check` refuses, or the disk does.
    pub(crate) async fn read(
        mut self,
        stock: &Stock,
        check: impl Fn(&[App]) -> Result<(), Status>,
    ) -> Result<Backup, Status> {
        let prefix = self.take(PREFIX_BYTES as u64).await?;
        if &prefix[..8] != MAGIC {
            return Err(bad("it does not begin as one"));
        }
        let number = |at: usize| {
            let bytes = prefix[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        if number(8) > FORMAT {
            let found = number(8);
            let message = format!(
                "the backup has format {found} and this build knows up to {FORMAT}: use the \
                 newer build that wrote it"
            );
            return Err(status::of_kind(Kind::Invalid, "BACKUP_NEWER", message));
        }
        let header = self.take(u64::from(number(12)).min(HEADER_BYTES_MAX + 1)).await?;
        let header: Header = rmp_serde::from_slice(&header).map_err(|error| bad(&error))?;
        if header.apps_bytes > APPS_BYTES_MAX {
            return Err(bad("its apps are larger than apps can be"));
        }
        let body = self.take(header.apps_bytes).await?;
        let apps: Apps = rmp_serde::from_slice(&body).map_err(|error| bad(&error))?;
        if digest_of(&apps) != header.apps_digest {
            return Err(bad("its apps do not fit their digest"));
        }
        let apps: Vec<App> = apps.into_values().collect();
        check(&apps)?;
        for (digest, bytes) in &header.components {
            self.component(stock, *digest, *bytes).await?;
        }
        let found = self.hash.clone().finalize();
        let written = self.take(DIGEST_BYTES as u64).await?;
        if written[..] != found[..] {
            return Err(bad("its bytes do not fit its digest"));
        }
        let (components, apps_digest) = (header.components.len(), header.apps_digest);
        Ok(Backup { apps, components, apps_digest })
    }

    async fn component(&mut self, stock: &Stock, digest: Digest, bytes: u64) -> Result<(), Status> {
        let here = stock.holds_for_use(&digest);
        let mut incoming = (!here).then(|| stock.receive(digest, Some(bytes)));
        let mut left = bytes;
        while left > 0 {
            let chunk = self.next(left).await?;
            left -= chunk.len() as u64;
            if let Some(incoming) = &mut incoming
                && !incoming.push(chunk).await
            {
                break;
            }
        }
        match incoming {
            Some(incoming) => incoming.keep(true).await.map_err(|error| error.status()),
            None => Ok(()),
        }
    }

    /// So many bytes.
    async fn take(&mut self, bytes: u64) -> Result<Bytes, Status> {
        let bytes = usize::try_from(bytes).map_err(bad)?;
        while self.waiting.len() < bytes {
            self.more().await?;
        }
        let taken = self.waiting.split_to(bytes).freeze();
        self.hash.update(&taken);
        Ok(taken)
    }

    /// Some bytes, at most so many.
    async fn next(&mut self, bytes_max: u64) -> Result<Bytes, Status> {
        if self.waiting.is_empty() {
            self.more().await?;
        }
        let bytes = self.waiting.remaining() as u64;
        self.take(bytes.min(bytes_max)).await
    }

    async fn more(&mut self) -> Result<(), Status> {
        match self.pieces.next().await {
            Some(piece) => {
                self.waiting.extend_from_slice(&piece?.data);
                Ok(())
            }
            None => Err(bad("it is cut short")),
        }
    }
}

/// Whether a state would take all these apps, without any effect.
///
/// # Errors
/// The first refusal.
pub(crate) fn ready(state: &State, apps: &[App]) -> Result<(), Refusal> {
    let mut copy = state.clone();
    for app in apps {
        let command = Command::RestoreApp { app: app.clone() };
        let envelope = Envelope { request_id: None, at_ms: clock::now_ms(), by: None, command };
        let index = copy.applied + 1;
        nigh_model::apply(&mut copy, index, &envelope).reply?;
    }
    Ok(())
}

fn bad(why: impl std::fmt::Display) -> Status {
    let message = format!("the file is no whole backup: {why}");
    status::of_kind(Kind::Invalid, "BAD_BACKUP", message)
}
