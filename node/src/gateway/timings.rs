//! Where the time of a call went.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

/// The parts of a call up to the head of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timings {
    /// Until the function was found and a node chosen.
    pub(crate) route: Duration,
    /// The wait for a free place, where it ran.
    pub(crate) queue: Duration,
    /// On the way to another node and back.
    pub(crate) hop: Duration,
    /// The wait for a load, where it ran.
    pub(crate) start: Duration,
    /// From the guest's start to the head of its answer.
    pub(crate) exec: Duration,
}

impl Timings {
    /// What the way took: all that passed at the entry and not at the far end.
    pub(crate) fn with_hop(mut self, total: Duration) -> Self {
        self.hop = total.saturating_sub(self.queue + self.start + self.exec);
        self
    }

    /// As `Server-Timing`, in ms.
    pub(crate) fn header(&self, cold: bool) -> HeaderValue {
        let mut text = String::with_capacity(112);
        let parts = [
            ("route", self.route, ""),
            ("queue", self.queue, ""),
            ("hop", self.hop, ""),
            ("start", self.start, if cold { ";desc=\"cold\"" } else { ";desc=\"warm\"" }),
            ("exec", self.exec, ""),
        ];
        for (at, (name, time, more)) in parts.into_iter().enumerate() {
            let us = u64::from(time.subsec_micros()) + 1_000_000 * time.as_secs();
            text.push_str(if at == 0 { "" } else { ", " });
            text.push_str(name);
            text.push_str(";dur=");
            push_thousandths(&mut text, us);
            text.push_str(more);
        }
        HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Writes a number of thousandths with three decimals. By hand: every answer has five of them, and the
/// standard library's formatting takes ten times as long.
fn push_thousandths(text: &mut String, thousandths: u64) {
    // Room for 64 bits and the point.
    let mut digits = [0; 21];
    let (mut at, mut left) = (digits.len(), thousandths);
    // Three decimals and a digit before them, at least.
    while left > 0 || at > digits.len() - 5 {
        at -= 1;
        if at == digits.len() - 4 {
            digits[at] = b'.';
        } else {
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
    }
    text.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_each_part_in_ms() {
        let us = Duration::from_micros;
        let timings = Timings {
            route: us(12),
            queue: us(0),
            start: us(90),
            exec: us(1_500),
            ..Timings::default()
        };
        let timings = timings.with_hop(us(10_000));
        assert_eq!(
            timings.header(true),
            "route;dur=0.012, queue;dur=0.000, hop;dur=8.410, start;dur=0.090;desc=\"cold\", \
             exec;dur=1.500"
        );
        for (thousandths, text) in
            [(0, "0.000"), (7, "0.007"), (1_000, "1.000"), (u64::MAX, "18446744073709551.615")]
        {
            let mut written = String::new();
            push_thousandths(&mut written, thousandths);
            assert_eq!(written, text);
        }
        assert_eq!(timings.with_hop(us(5)).hop, us(0), "clocks may differ, time is not negative");
        assert!(timings.header(false).to_str().unwrap().contains("desc=\"warm\""));
    }
}
