//! Whether a datagram is fresh, without asking any clock for the time of day. Pure: time since
//! this node's gossip began arrives as an argument.
//!
//! A session is the gossip of one node from its start to its end. Each datagram says its sender's
//! session and its age; the age is trusted once the sender has answered a question that was drawn
//! at random for it. So what was recorded is refused a few seconds later, on every node, also on
//! one that has just started and remembers nothing: who is no longer there cannot answer.
//!
//! What is younger may come twice. That is harmless by what chitchat itself does: heartbeats and
//! versions only ever rise.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;

/// A datagram older than this is refused, in ms. Longer than the longest way between two nodes,
/// with room for what clocks drift until the next question.
pub(super) const AGE_MAX_MS: u64 = 5_000;
/// An answer that takes longer is none, in ms; nor is a sender asked more often.
const ANSWER_MAX_MS: u64 = 1_000;
/// Sessions that are trusted: a thousand nodes, each started a few times.
const TRUSTED_MAX: usize = 4_096;
/// Sessions that are asked at once.
const ASKED_MAX: usize = 256;
/// Largest message that waits for an answer, in bytes: one that came as a datagram.
const HELD_BYTES_MAX: usize = 1_500;

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A message of chitchat's.
    Message(Bytes),
    /// Are you there? To be answered with this number.
    Question(u64),
    /// The number that was asked with.
    Answer(u64),
}

/// What a datagram carries under its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    /// The sender's session.
    pub(super) session: u64,
    /// When it was sent: ms since that session began.
    pub(super) sent_ms: u64,
    /// What it says.
    pub(super) content: Content,
}

/// What follows from a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A fresh message, and where from.
    Message(SocketAddr, Bytes),
    /// To be sent back to where it came from.
    Reply(Content),
    /// To be sent back; both.
    Replies([Content; 2]),
    /// Nothing: it is too old, of this node itself, or its sender is being asked.
    Stale,
    /// Nothing to be done.
    Done,
}

#[derive(Debug)]
struct Asked {
    number: u64,
    at_ms: u64,
    held: Option<(SocketAddr, u64, Bytes)>,
}

/// What a trusted session's clock shows, as seen from here.
#[derive(Debug)]
struct Trusted {
    /// This node's clock less the sender's, at most.
    offset_ms: i128,
    /// When it was last heard.
    heard_ms: u64,
}

/// The sessions that a node hears.
#[derive(Debug)]
pub(super) struct Sessions {
    own: u64,
    asked: BTreeMap<u64, Asked>,
    trusted: BTreeMap<u64, Trusted>,
}

impl Sessions {
    /// Nobody was heard yet. `own` is this node's session, drawn at random.
    pub(super) const fn new(own: u64) -> Self {
        Self { own, asked: BTreeMap::new(), trusted: BTreeMap::new() }
    }

    /// What this node sends, now.
    pub(super) const fn letter(&self, now_ms: u64, content: Content) -> Letter {
        Letter { session: self.own, sent_ms: now_ms, content }
    }

    /// Takes in a letter whose seal was good. `number` is random; it is used when the sender has to
    /// be asked.
    pub(super) fn hear(
        &mut self,
        now_ms: u64,
        from: SocketAddr,
        letter: Letter,
        number: u64,
    ) -> Heard {
        let Letter { session, sent_ms, content } = letter;
        if session == self.own {
            return Heard::Stale;
        }
        match content {
            Content::Answer(given) => self.answered(now_ms, session, sent_ms, given),
            Content::Message(message) => {
                if self.is_fresh(now_ms, session, sent_ms) {
                    return Heard::Message(from, message);
                }
                let held = (message.len() <= HELD_BYTES_MAX).then_some((from, sent_ms, message));
                match self.ask(now_ms, session, number, held) {
                    Some(question) => Heard::Reply(question),
                    None => Heard::Stale,
                }
            }
            Content::Question(asked) => {
                let answer = Content::Answer(asked);
                if self.is_fresh(now_ms, session, sent_ms) {
                    return Heard::Reply(answer);
                }
                // It may be an old one, sent again: the answer is of no use to whoever did.
                match self.ask(now_ms, session, number, None) {
                    Some(question) => Heard::Replies([answer, question]),
                    None => Heard::Reply(answer),
                }
            }
        }
    }

    /// Whether a letter of a trusted session is young enough.
    fn is_fresh(&mut self, now_ms: u64, session: u64, sent_ms: u64) -> bool {
        let Some(trusted) = self.trusted.get_mut(&session) else { return false };
        let offset_ms = i128::from(now_ms) - i128::from(sent_ms);
        let fresh = offset_ms - trusted.offset_ms <= i128::from(AGE_MAX_MS);
        if fresh {
            trusted.heard_ms = now_ms;
            // The shortest way ever tells most; a sender's clock that runs fast is followed.
            trusted.offset_ms = trusted.offset_ms.min(offset_ms);
        }
        fresh
    }

    /// Asks a session, unless it was asked just now.
    fn ask(
        &mut self,
        now_ms: u64,
        session: u64,
        number: u64,
        held: Option<(SocketAddr, u64, Bytes)>,
    ) -> Option<Content> {
        self.asked.retain(|_, asked| now_ms.saturating_sub(asked.at_ms) <= ANSWER_MAX_MS);
        if self.asked.contains_key(&session) || self.asked.len() >= ASKED_MAX {
            return None;
        }
        self.asked.insert(session, Asked { number, at_ms: now_ms, held });
        Some(Content::Question(number))
    }

    fn answered(&mut self, now_ms: u64, session: u64, sent_ms: u64, given: u64) -> Heard {
        let right = self.asked.get(&session).is_some_and(|asked| {
            asked.number == given && now_ms.saturating_sub(asked.at_ms) <= ANSWER_MAX_MS
        });
        let Some(asked) = right.then(|| self.asked.remove(&session)).flatten() else {
            return Heard::Stale;
        };
        if self.trusted.len() >= TRUSTED_MAX && !self.trusted.contains_key(&session) {
            let longest = self.trusted.iter().min_by_key(|(_, trusted)| trusted.heard_ms);
            if let Some(longest) = longest.map(|(session, _)| *session) {
                self.trusted.remove(&longest);
            }
        }
        let offset_ms = i128::from(now_ms) - i128::from(sent_ms);
        self.trusted.insert(session, Trusted { offset_ms, heard_ms: now_ms });
        match asked.held {
            // It may have been an old one, sent again.
            Some((from, sent_ms, message)) if self.is_fresh(asked.at_ms, session, sent_ms) => {
                Heard::Message(from, message)
            }
            _ => Heard::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;

    fn at() -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    fn message(text: &'static str) -> Content {
        Content::Message(Bytes::from_static(text.as_bytes()))
    }

    fn is(heard: Heard, text: &'static str) -> bool {
        heard == Heard::Message(at(), Bytes::from_static(text.as_bytes()))
    }

    fn letter(session: u64, sent_ms: u64, content: Content) -> Letter {
        Letter { session, sent_ms, content }
    }

    /// A that trusts B, whose clock is 1,000,000 ms ahead.
    fn acquainted() -> Sessions {
        let mut a = Sessions::new(A);
        let asked = a.hear(0, at(), letter(B, 1_000_000, message("first")), 77);
        assert_eq!(asked, Heard::Reply(Content::Question(77)));
        assert!(is(a.hear(10, at(), letter(B, 1_000_005, Content::Answer(77)), 0), "first"));
        a
    }

    #[test]
    fn who_answers_is_heard_from_the_first_message_on() {
        let mut a = acquainted();
        assert!(is(a.hear(300, at(), letter(B, 1_000_290, message("next")), 78), "next"));
        // One that took longer, and one that overtook it.
        assert!(is(a.hear(310, at(), letter(B, 1_000_100, message("late")), 78), "late"));
    }

    #[test]
    fn both_sides_get_acquainted_in_three_letters() {
        let (mut a, mut b) = (Sessions::new(A), Sessions::new(B));
        let from_a = a.letter(50, message("syn"));
        let Heard::Reply(question) = b.hear(900, at(), from_a, 7) else { panic!() };
        let heard = a.hear(51, at(), b.letter(900, question), 8);
        let Heard::Replies([answer, question]) = heard else { panic!("{heard:?}") };
        assert!(is(b.hear(901, at(), a.letter(51, answer), 9), "syn"));
        let Heard::Reply(answer) = b.hear(901, at(), a.letter(51, question), 9) else { panic!() };
        assert_eq!(a.hear(52, at(), b.letter(901, answer), 9), Heard::Done);
        assert!(is(a.hear(60, at(), b.letter(910, message("hello")), 9), "hello"));
    }

    #[test]
    fn what_was_recorded_is_refused_soon_and_by_a_node_that_knows_nothing_at_once() {
        let recorded = letter(B, 1_000_200, message("old"));
        let mut a = acquainted();
        assert!(is(a.hear(210, at(), recorded.clone(), 78), "old"));
        let later = 210 + AGE_MAX_MS + 10;
        let asked = a.hear(later, at(), recorded.clone(), 78);
        assert_eq!(asked, Heard::Reply(Content::Question(78)));
        // Nobody answers, and the question is not repeated for each.
        assert_eq!(a.hear(later + 1, at(), recorded.clone(), 79), Heard::Stale);
        let mut restarted = Sessions::new(3);
        for n in 0..50 {
            let heard = restarted.hear(n * 100, at(), letter(B, n * 100, message("old")), n);
            assert!(!matches!(heard, Heard::Message(..)), "{heard:?}");
        }
    }

    #[test]
    fn an_answer_counts_once_and_only_to_its_question() {
        let mut a = acquainted();
        let replayed = letter(B, 1_000_005, Content::Answer(77));
        assert_eq!(a.hear(9_000, at(), replayed.clone(), 0), Heard::Stale);
        let old = letter(B, 1_000_010, message("old"));
        assert_eq!(a.hear(9_000, at(), old.clone(), 80), Heard::Reply(Content::Question(80)));
        assert_eq!(a.hear(9_001, at(), replayed, 0), Heard::Stale);
        // Of another session than was asked.
        assert_eq!(a.hear(9_002, at(), letter(9, 5, Content::Answer(80)), 0), Heard::Stale);
        // Too late.
        let late = letter(B, 1_010_100, Content::Answer(80));
        assert_eq!(a.hear(9_001 + ANSWER_MAX_MS, at(), late, 0), Heard::Stale);
        assert!(matches!(a.hear(11_000, at(), old, 81), Heard::Reply(Content::Question(81))));
    }

    #[test]
    fn an_old_message_held_for_a_live_sender_is_not_handed_on() {
        let mut a = Sessions::new(A);
        a.hear(0, at(), letter(B, 1_000, message("old")), 5);
        let answer = letter(B, 1_000 + AGE_MAX_MS + 50, Content::Answer(5));
        assert_eq!(a.hear(20, at(), answer, 0), Heard::Done);
        let fresh = letter(B, 1_000 + AGE_MAX_MS + 60, message("new"));
        assert!(is(a.hear(30, at(), fresh, 0), "new"));
    }

    #[test]
    fn a_clock_that_runs_slow_or_stood_still_is_asked_anew() {
        let mut a = acquainted();
        // Asleep for an hour: its clock did not go on.
        let now = 3_600_000;
        let heard = a.hear(now, at(), letter(B, 1_000_400, message("awake")), 90);
        assert_eq!(heard, Heard::Reply(Content::Question(90)));
        let heard = a.hear(now + 10, at(), letter(B, 1_000_405, Content::Answer(90)), 0);
        assert!(is(heard, "awake"));
        // One that runs fast is followed: what it sent five seconds ago is old by its own clock.
        for step in 1..200_u64 {
            let (now, sent) = (now + step * 1_000, 1_000_405 + step * 1_010);
            assert!(is(a.hear(now, at(), letter(B, sent, message("fast")), 0), "fast"));
        }
        let (now, sent) = (now + 200_000, 1_000_405 + 200 * 1_010 - AGE_MAX_MS - 100);
        assert!(!matches!(a.hear(now, at(), letter(B, sent, message("x")), 1), Heard::Message(..)));
    }

    #[test]
    fn own_letters_and_too_many_sessions_are_dropped() {
        let mut a = Sessions::new(A);
        assert_eq!(a.hear(0, at(), letter(A, 0, message("mine")), 1), Heard::Stale);
        for session in 0..ASKED_MAX as u64 {
            let heard = a.hear(0, at(), letter(10 + session, 0, message("x")), session);
            assert_eq!(heard, Heard::Reply(Content::Question(session)));
        }
        assert_eq!(a.hear(0, at(), letter(9_999, 0, message("x")), 1), Heard::Stale);
        // A question is answered all the same: it costs nothing.
        let heard = a.hear(0, at(), letter(9_999, 0, Content::Question(4)), 1);
        assert_eq!(heard, Heard::Reply(Content::Answer(4)));
    }
}
