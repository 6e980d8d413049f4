//! Single flight: many may ask for the same piece of work, it is done once.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use super::error::Error;

/// A piece of work under way.
pub(super) type Flight<V> = Shared<BoxFuture<'static, Result<V, Error>>>;

/// The pieces of work under way, by what they are for.
pub(super) struct Flights<K, V: Clone> {
    running: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

impl<K, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the work under way for this key, or begins it when first polled. Begun work
    /// is finished even when all who wait for it have gone.
    pub(super) fn join<B, F>(&self, key: K, begin: B) -> Flight<V>
    where
        B: FnOnce() -> F,
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(&key) {
            return flight.clone();
        }
        let landing = Landing { running: self.running.clone(), key: key.clone() };
        let work = begin();
        let flight = async move {
            // Its own task, so that it ends even if none of those who wait stays.
            let task = tokio::spawn(async move {
                let _landing = landing;
                work.await
            });
            match task.await {
                Ok(done) => done,
                Err(error) => Err(Error::ended(&error)),
            }
        };
        let flight = flight.boxed().shared();
        running.insert(key, flight.clone());
        flight
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the work under way for this key, or does it now, on this thread; others wait for
    /// it meanwhile.
    pub(super) async fn join_here(
        &self,
        key: K,
        work: impl FnOnce() -> Result<V, Error>,
    ) -> Result<V, Error> {
        let (tell, told) = oneshot::channel();
        let under_way = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get(&key) {
                Some(flight) => Some(flight.clone()),
                None => {
                    let gone = |_| Error::Internal("a piece of work ended early".into());
                    let flight = async move { told.await.map_err(gone)? }.boxed().shared();
                    running.insert(key.clone(), flight);
                    None
                }
            }
        };
        if let Some(flight) = under_way {
            return flight.await;
        }
        let landing = Landing { running: self.running.clone(), key };
        let done = work();
        drop(landing);
        let _ = tell.send(done.clone());
        done
    }
}

/// Takes the work out of the map when it ends, even by a panic.
struct Landing<K: Eq + Hash, V: Clone> {
    running: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V: Clone> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let landed = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        // Dropped without the lock: it may hold what takes the lock itself.
        drop(landed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn work_asked_for_many_times_is_done_once_and_then_anew() {
        let flights = Flights::<u8, u32>::default();
        let count = Arc::new(AtomicU32::new(0));
        let go = Arc::new(Notify::new());
        let begin = || {
            let (count, go) = (count.clone(), go.clone());
            async move {
                go.notified().await;
                Ok(count.fetch_add(1, SeqCst) + 1)
            }
        };
        let waiting: Vec<_> = (0..10).map(|_| flights.join(1, begin)).collect();
        go.notify_one();
        for one in waiting {
            assert_eq!(one.await.unwrap(), 1);
        }
        go.notify_one();
        assert_eq!(flights.join(1, begin).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn work_done_here_is_joined_by_others_and_may_fail_or_panic() {
        let flights = Arc::new(Flights::<u8, u32>::default());
        let mut other = None;
        let here = flights.join_here(1, || {
            other = Some(flights.join(1, || async { Ok(2) }));
            Ok(1)
        });
        assert_eq!(here.await.unwrap(), 1);
        assert_eq!(other.unwrap().await.unwrap(), 1, "it was done once");
        assert_eq!(flights.join(1, || async { Ok(3) }).await.unwrap(), 3);

        let panicking = flights.clone();
        let panicked =
            tokio::spawn(async move { panicking.join_here(2, || panic!("on purpose")).await });
        assert!(panicked.await.is_err());
        assert_eq!(flights.join_here(2, || Ok(4)).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_and_can_be_tried_again_after_a_panic() {
        let flights = Flights::<u8, ()>::default();
        let done = Arc::new(Notify::new());
        let told = done.clone();
        let flight = flights.join(1, || async move {
            tokio::task::yield_now().await;
            told.notify_one();
            Ok(())
        });
        assert!(flight.now_or_never().is_none());
        done.notified().await;

        let failed = flights.join(2, || async { panic!("on purpose") }).await;
        assert!(matches!(failed, Err(Error::Internal(_))));
        assert!(flights.join(2, || async { Ok(()) }).await.is_ok());
    }
}
