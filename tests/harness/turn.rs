//! A test's turn on the machine: few clusters at once, and an end for each.

use std::cell::Cell;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

/// Tests that start nodes at the same time, over all test processes of this machine.
const TURNS: usize = 2;
/// How often a free turn is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// It may run beside another.
    Room,
    /// It measures time: no other may run.
    Quiet,
}

thread_local! {
    static TIMED_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Whether the test on this thread is about to fail: what is dropped now says what it knows.
pub(crate) fn is_failing() -> bool {
    std::thread::panicking() || TIMED_OUT.get()
}

/// Runs a test that starts nodes, when it is its turn, and for no longer than it may take.
pub(crate) fn run(needs: Needs, limit: Duration, test: impl Future<Output = ()>) {
    let _turn = take(needs);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the machine has threads");
    let ended = runtime.block_on(async {
        let mut test = Box::pin(test);
        let ended = tokio::time::timeout(limit, test.as_mut()).await;
        TIMED_OUT.set(ended.is_err());
        drop(test);
        ended
    });
    TIMED_OUT.set(false);
    runtime.shutdown_background();
    assert!(ended.is_ok(), "the test did not end within {limit:?}");
}

/// Where the locks are that all test processes know.
pub(crate) fn locks() -> PathBuf {
    let shared = std::env::temp_dir().join("nigh-tests");
    let probe = shared.join("probe");
    let usable = std::fs::create_dir_all(&shared).is_ok() && File::create(probe).is_ok();
    if usable { shared } else { PathBuf::from(env!("CARGO_TARGET_TMPDIR")) }
}

pub(crate) fn lock_file(name: &str) -> File {
    let path = locks().join(name);
    File::options().create(true).truncate(false).write(true).open(&path).unwrap_or_else(|error| {
        panic!("cannot open {}: {error}", path.display());
    })
}

/// Locks that end with the value.
struct Turn(#[allow(dead_code, reason = "held, not read")] Vec<File>);

/// Whoever comes first goes first: the door is held while a place is waited for.
fn take(needs: Needs) -> Turn {
    let door = lock_file("door");
    door.lock().expect("locks work in the folder of temporary files");
    if needs == Needs::Quiet {
        let places: Vec<File> = (0..TURNS).map(|n| lock_file(&format!("turn-{n}"))).collect();
        for place in &places {
            place.lock().expect("locks work in the folder of temporary files");
        }
        return Turn(places);
    }
    loop {
        for n in 0..TURNS {
            let place = lock_file(&format!("turn-{n}"));
            if place.try_lock().is_ok() {
                return Turn(vec![place]);
            }
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
