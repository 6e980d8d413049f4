//! What very many idle connections have given back goes back to the system.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// So many connections have to have become idle since: some 20 MiB.
const PARKED_MIN: i64 = 1_000;

/// Looks for it until it is stopped.
pub(crate) async fn keep_giving_back(metrics: Metrics, stop: CancellationToken) {
    let mut before = 0;
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
        let now = metrics.parked().get();
        if gives_back(&mut before, now) {
            tracing::debug!(parked = now, "memory of idle connections is given back");
            // It ends by itself.
            let _ = tokio::task::spawn_blocking(nigh_runtime::give_back).await;
        }
    }
}

/// Whether so many more connections are idle than at the last time or at the least since.
fn gives_back(before: &mut i64, now: i64) -> bool {
    let many = now - *before >= PARKED_MIN;
    if many || now < *before {
        *before = now;
    }
    many
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_once_for_many_connections_however_slowly_they_come() {
        let mut before = 0;
        let told: Vec<_> = [400, 999, 1_000, 1_400, 300, 1_200, 1_300]
            .map(|now| gives_back(&mut before, now))
            .into();
        assert_eq!(told, [false, false, true, false, false, false, true]);
    }
}
