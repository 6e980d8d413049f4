//! Rotates the keys of gossip: when a node was removed, which knows them, or an operator asks.
//!
//! Three entries of the log: the new key is accepted, is sent with, the old ones are retired. Each
//! waits until every live node says by gossip that it has followed, but not for long: a removed
//! node is to be out within five seconds, whoever is slow. What was begun is seen in the state, so
//! whoever leads goes on. A key that its maker took to the grave is given up: the leader sends with
//! no key that it does not hold, and so can give to others.

use std::time::Duration;

use nigh_model::command::Command;
use nigh_model::limits::GOSSIP_KEYS_MAX;
use nigh_model::{GossipKeyId, GossipKeys};
use tokio::time::Instant;

use crate::control::propose::Control;
use crate::gossip::Keyring;
use crate::seen::{KeysInUse, Liveness};

/// A live node that lacks the new key is waited for no longer than this. It gets the key over the
/// peer connection all the same, and is not heard by gossip until then.
const SWITCH_AFTER: Duration = Duration::from_millis(1_500);
/// Nor is one that does not send with it yet.
const RETIRE_AFTER: Duration = Duration::from_millis(1_500);
/// A key that the leader lacks and that nobody has given it by then is lost.
const LOST_AFTER: Duration = Duration::from_millis(1_500);

/// What is to be done about the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Accept another key.
    Add,
    /// Send with this one.
    SendWith(GossipKeyId),
    /// Accept these no longer.
    Retire(Vec<GossipKeyId>),
}

/// Since when the keys are as they are, as far as this leader saw.
#[derive(Default)]
pub(super) struct Rotation {
    seen: Option<(GossipKeys, Instant)>,
    /// No key could be made; it was said.
    failed: bool,
}

impl Rotation {
    fn waited(&mut self, decided: &GossipKeys) -> Duration {
        match &self.seen {
            Some((seen, since)) if seen == decided => since.elapsed(),
            _ => {
                self.seen = Some((decided.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }
}

/// Takes the next step of a rotation, if one is due.
pub(super) async fn step(control: &Control, rotation: &mut Rotation) {
    let state = control.decided.state();
    if state.cluster.is_none() {
        return;
    }
    let waited = rotation.waited(&state.gossip);
    let next = {
        let view = control.seen.now();
        let live = view.nodes.iter().filter(|(id, node)| {
            node.liveness != Liveness::Dead && state.nodes.contains_key(*id) && **id != control.own
        });
        let live: Vec<KeysInUse> = live.map(|(_, node)| node.report.keys).collect();
        next(&state.gossip, &control.keys.ring(), &live, waited)
    };
    let commands = match next {
        None => return,
        Some(Step::Add) => match key_to_add(control).await {
            Ok(id) => vec![Command::AddGossipKey { id }],
            Err(error) => {
                if !std::mem::replace(&mut rotation.failed, true) {
                    tracing::error!(%error, "no gossip key can be made; removed nodes know this one");
                }
                return;
            }
        },
        Some(Step::SendWith(id)) => vec![Command::SendWithGossipKey { id }],
        Some(Step::Retire(ids)) => {
            ids.into_iter().map(|id| Command::RetireGossipKey { id }).collect()
        }
    };
    rotation.failed = false;
    for command in commands {
        let what = format!("{command:?}");
        match control.propose_as_leader(command).await {
            Ok((_, Ok(_))) => tracing::info!(what, "the keys of gossip change"),
            // Something changed meanwhile: the next step looks anew.
            Ok((_, Err(refusal))) => tracing::debug!(%refusal, what, "refused"),
            Err(error) => return tracing::debug!(%error, what, "not committed"),
        }
    }
}

/// The first key of a cluster is the one that its nodes have by now; every other is made.
async fn key_to_add(control: &Control) -> Result<GossipKeyId, crate::Error> {
    let held = {
        let ring = control.keys.ring();
        let first = ring.decided().accepted.is_empty();
        ring.sending().filter(|_| first).map(crate::gossip::GossipKey::id)
    };
    match held {
        Some(id) => Ok(id),
        None => control.keys.make().await,
    }
}

/// What is to be done, as `live` nodes other than this one report, when the keys have been as they
/// are for `waited`.
fn next(decided: &GossipKeys, own: &Keyring, live: &[KeysInUse], waited: Duration) -> Option<Step> {
    let (Some(newest), Some(sending)) = (decided.newest(), decided.sending) else {
        return Some(Step::Add);
    };
    let idle = decided.accepted.iter().map(|key| key.id).filter(|id| *id != sending);
    let add = || match idle.clone().next() {
        // A rotation was cut short again and again: room first.
        Some(oldest) if decided.accepted.len() >= GOSSIP_KEYS_MAX => Step::Retire(vec![oldest]),
        _ => Step::Add,
    };
    if own.get(newest.id).is_none() {
        return (waited >= LOST_AFTER).then(|| match newest.id == sending {
            true => add(),
            false => Step::Retire(vec![newest.id]),
        });
    }
    if decided.is_stale() {
        return Some(add());
    }
    if newest.id != sending {
        let everywhere = live.iter().all(|keys| keys.newest == Some(newest.id));
        return (everywhere || waited >= SWITCH_AFTER).then_some(Step::SendWith(newest.id));
    }
    let idle: Vec<_> = idle.collect();
    let everywhere = live.iter().all(|keys| keys.sending == Some(sending));
    let due = !idle.is_empty() && (everywhere || waited >= RETIRE_AFTER);
    due.then_some(Step::Retire(idle))
}

#[cfg(test)]
mod tests {
    use nigh_model::AcceptedKey;
    use zeroize::Zeroizing;

    use super::*;
    use crate::gossip::GossipKey;

    const NOW: Duration = Duration::ZERO;
    const LATE: Duration = Duration::from_secs(2);

    fn key(n: u8) -> GossipKey {
        GossipKey::new(Zeroizing::new([n; 32]))
    }

    fn id(n: u8) -> GossipKeyId {
        key(n).id()
    }

    fn decided(accepted: &[u8], sending: u8, stale: u64) -> GossipKeys {
        let accepted =
            (1..).zip(accepted).map(|(at, n)| AcceptedKey { id: id(*n), since: at * 10 });
        GossipKeys { accepted: accepted.collect(), sending: Some(id(sending)), stale }
    }

    fn ring(keys: &[u8]) -> Keyring {
        Keyring::new(keys.iter().map(|n| key(*n)))
    }

    fn uses(newest: u8, sending: u8) -> KeysInUse {
        KeysInUse { newest: Some(id(newest)), sending: Some(id(sending)) }
    }

    #[test]
    fn a_rotation_waits_for_every_live_node_and_not_for_long() {
        let (old, both, new) =
            (decided(&[1], 1, 0), decided(&[1, 2], 1, 15), decided(&[1, 2], 2, 15));
        let all = [uses(2, 1), uses(2, 1)];
        assert_eq!(next(&old, &ring(&[1]), &[uses(1, 1)], LATE), None);
        assert_eq!(next(&decided(&[1], 1, 15), &ring(&[1]), &all, NOW), Some(Step::Add));
        assert_eq!(next(&both, &ring(&[1, 2]), &[uses(2, 1), uses(1, 1)], NOW), None);
        assert_eq!(next(&both, &ring(&[1, 2]), &all, NOW), Some(Step::SendWith(id(2))));
        let slow = [uses(1, 1), KeysInUse::default()];
        assert_eq!(next(&both, &ring(&[1, 2]), &slow, LATE), Some(Step::SendWith(id(2))));
        assert_eq!(next(&new, &ring(&[1, 2]), &[uses(2, 2), uses(2, 1)], NOW), None);
        let retire = Some(Step::Retire(vec![id(1)]));
        assert_eq!(next(&new, &ring(&[1, 2]), &[uses(2, 2)], NOW), retire);
        assert_eq!(next(&new, &ring(&[1, 2]), &slow, LATE), retire);
        assert_eq!(next(&decided(&[2], 2, 5), &ring(&[2]), &slow, LATE), None);
    }

    #[test]
    fn the_first_key_is_added_and_sent_with() {
        assert_eq!(next(&GossipKeys::default(), &ring(&[1]), &[], NOW), Some(Step::Add));
        assert_eq!(next(&GossipKeys::default(), &ring(&[]), &[], NOW), Some(Step::Add));
    }

    #[test]
    fn a_key_that_nobody_holds_any_more_is_given_up() {
        // Its maker died with it before it was sent with.
        let both = decided(&[1, 2], 1, 15);
        assert_eq!(next(&both, &ring(&[1]), &[uses(1, 1)], NOW), None);
        let retire = Some(Step::Retire(vec![id(2)]));
        assert_eq!(next(&both, &ring(&[1]), &[uses(1, 1)], LATE), retire);
        assert_eq!(next(&decided(&[1], 1, 15), &ring(&[1]), &[uses(1, 1)], NOW), Some(Step::Add));
        // Or every node has lost the one that is sent with.
        let lost = decided(&[1], 1, 0);
        assert_eq!(next(&lost, &ring(&[]), &[], NOW), None);
        assert_eq!(next(&lost, &ring(&[]), &[], LATE), Some(Step::Add));
        assert_eq!(
            next(&decided(&[1, 3], 1, 0), &ring(&[3]), &[], NOW),
            Some(Step::SendWith(id(3)))
        );
    }

    #[test]
    fn rotations_that_were_cut_short_leave_room_for_the_next() {
        let full = decided(&[1, 2, 3, 4], 2, 99);
        let room = Some(Step::Retire(vec![id(1)]));
        assert_eq!(next(&full, &ring(&[1, 2, 3, 4]), &[], NOW), room);
        let full = decided(&[1, 2, 3, 4], 4, 0);
        assert_eq!(next(&full, &ring(&[]), &[], LATE), room);
        let ended = decided(&[1, 2, 3, 4], 4, 0);
        let rest = Some(Step::Retire(vec![id(1), id(2), id(3)]));
        assert_eq!(next(&ended, &ring(&[1, 2, 3, 4]), &[], NOW), rest);
    }

    /// Follows the steps from any beginning, as a leader that nobody else can give keys: it ends with
    /// one key, held, sent with and not stale.
    #[test]
    fn every_beginning_ends_with_one_good_key() {
        let mut fresh = 100;
        for accepted in [&[][..], &[1], &[1, 2], &[1, 2, 3], &[1, 2, 3, 4]] {
            for sending in accepted.iter().map(|n| Some(*n)).chain([None]) {
                for held in 0..16_u8 {
                    for stale in [0, 15, 99] {
                        let keys: Vec<u8> =
                            (1..=4).filter(|n| held & (1 << (n - 1)) != 0).collect();
                        let mut decided = decided(accepted, 1, stale);
                        decided.sending = sending.map(id);
                        if sending.is_none() {
                            decided.accepted.clear();
                        }
                        let mut own = ring(&keys);
                        own.follow(&decided, None);
                        for at in 101..121 {
                            match next(&decided, &own, &[], LATE) {
                                None => break,
                                Some(Step::Add) => {
                                    fresh = if fresh == 250 { 100 } else { fresh + 1 };
                                    own.insert(key(fresh));
                                    assert!(decided.accepted.len() < GOSSIP_KEYS_MAX);
                                    decided.accepted.push(AcceptedKey { id: id(fresh), since: at });
                                    decided.sending.get_or_insert(id(fresh));
                                }
                                Some(Step::SendWith(id)) => decided.sending = Some(id),
                                Some(Step::Retire(ids)) => {
                                    assert!(ids.iter().all(|id| decided.sending != Some(*id)));
                                    decided.accepted.retain(|key| !ids.contains(&key.id));
                                }
                            }
                            own.follow(&decided, None);
                        }
                        assert_eq!(next(&decided, &own, &[], LATE), None, "{decided:?}");
                        assert_eq!(decided.accepted.len(), 1);
                        assert!(own.missing().is_empty() && !decided.is_stale());
                    }
                }
            }
        }
    }
}
