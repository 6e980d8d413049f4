//! What a node says of a call in its response headers.

use http::HeaderMap;

/// Where and how a call ran.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ran {
    /// The node that ran it.
    pub(crate) node: Option<String>,
    /// Whether it ran on another node than it entered.
    pub(crate) forwarded: bool,
    /// Whether it waited for a load; none when the node did not say.
    pub(crate) cold: Option<bool>,
    /// The request id as the node understood it.
    pub(crate) request_id: Option<String>,
    /// Times of the platform, in ms.
    pub(crate) timing: Timing,
}

/// The entries of `Server-Timing`, in ms; what is not there is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Timing {
    /// To find the function and choose the node.
    pub(crate) route: f64,
    /// Waiting for a free place.
    pub(crate) queue: f64,
    /// On the way between the two nodes.
    pub(crate) hop: f64,
    /// To load, fetch or compile.
    pub(crate) start: f64,
    /// In the guest, up to the head of its answer.
    pub(crate) exec: f64,
}

impl Timing {
    /// What the platform added to the call, in ms: everything but the guest's own time and the
    /// round trip that distance costs in any case.
    pub(crate) fn added(&self, round_trip_ms: f64) -> f64 {
        self.route + self.queue + self.start + (self.hop - round_trip_ms).max(0.0)
    }
}

impl Ran {
    /// Reads the headers of an answer.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let mut ran = Self {
            node: text("nigh-node"),
            forwarded: text("nigh-forwarded").is_some_and(|value| value == "1"),
            cold: None,
            request_id: text("x-request-id"),
            timing: Timing::default(),
        };
        for header in headers.get_all("server-timing") {
            for metric in header.to_str().unwrap_or_default().split(',') {
                ran.read_metric(metric);
            }
        }
        ran
    }

    /// Reads `name;dur=1.5;desc="warm"`; what is not known is passed over.
    fn read_metric(&mut self, metric: &str) {
        let mut parts = metric.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let (mut duration, mut description) = (0.0, "");
        for part in parts {
            match part.split_once('=') {
                Some(("dur", value)) => duration = value.trim_matches('"').parse().unwrap_or(0.0),
                Some(("desc", value)) => description = value.trim_matches('"'),
                _ => {}
            }
        }
        match name {
            "route" => self.timing.route = duration,
            "queue" => self.timing.queue = duration,
            "hop" => self.timing.hop = duration,
            "exec" => self.timing.exec = duration,
            "start" => {
                self.timing.start = duration;
                self.cold = match description {
                    "cold" => Some(true),
                    "warm" => Some(false),
                    _ => None,
                };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_headers_of_an_answer_are_read() {
        let ran = Ran::of(&headers(&[
            ("nigh-node", "eu-west-1-a"),
            ("nigh-forwarded", "1"),
            ("x-request-id", "abc"),
            ("server-timing", "route;dur=0.1, queue;dur=0.2, hop;dur=80.5"),
            ("server-timing", "start;dur=3;desc=\"cold\", exec;dur=20, other"),
        ]));
        assert_eq!(ran.node.as_deref(), Some("eu-west-1-a"));
        assert_eq!((ran.forwarded, ran.cold), (true, Some(true)));
        let timing = Timing { route: 0.1, queue: 0.2, hop: 80.5, start: 3.0, exec: 20.0 };
        assert_eq!(ran.timing, timing);
        assert!((ran.timing.added(80.0) - 3.8).abs() < 1e-9);
        assert!((ran.timing.added(90.0) - 3.3).abs() < 1e-9, "distance never gives time back");
    }

    #[test]
    fn headers_that_are_missing_or_odd_are_no_error() {
        assert_eq!(Ran::of(&HeaderMap::new()), Ran::default());
        let ran = Ran::of(&headers(&[("server-timing", "start;dur=x;desc=odd,,;;=,exec;dur")]));
        assert_eq!((ran.cold, ran.timing.exec), (None, 0.0));
    }
}
