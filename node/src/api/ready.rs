//! Whether this node takes calls, and why not.
//!
//! A quorum is not asked for: what is deployed is served without one. That it is missing is said
//! as a note, beside a good status.

use axum::http::StatusCode;

use crate::control::Control;

/// Why a node takes no calls, or what else is to be known of one that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The registry, as far as this node knows it, does not name this node.
    StateUnknown,
    /// It is about to leave.
    Draining,
    /// It takes calls, and no change can be made.
    NoQuorum,
}

/// Whether this node takes calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    whys: Vec<Why>,
}

impl Why {
    /// The stable word for it.
    fn reason(self) -> &'static str {
        match self {
            Self::StateUnknown => "STATE_UNKNOWN",
            Self::Draining => "DRAINING",
            Self::NoQuorum => "NO_QUORUM",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::StateUnknown => "the state of the cluster is not known yet",
            Self::Draining => "the node takes no new work, as it is about to leave",
            Self::NoQuorum => {
                "no leader with a quorum is known: calls are served, nothing can be changed"
            }
        }
    }

    /// Whether calls should go elsewhere for it.
    fn stops_calls(self) -> bool {
        self != Self::NoQuorum
    }
}

impl Readiness {
    /// This node's, now.
    pub(crate) fn of(control: &Control) -> Self {
        let registered = control.decided.state().nodes.contains_key(&control.own);
        let view = control.seen.now();
        let draining = view.nodes.get(&control.own).is_some_and(|own| own.report.draining);
        Self::from(registered, draining, control.health.now().is_available())
    }

    fn from(registered: bool, draining: bool, quorum: bool) -> Self {
        let whys =
            [(!registered, Why::StateUnknown), (draining, Why::Draining), (!quorum, Why::NoQuorum)];
        Self { whys: whys.into_iter().filter_map(|(holds, why)| holds.then_some(why)).collect() }
    }

    /// Whether it takes calls.
    pub(crate) fn is_ready(&self) -> bool {
        !self.whys.iter().any(|why| why.stops_calls())
    }

    /// What `/readyz` answers: a word, then a line for each reason.
    pub(crate) fn answer(&self) -> (StatusCode, String) {
        let (status, word) = match self.is_ready() {
            true => (StatusCode::OK, "ready\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        };
        let line = |why: &Why| format!("{}: {}\n", why.reason(), why.message());
        (status, word.to_owned() + &self.whys.iter().map(line).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_quorum_takes_calls_and_says_so() {
        assert_eq!(Readiness::from(true, false, true).answer(), (StatusCode::OK, "ready\n".into()));
        let (status, text) = Readiness::from(true, false, false).answer();
        assert_eq!(status, StatusCode::OK);
        assert!(text.starts_with("ready\nNO_QUORUM: no leader"), "{text}");
    }

    #[test]
    fn every_reason_not_to_take_calls_is_said() {
        let (status, text) = Readiness::from(false, true, false).answer();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let words: Vec<&str> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(words, ["not ready", "STATE_UNKNOWN", "DRAINING", "NO_QUORUM"]);
        for alone in [Readiness::from(false, false, true), Readiness::from(true, true, true)] {
            assert!(!alone.is_ready());
        }
    }
}
