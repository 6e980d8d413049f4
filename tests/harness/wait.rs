//! Waiting for a condition that has a name.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(25);

/// What a look at a condition gave.
pub(crate) enum Seen<T, S> {
    /// It holds.
    Yes(T),
    /// It does not hold yet; what was seen instead.
    NotYet(S),
}

impl<S> Seen<(), S> {
    /// Holds if `condition` does.
    pub(crate) fn when(condition: bool, state: S) -> Self {
        if condition { Self::Yes(()) } else { Self::NotYet(state) }
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// It did not within the limit; says what was seen last.
pub(crate) async fn wait_until<T, S: Debug, F>(
    name: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Seen<T, S>>,
{
    let began = Instant::now();
    let mut last = None;
    loop {
        match timeout_at(began + limit, Box::pin(look())).await {
            Ok(Seen::Yes(value)) => return value,
            Ok(Seen::NotYet(state)) => last = Some(state),
            Err(_) => {}
        }
        if began.elapsed() >= limit {
            match last {
                Some(last) => panic!("not within {limit:?}: {name}; seen last: {last:#?}"),
                None => panic!("not within {limit:?}: {name}; not one look at it came to an end"),
            }
        }
        sleep(INTERVAL).await;
    }
}
