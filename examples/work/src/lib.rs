//! A function whose cost the caller chooses, for load and latency measurements.
//!
//! Query: `wait_ms` (idle, on a timer), `compute_ms` (busy, on arithmetic), `bytes` (size of the
//! answer). The answer is JSON, filled up with blanks to the size that was asked for.

use std::time::Duration;

use support::target::Target;
use support::{answer, body, header, json, sleep, start};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, ResponseOutparam};

/// Bounds, so that one request cannot hold an instance for ever.
const WAIT_MAX: Duration = Duration::from_secs(600);
const COMPUTE_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Steps of arithmetic between two looks at the clock: some microseconds.
const STEPS_PER_LOOK: u32 = 2_000;

struct Work;

impl Guest for Work {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match Task::parse(&Target::of(&request)) {
            Ok(task) => task.run(&header(&request, "x-request-id").unwrap_or_default(), out),
            Err(why) => answer(out, 400, "text/plain; charset=utf-8", &format!("{why}\n")),
        }
    }
}

wasip2::http::proxy::export!(Work);

struct Task {
    wait: Duration,
    compute: Duration,
    answer_bytes: u64,
}

impl Task {
    fn parse(target: &Target) -> Result<Self, String> {
        Ok(Self {
            wait: target.millis("wait_ms", Duration::ZERO, WAIT_MAX)?,
            compute: target.millis("compute_ms", Duration::ZERO, COMPUTE_MAX)?,
            answer_bytes: target.count("bytes", 0, ANSWER_BYTES_MAX)?,
        })
    }

    fn run(&self, request_id: &str, out: ResponseOutparam) {
        let waited = timed(|| {
            if !self.wait.is_zero() {
                sleep(self.wait);
            }
        });
        let computed = timed(|| {
            std::hint::black_box(compute(self.compute));
        });
        let text = format!(
            "{{\"waited_ms\":{:.3},\"computed_ms\":{:.3},\"request_id\":{}}}\n",
            waited.as_secs_f64() * 1000.0,
            computed.as_secs_f64() * 1000.0,
            json::string(request_id)
        );
        send(out, &text, self.answer_bytes);
    }
}

fn now() -> Duration {
    Duration::from_nanos(monotonic_clock::now())
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = now();
    work();
    now().saturating_sub(start)
}

/// Steps a pseudo-random generator until the time is over; its last state is the proof of work.
fn compute(budget: Duration) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let end = now() + budget;
    while !budget.is_zero() && now() < end {
        for _ in 0..STEPS_PER_LOOK {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
    }
    state
}

/// Sends `text`, then blanks until the answer has `bytes` bytes.
fn send(out: ResponseOutparam, text: &str, bytes: u64) {
    const BLANKS: [u8; 16 * 1024] = [b' '; 16 * 1024];
    let text_bytes = text.len() as u64;
    let total = bytes.max(text_bytes);
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"application/json".to_vec()]);
    let _ = headers.set("content-length", &[total.to_string().into_bytes()]);
    let body = start(out, 200, headers);
    let stream = body.write().expect("the stream is taken once");
    let mut left = total - text_bytes;
    let mut sent = body::write_all(&stream, text.as_bytes());
    while left > 0 && sent.is_ok() {
        let chunk = left.min(BLANKS.len() as u64);
        sent = body::write_all(&stream, &BLANKS[..chunk as usize]);
        left -= chunk;
    }
    if sent.and_then(|()| stream.blocking_flush()).is_err() {
        return;
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
