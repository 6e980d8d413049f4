//! A thread whose work steps behind calls: it goes on when nobody else wants its core, and a little in any case.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use crate::Error;
use crate::background::step_back_by;

/// How willing the thread is to let others go first: beside one that never rests it gets a tenth of a core. What it does
/// may be waited for, if not by calls.
const NICENESS: i32 = 10;

type Work = Box<dyn FnOnce() + Send>;

/// The thread; it ends when this and all its clones are gone.
#[derive(Clone, Debug)]
pub struct Behind(Sender<Work>);

impl Behind {
    /// Starts one of this name.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(name: &str) -> Result<Self, Error> {
        let (sender, works) = channel::<Work>();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                step_back_by(NICENESS);
                works.into_iter().for_each(|work| work());
            })
            .map_err(|error| Error::Internal { why: format!("no thread: {error}") })?;
        Ok(Self(sender))
    }

    /// Does a piece of work there, after what was asked for before. None: it has panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        // Nobody may wait for it any more.
        let work =
            move || drop(catch_unwind(AssertUnwindSafe(work)).map(|result| done.send(result)));
        self.0.send(Box::new(work)).ok()?;
        result.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_one_after_the_other_on_one_thread_that_survives_a_panic() {
        let behind = Behind::start("behind").unwrap();
        let first = behind.run(|| thread::current().id()).await.unwrap();
        assert_ne!(first, thread::current().id());
        assert_eq!(behind.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(behind.run(|| thread::current().id()).await, Some(first));
        #[cfg(target_os = "linux")]
        assert_eq!(behind.run(crate::background::niceness).await, Some(NICENESS));
    }
}
