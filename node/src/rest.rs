//! How long a loop that looks at all functions rests after each look, so that looking takes a small part of a core
//! however many functions there are and change.

use std::time::Duration;

use tokio::sync::watch::{self, error::RecvError};
use tokio::time::{Instant, sleep_until};

/// After a look it rests so many times as long as that took: where many functions change at once, each look sees many
/// changes …
const TIMES: u32 = 4;
/// … for what calls have loaded so many times as long: nobody waits for that to be seen, and a look that keeps a core
/// from calls delays the slowest of them …
const TIMES_AFTER_LOADS: u32 = 200;
/// … but no longer than this.
const MAX: Duration = Duration::from_millis(500);

/// The rest after one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    /// Before this nothing is looked at.
    pub(crate) ends: Instant,
    loads_seen: Instant,
}

impl Rest {
    /// After a look that began then and ends now.
    pub(crate) fn after(began: Instant) -> Self {
        let now = Instant::now();
        let took = now - began;
        Self {
            ends: now + (took * TIMES).min(MAX),
            loads_seen: now + (took * TIMES_AFTER_LOADS).min(MAX),
        }
    }

    /// Waits for a change of what calls load too, and not before it is to be seen.
    pub(crate) async fn loads<T>(self, changes: &mut watch::Receiver<T>) -> Result<(), RecvError> {
        sleep_until(self.loads_seen).await;
        changes.changed().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_some_times_as_long_as_the_look_and_never_long() {
        let ms = Duration::from_millis;
        for (look, ends, loads_seen) in [(1, 4, 200), (2, 8, 400), (1_000, 500, 500)] {
            let began = Instant::now();
            tokio::time::advance(ms(look)).await;
            let rest = Rest::after(began);
            assert_eq!(rest.ends - Instant::now(), ms(ends));
            let (sender, mut changes) = watch::channel(());
            sender.send(()).unwrap();
            let now = Instant::now();
            rest.loads(&mut changes).await.unwrap();
            assert_eq!(now.elapsed(), ms(loads_seen));
        }
    }
}
