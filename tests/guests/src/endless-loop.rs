//! Never returns and never calls the host: only an interruption from outside ends it.

hostile_guests::guest!(|_, _| {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
});
