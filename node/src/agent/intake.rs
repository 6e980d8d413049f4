//! Components that are sent here: counted as they come, kept when they are whole and can run.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use nigh_model::Digest;
use nigh_model::limits::COMPONENT_BYTES_MAX;
use nigh_proto::status;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Code, Status};

use super::stock::Stock;

/// Uploads at once: each may hold a whole component in memory while it is looked at.
const UPLOADS_MAX: usize = 8;

/// Takes in what callers upload, or other nodes hand on. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Intake {
    stock: Stock,
    places: Arc<Semaphore>,
}

impl Intake {
    pub(super) fn new(stock: Stock) -> Self {
        Self { stock, places: Arc::new(Semaphore::new(UPLOADS_MAX)) }
    }

    /// A place among the few uploads at once, held until it is dropped.
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.places.try_acquire().map_err(|_| {
            let message = format!("{UPLOADS_MAX} uploads are under way here; try again");
            let after = Some(Duration::from_secs(1));
            status::with_retry(Code::ResourceExhausted, "TOO_MANY_UPLOADS", message, after)
        })
    }

    /// Takes in what comes if it is the component that was announced and can run; else says what
    /// is wrong with it, and nothing is kept. One that is here already is not waited for.
    pub(crate) async fn take_in(
        &self,
        digest: Digest,
        bytes: u64,
        chunks: impl Stream<Item = Result<Bytes, Status>> + Send,
    ) -> Result<(), Status> {
        check_size(bytes)?;
        if self.stock.size_of(digest).await.map_err(|error| error.status())? == Some(bytes) {
            return Ok(());
        }
        let mut incoming = self.stock.receive(digest, Some(bytes));
        let mut chunks = pin!(chunks);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            let came = incoming.received() + chunk.len() as u64;
            check_size(came)?;
            if came > bytes {
                let message = format!("more than the {bytes} bytes that were announced");
                return Err(status::of(Code::InvalidArgument, "UPLOAD_TOO_LONG", message));
            }
            if !incoming.push(chunk).await {
                break;
            }
        }
        incoming.keep(true).await.map_err(|error| error.status())?;
        tracing::info!(component = %digest, bytes, "a component was uploaded");
        Ok(())
    }
}

fn check_size(bytes: u64) -> Result<(), Status> {
    if bytes <= COMPONENT_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the component has {bytes} bytes or more, at most {COMPONENT_BYTES_MAX} are allowed"
    );
    Err(status::of(Code::InvalidArgument, "COMPONENT_TOO_LARGE", message))
}
