//! Counts its calls in a static and answers the count: always 1 where each call has an instance
//! of its own.

use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

hostile_guests::guest!(|_, out| {
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    hostile_guests::answer(out, &format!("{calls}\n"));
});
