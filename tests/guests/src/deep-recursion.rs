//! Calls itself until the stack is full.

hostile_guests::guest!(|_, out| {
    let depth = descend(1);
    hostile_guests::answer(out, &format!("came back from {depth}\n"));
});

/// Not a tail call: the sum is taken after the return, and the frame is kept in use.
#[inline(never)]
fn descend(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 8]);
    if depth == 0 {
        return 0;
    }
    descend(depth + 1).wrapping_add(std::hint::black_box(frame)[7])
}
