//! Looks from time to time at how much room the data folder takes and how much is left.

use std::path::PathBuf;
use std::time::Duration;

use nigh_storage::usage::usage;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::seen::Room;

/// Between two looks: a folder of thousands of files is listed in milliseconds, and a disk that
/// fills up faster shows in its errors first.
const INTERVAL: Duration = Duration::from_secs(10);

/// Tells what the last look found, until cancelled. A look that fails leaves nothing known.
pub(crate) async fn keep_looking(
    folder: PathBuf,
    found: watch::Sender<Option<Room>>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let folder = folder.clone();
        let looked = tokio::task::spawn_blocking(move || usage(&folder)).await;
        let room = match looked {
            Ok(Ok(usage)) => Some(Room {
                data_bytes: usage.data_bytes,
                free_bytes: usage.free_bytes,
                size_bytes: usage.size_bytes,
            }),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the data folder cannot be looked at");
                None
            }
            Err(_) => None,
        };
        found.send_if_modified(|known| std::mem::replace(known, room) != room);
    }
}
