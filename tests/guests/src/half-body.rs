//! Sends a head and the first part of a body, then traps.

hostile_guests::guest!(|_, out| {
    let body = hostile_guests::start(out, wasip2::http::types::Fields::new());
    let stream = body.write().expect("the stream is taken once");
    let _ = stream.blocking_write_and_flush(b"the first half and ");
    std::arch::wasm32::unreachable()
});
