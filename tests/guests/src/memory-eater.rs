//! Grows its memory until the host refuses, then writes all over it several times, then traps.

use std::arch::wasm32::{memory_grow, memory_size, unreachable};

const PAGE_BYTES: usize = 64 * 1024;
/// Pages asked for at a time; after a refusal, single pages take the rest.
const STEP_PAGES: usize = 64;
/// One write in each 4 KiB makes the host back all of it.
const TOUCH_BYTES: usize = 4 * 1024;
const ROUNDS: usize = 4;

hostile_guests::guest!(|_, _| {
    eat(STEP_PAGES);
    eat(1);
    for _ in 0..ROUNDS {
        touch(0, memory_size::<0>());
    }
    unreachable()
});

/// Grows by `step` pages at a time until refused, touching what is new.
fn eat(step: usize) {
    loop {
        let before = memory_grow::<0>(step);
        if before == usize::MAX {
            return;
        }
        touch(before, step);
    }
}

/// Dirties `count` pages from page `first` on, leaving their content as it is.
fn touch(first: usize, count: usize) {
    for part in 0..count * (PAGE_BYTES / TOUCH_BYTES) {
        // The last byte of each part, so that address zero, the null pointer, stays out.
        let byte = (first * PAGE_BYTES + part * TOUCH_BYTES + TOUCH_BYTES - 1) as *mut u8;
        // SAFETY: the address lies within this instance's linear memory, and is given the value
        // that it has.
        unsafe { byte.write_volatile(byte.read_volatile()) };
    }
}
