//! Waits a day on a timer before it answers.

const DAY_NANOS: u64 = 24 * 60 * 60 * 1_000_000_000;

hostile_guests::guest!(|_, out| {
    wasip2::clocks::monotonic_clock::subscribe_duration(DAY_NANOS).block();
    hostile_guests::answer(out, "good morning\n");
});
