//! Where the time of a call went.

use std::fmt::Write as _;
use std::time::Duration;

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
            let comma = if at == 0 { "" } else { ", " };
            let ms = time.as_secs_f64() * 1_000.0;
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{name};dur={ms:.3}{more}");
        }
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
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
        assert_eq!(timings.with_hop(us(5)).hop, us(0), "clocks may differ, time is not negative");
        assert!(timings.header(false).to_str().unwrap().contains("desc=\"warm\""));
    }
}
