//! What holds in every state that commands can lead to, whatever the commands.
//!
//! A case is a list of [`Step`]s. A step names things by number, and is made into a command
//! against the state that it meets: so most commands mean something, and some do not.

use std::collections::BTreeMap;

use nigh_model::apply::apply_blank;
use nigh_model::command::{NodeSpec, decode, encode};
use nigh_model::limits::{GOSSIP_KEYS_MAX, REPLIES_KEPT, REVISIONS_KEPT};
use nigh_model::route::Route;
use nigh_model::spec::RegionPattern;
use nigh_model::{
    Addresses, AppName, AppSpec, Applied, Assignment, ClusterId, Command, Digest, Envelope,
    FunctionName, FunctionRef, FunctionSpec, GossipKeyId, Location, NodeId, NodeName, Refusal,
    Region, Reply, RequestId, RevisionId, State, Tier, apply,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Serialize;

const APPS: [&str; 3] = ["blog", "mail", "shop"];
const FUNCTIONS: [&str; 2] = ["read", "write"];
const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const REGIONS: [&str; 3] = ["eu-1", "eu-2", "us-1"];
const PATTERNS: [&str; 4] = ["eu-1", "eu-*", "us-1", "*"];
/// Some collide by shape, some lie under the name of an app, some are bound to a host.
const ROUTES: [&str; 9] = [
    "/shop/cart",
    "/mail/...",
    "/blog/:post",
    "/x",
    "/x/...",
    "/:a",
    "/:b",
    "www.example.com/...",
    "www.example.com/x",
];
const REQUEST_IDS: u8 = 12;
const STEPS_MAX: usize = 60;

#[derive(Clone, Debug)]
struct Step {
    request: Option<u8>,
    at_ms: u64,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    Blank,
    Bootstrap(NodeSpec),
    Register { node: NodeSpec, replaces: Replaces },
    Update { which: Index, node: NodeSpec, keeps_name: bool },
    Remove(Index),
    Drain { which: Index, on: bool },
    Put { app: usize, spec: AppSpec },
    PutAgain { app: usize },
    Activate { app: usize, which: Index },
    Delete { app: usize },
    Place { fresh: bool, puts: Vec<(Index, Index, Tier)>, remove: Vec<Index> },
    PlaceBadly { node: u64, revision: u64 },
    Key(KeyAct, u64),
}

#[derive(Clone, Copy, Debug)]
enum KeyAct {
    Add,
    SendWith,
    Retire,
    Rotate,
}

#[derive(Clone, Copy, Debug)]
enum Replaces {
    Nothing,
    TheHolder,
    Another,
}

/// What one entry of the log did.
struct Transition<'a> {
    before: &'a State,
    index: u64,
    /// None: an entry that carries no command.
    envelope: Option<&'a Envelope>,
    applied: Option<&'a Applied>,
    after: &'a State,
}

type Log = Vec<(u64, Option<Envelope>)>;

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a good name")
}

fn some_node() -> impl Strategy<Value = NodeSpec> {
    let location = proptest::option::of((-90.0..90.0_f64, -180.0..180.0_f64));
    (select(&NODES[..]), select(&REGIONS[..]), location, 0..3_u16).prop_map(
        |(node, region, location, port)| NodeSpec {
            name: name(node),
            region: name(region),
            zone: None,
            location: location.map(|(latitude, longitude)| Location { latitude, longitude }),
            addresses: Addresses { http: format!("127.0.0.1:{port}"), ..Addresses::default() },
            version: "0.1.0".to_owned(),
            feature_level: 1,
        },
    )
}

fn some_function() -> impl Strategy<Value = FunctionSpec> {
    (0..3_u8, vec(select(&ROUTES[..]), 0..3), vec(select(&PATTERNS[..]), 0..2)).prop_map(
        |(component, routes, patterns)| {
            let mut function = FunctionSpec::new(Digest::of(&[component]), 1);
            function.routes = routes.into_iter().map(name).collect();
            let patterns = patterns.into_iter().map(|p| RegionPattern::try_from(p.to_owned()));
            function.placement.regions = patterns.map(|p| p.expect("a good pattern")).collect();
            function
        },
    )
}

fn some_spec() -> impl Strategy<Value = AppSpec> {
    proptest::collection::btree_map(select(&FUNCTIONS[..]).prop_map(name), some_function(), 0..3)
        .prop_map(|functions| AppSpec { functions, ..AppSpec::default() })
}

fn some_act() -> impl Strategy<Value = Act> {
    let app = || 0..APPS.len();
    let replaces = select(&[Replaces::Nothing, Replaces::TheHolder, Replaces::Another][..]);
    let tier = || select(&[Tier::Ready, Tier::Warm][..]);
    prop_oneof![
        1 => Just(Act::Blank),
        1 => some_node().prop_map(Act::Bootstrap),
        4 => (some_node(), replaces).prop_map(|(node, replaces)| Act::Register { node, replaces }),
        2 => (any::<Index>(), some_node(), proptest::bool::weighted(0.8))
            .prop_map(|(which, node, keeps_name)| Act::Update { which, node, keeps_name }),
        1 => any::<Index>().prop_map(Act::Remove),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(which, on)| Act::Drain { which, on }),
        8 => (app(), some_spec()).prop_map(|(app, spec)| Act::Put { app, spec }),
        1 => app().prop_map(|app| Act::PutAgain { app }),
        6 => (app(), any::<Index>()).prop_map(|(app, which)| Act::Activate { app, which }),
        1 => app().prop_map(|app| Act::Delete { app }),
        6 => (
            proptest::bool::weighted(0.8),
            vec((any::<Index>(), any::<Index>(), tier()), 0..4),
            vec(any::<Index>(), 0..2),
        )
            .prop_map(|(fresh, puts, remove)| Act::Place { fresh, puts, remove }),
        1 => (0..9_u64, 0..40_u64).prop_map(|(node, revision)| Act::PlaceBadly { node, revision }),
        4 => (
            select(&[KeyAct::Add, KeyAct::SendWith, KeyAct::Retire, KeyAct::Rotate][..]),
            0..6_u64,
        )
            .prop_map(|(act, key)| Act::Key(act, key)),
    ]
}

fn some_step() -> impl Strategy<Value = Step> {
    let request = proptest::option::weighted(0.5, 0..REQUEST_IDS);
    (request, 0..1_000_000_u64, some_act()).prop_map(|(request, at_ms, act)| Step {
        request,
        at_ms,
        act,
    })
}

/// A cluster is begun first, mostly: before that there is little to see.
fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    let begin = (proptest::bool::weighted(0.95), some_node());
    (begin, vec(some_step(), 0..STEPS_MAX)).prop_map(|((begun, node), mut steps)| {
        if begun {
            steps.insert(0, Step { request: None, at_ms: 0, act: Act::Bootstrap(node) });
        }
        steps
    })
}

/// Makes the command that a step means in this state; none for a blank entry.
fn command_of(act: &Act, state: &State) -> Option<Command> {
    let app_of = |app: &usize| name::<AppName>(APPS[*app]);
    let nodes: Vec<NodeId> = state.nodes.keys().copied().chain([NodeId(7_777)]).collect();
    let functions: Vec<FunctionRef> = {
        let revisions = state.apps.values().flat_map(|app| app.revisions.values());
        revisions.flat_map(|revision| revision.functions().map(|(f, _)| f)).collect()
    };
    Some(match act {
        Act::Blank => return None,
        Act::Bootstrap(node) => Command::Bootstrap {
            cluster: name::<ClusterId>("0123456789abcdef0123456789abcdef"),
            node: node.clone(),
            authority: None,
            tokens: Vec::new(),
        },
        Act::Register { node, replaces } => {
            let holder = state.node_named(node.name.as_str()).map(|holder| holder.id);
            let replaces = match replaces {
                Replaces::Nothing => None,
                Replaces::TheHolder => holder,
                Replaces::Another => Some(NodeId(holder.map_or(3, |id| id.0 + 1))),
            };
            Command::RegisterNode { node: node.clone(), replaces, token: None }
        }
        Act::Update { which, node, keeps_name } => {
            let id = *which.get(&nodes);
            let mut node = node.clone();
            if let Some(known) = state.nodes.get(&id).filter(|_| *keeps_name) {
                node.name = known.name.clone();
            }
            Command::UpdateNode { id, node }
        }
        Act::Drain { which, on } => Command::SetDraining { id: *which.get(&nodes), draining: *on },
        Act::Remove(which) => Command::RemoveNode { id: *which.get(&nodes) },
        Act::Put { app, spec } => Command::PutRevision { app: app_of(app), spec: spec.clone() },
        Act::PutAgain { app } => {
            let newest = state.apps.get(APPS[*app]).and_then(|app| app.newest());
            let spec = newest.map(|revision| revision.spec.clone()).unwrap_or_default();
            Command::PutRevision { app: app_of(app), spec }
        }
        Act::Activate { app, which } => {
            let known = state.apps.get(APPS[*app]);
            let revisions: Vec<RevisionId> = known
                .map(|app| app.revisions.keys().copied().collect())
                .filter(|revisions: &Vec<_>| !revisions.is_empty())
                .unwrap_or_else(|| vec![RevisionId(1)]);
            let (app, revision) = (app_of(app), *which.get(&revisions));
            if known.is_some_and(|app| app.rollout == Some(revision)) {
                Command::Activate { app, revision }
            } else {
                Command::RollOut { app, revision }
            }
        }
        Act::Delete { app } => Command::DeleteApp { app: app_of(app) },
        Act::Place { fresh, puts, remove } => {
            let basis = state.plan_basis + u64::from(!fresh);
            let mut set: BTreeMap<FunctionRef, Assignment> = BTreeMap::new();
            for (function, node, tier) in puts.iter().filter(|_| !functions.is_empty()) {
                let assignment = set.entry(function.get(&functions).clone()).or_default();
                assignment.nodes.insert(*node.get(&nodes), *tier);
            }
            let remove = remove.iter().filter(|_| !functions.is_empty());
            let remove = remove.map(|function| function.get(&functions).clone()).collect();
            Command::Place { basis, set: set.into_iter().collect(), remove }
        }
        Act::Key(act, key) => {
            let id = GossipKeyId(*key);
            match act {
                KeyAct::Add => Command::AddGossipKey { id },
                KeyAct::SendWith => Command::SendWithGossipKey { id },
                KeyAct::Retire => Command::RetireGossipKey { id },
                KeyAct::Rotate => Command::RotateGossipKeys,
            }
        }
        Act::PlaceBadly { node, revision } => {
            let function = name::<FunctionName>(FUNCTIONS[0]);
            let function = FunctionRef { revision: RevisionId(*revision), function };
            let nodes = [(NodeId(*node), Tier::Warm)].into();
            Command::Place {
                basis: state.plan_basis,
                set: vec![(function, Assignment { nodes })],
                remove: Vec::new(),
            }
        }
    })
}

/// Plays the steps and shows each transition.
fn play(
    steps: &[Step],
    mut see: impl FnMut(&Transition<'_>) -> Result<(), TestCaseError>,
) -> Result<(State, Log), TestCaseError> {
    let mut state = State::default();
    let mut log = Log::new();
    for (index, step) in (1..).zip(steps) {
        let before = state.clone();
        let envelope = command_of(&step.act, &state).map(|command| Envelope {
            request_id: step.request.map(|n| name::<RequestId>(&format!("request-{n}"))),
            at_ms: step.at_ms,
            by: None,
            command,
        });
        let applied = apply_entry(&mut state, index, envelope.as_ref());
        see(&Transition {
            before: &before,
            index,
            envelope: envelope.as_ref(),
            applied: applied.as_ref(),
            after: &state,
        })?;
        log.push((index, envelope));
    }
    Ok((state, log))
}

fn apply_entry(state: &mut State, index: u64, envelope: Option<&Envelope>) -> Option<Applied> {
    match envelope {
        Some(envelope) => Some(apply(state, index, envelope)),
        None => {
            apply_blank(state, index);
            None
        }
    }
}

fn reload(state: &State) -> State {
    let bytes = rmp_serde::to_vec_named(state).expect("a state is maps, strings and numbers");
    rmp_serde::from_slice(&bytes).expect("what was just written")
}

/// The state without what every entry may change.
fn essence(state: &State) -> State {
    State {
        applied: 0,
        replies: Default::default(),
        replies_by_index: Default::default(),
        audit: Default::default(),
        upkeep: Default::default(),
        ..state.clone()
    }
}

/// A replayed request id is answered from memory: the command itself is not looked at.
fn is_replay(seen: &Transition<'_>) -> bool {
    let request = seen.envelope.and_then(|envelope| envelope.request_id.as_ref());
    request.is_some_and(|id| seen.before.replies.contains_key(id))
}

fn written_routes(spec: &AppSpec) -> impl Iterator<Item = &Route> {
    spec.functions.values().flat_map(|function| &function.routes)
}

proptest! {
    #[test]
    fn the_same_log_gives_the_same_state_on_every_node(
        steps in some_steps(),
        restarts in vec(any::<Index>(), 0..4),
    ) {
        let (first, log) = play(&steps, |_| Ok(()))?;
        // The second node reads the commands from its disk and restarts here and there.
        let mut second = State::default();
        let restarts: Vec<usize> =
            restarts.iter().map(|restart| restart.index(log.len().max(1))).collect();
        for (at, (index, envelope)) in log.iter().enumerate() {
            if restarts.contains(&at) {
                second = reload(&second);
            }
            let envelope = envelope.as_ref().map(|e| decode(&encode(e)).expect("what we wrote"));
            apply_entry(&mut second, *index, envelope.as_ref());
        }
        prop_assert_eq!(first.digest(), second.digest());
        prop_assert_eq!(&first, &second);
        // The third got a snapshot of the first in the end.
        prop_assert_eq!(first.digest(), reload(&first).digest());
    }

    #[test]
    fn who_holds_an_older_state_keeps_it(steps in some_steps()) {
        let mut held: Vec<(State, Digest)> = Vec::new();
        play(&steps, |seen| {
            held.push((seen.before.clone(), seen.before.digest()));
            Ok(())
        })?;
        for (state, digest) in held {
            prop_assert_eq!(state.digest(), digest);
        }
    }

    #[test]
    fn a_repeated_request_id_is_answered_the_same_and_changes_nothing(steps in some_steps()) {
        play(&steps, |seen| {
            let Some((envelope, applied)) = seen.envelope.zip(seen.applied) else { return Ok(()) };
            let Some(id) = &envelope.request_id else { return Ok(()) };
            if let Some(known) = seen.before.replies.get(id) {
                prop_assert_eq!(&applied.reply, known.as_ref());
                prop_assert!(applied.events.is_empty());
                let expected = State { applied: seen.index, ..seen.before.clone() };
                prop_assert_eq!(seen.after, &expected);
            }
            // Now and once more, whatever the first answer was.
            let mut again = seen.after.clone();
            let repeated = apply(&mut again, seen.index + 1, envelope);
            prop_assert_eq!(&repeated.reply, &applied.reply);
            let expected = State { applied: seen.index + 1, ..seen.after.clone() };
            prop_assert_eq!(again, expected);
            Ok(())
        })?;
    }

    #[test]
    fn a_stale_plan_is_refused(steps in some_steps(), older in 1..5_u64) {
        let (state, _) = play(&steps, |seen| {
            let Some((envelope, applied)) = seen.envelope.zip(seen.applied) else { return Ok(()) };
            let Command::Place { basis, .. } = &envelope.command else { return Ok(()) };
            if *basis != seen.before.plan_basis && seen.before.cluster.is_some() && !is_replay(seen) {
                let current = seen.before.plan_basis;
                prop_assert_eq!(&applied.reply, &Err(Refusal::StalePlan { basis: *basis, current }));
                prop_assert_eq!(essence(seen.after), essence(seen.before));
            }
            Ok(())
        })?;
        // A plan that was made before the last change and would wipe out everything.
        if state.cluster.is_some() && state.plan_basis >= older {
            let remove = state.assignments.keys().cloned().collect();
            let basis = state.plan_basis - older;
            let command = Command::Place { basis, set: Vec::new(), remove };
            let mut after = state.clone();
            let applied =
                apply(&mut after, 1_000, &Envelope { request_id: None, at_ms: 0, by: None, command });
            let current = state.plan_basis;
            prop_assert_eq!(applied.reply, Err(Refusal::StalePlan { basis, current }));
            prop_assert_eq!(essence(&after), essence(&state));
        }
    }

    #[test]
    fn a_refusal_changes_nothing_and_a_change_has_an_event(steps in some_steps()) {
        play(&steps, |seen| {
            let Some(applied) = seen.applied else {
                prop_assert_eq!(seen.after, &State { applied: seen.index, ..seen.before.clone() });
                return Ok(());
            };
            if applied.reply.is_err() {
                prop_assert!(applied.events.is_empty());
            }
            if applied.events.is_empty() {
                prop_assert_eq!(essence(seen.after), essence(seen.before));
            }
            Ok(())
        })?;
    }

    #[test]
    fn applied_only_grows_and_no_basis_is_ahead_of_it(steps in some_steps()) {
        play(&steps, |seen| {
            prop_assert_eq!(seen.after.applied, seen.index);
            prop_assert!(seen.after.applied > seen.before.applied);
            prop_assert!(seen.after.plan_basis >= seen.before.plan_basis);
            prop_assert!(seen.after.plan_basis <= seen.after.applied);
            Ok(())
        })?;
    }

    #[test]
    fn nothing_is_assigned_that_does_not_exist_or_where_it_may_not_be(steps in some_steps()) {
        play(&steps, |seen| {
            for (function, assignment) in seen.after.assignments.iter() {
                let revision = seen.after.revision(function.revision);
                let spec = revision.and_then(|(_, r)| r.spec.functions.get(&function.function));
                prop_assert!(spec.is_some(), "{} is assigned and does not exist", function);
                for id in assignment.nodes.keys() {
                    let node = seen.after.nodes.get(id);
                    prop_assert!(node.is_some(), "{} is assigned to node {}, which is gone", function, id);
                    let region: Option<&Region> = node.map(|node| &node.region);
                    let allowed = spec.zip(region).is_some_and(|(spec, r)| spec.placement.allows(r));
                    prop_assert!(allowed, "{} may not be in {:?}", function, region);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn an_acknowledged_revision_stays_until_its_app_is_deleted_or_enough_newer_ones_came(
        steps in some_steps(),
    ) {
        play(&steps, |seen| {
            let put = seen.envelope.zip(seen.applied).filter(|_| !is_replay(seen));
            if let Some((Envelope { command: Command::PutRevision { app, spec }, .. }, applied)) = put
                && let Ok(Reply::Revision { id, .. }) = &applied.reply
            {
                let kept = seen.after.apps.get(app).and_then(|app| app.revisions.get(id));
                prop_assert_eq!(kept.map(|revision| &revision.spec), Some(spec));
            }
            let deleted = match seen.envelope.map(|envelope| &envelope.command) {
                Some(Command::DeleteApp { app }) if !is_replay(seen) => Some(app),
                _ => None,
            };
            for (app, held) in seen.before.apps.iter().filter(|(app, _)| Some(*app) != deleted) {
                let Some(now) = seen.after.apps.get(app) else {
                    return Err(TestCaseError::fail(format!("{app} is gone and was not deleted")));
                };
                let wanted = [now.active, now.rollout];
                for id in held.revisions.keys().filter(|id| !now.revisions.contains_key(id)) {
                    prop_assert_eq!(now.revisions.len(), REVISIONS_KEPT);
                    let older = now.revisions.keys().find(|kept| *kept < id && !wanted.contains(&Some(**kept)));
                    prop_assert_eq!(older, None, "{} went before an older one", id);
                }
            }
            for app in seen.after.apps.values() {
                prop_assert!(app.revisions.len() <= REVISIONS_KEPT);
                for wanted in [app.active, app.rollout].into_iter().flatten() {
                    prop_assert!(app.revisions.contains_key(&wanted), "{} is wanted and gone", wanted);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn no_route_ever_leads_to_two_apps(steps in some_steps()) {
        play(&steps, |seen| {
            let wanted: Vec<_> = seen.after.wanted_revisions().collect();
            for (app, revision) in &wanted {
                for route in written_routes(&revision.spec) {
                    let others = wanted.iter().filter(|(other, _)| other.name != app.name);
                    for (other, theirs) in others {
                        let taken = written_routes(&theirs.spec).any(|r| r.collides_with(route));
                        prop_assert!(!taken, "{} is both {}'s and {}'s", route, app.name, other.name);
                    }
                    let below = route.first_literal().filter(|first| *first != app.name.as_str());
                    let under = below.and_then(|first| seen.after.apps.get(first));
                    prop_assert!(under.is_none(), "{} of {} lies in the place of another app", route, app.name);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn node_ids_are_never_used_again_and_names_are_unique(steps in some_steps()) {
        let mut newest = 0;
        play(&steps, |seen| {
            let mut names: Vec<&NodeName> = seen.after.nodes.values().map(|node| &node.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            prop_assert_eq!(names.len(), count);
            for (id, node) in seen.after.nodes.iter() {
                prop_assert_eq!(*id, node.id);
                if !seen.before.nodes.contains_key(id) {
                    prop_assert!(id.0 > newest, "{} was used before", id);
                    newest = id.0;
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn gossip_is_sent_with_an_accepted_key_and_a_removal_makes_the_keys_stale(
        steps in some_steps(),
    ) {
        play(&steps, |seen| {
            let keys = &seen.after.gossip;
            prop_assert!(keys.accepted.len() <= GOSSIP_KEYS_MAX);
            prop_assert_eq!(keys.sending.is_some(), !keys.accepted.is_empty());
            prop_assert!(keys.sending.is_none_or(|id| keys.accepts(id)));
            prop_assert!(keys.accepted.is_sorted_by(|a, b| a.since < b.since && a.id != b.id));
            let is_gone = |id: &&NodeId| !seen.after.nodes.contains_key(*id);
            if seen.before.nodes.keys().any(|id| is_gone(&id)) {
                prop_assert!(keys.is_stale(), "a removed node knows {:?}", keys);
            }
            Ok(())
        })?;
    }

    #[test]
    fn replies_are_kept_in_the_order_given_and_no_more_than_allowed(steps in some_steps()) {
        let (state, _) = play(&steps, |_| Ok(()))?;
        prop_assert!(state.replies.len() <= REPLIES_KEPT);
        prop_assert_eq!(state.replies.len(), state.replies_by_index.len());
        for id in state.replies_by_index.values() {
            prop_assert!(state.replies.contains_key(id));
        }
    }

    #[test]
    fn a_command_that_is_not_known_is_an_error(
        command in "[A-Z][A-Za-z]{0,14}",
        request in proptest::option::of("[a-z]{1,8}"),
        at_ms: u64,
    ) {
        const KNOWN: [&str; 14] = [
            "Bootstrap", "RegisterNode", "UpdateNode", "RemoveNode", "PutRevision", "RollOut", "Activate",
            "DeleteApp", "Place", "AddGossipKey", "SendWithGossipKey", "RetireGossipKey",
            "RotateGossipKeys", "SetDraining",
        ];
        #[derive(Serialize)]
        struct Newer<'a> {
            request_id: Option<&'a str>,
            at_ms: u64,
            command: BTreeMap<&'a str, u64>,
        }
        prop_assume!(!KNOWN.contains(&command.as_str()));
        let newer =
            Newer { request_id: request.as_deref(), at_ms, command: [(command.as_str(), 1)].into() };
        let bytes = rmp_serde::to_vec_named(&newer).expect("maps, strings and numbers");
        let error = decode(&bytes).expect_err("no build knows it").to_string();
        prop_assert!(error.contains(&command), "{}", error);
    }

    #[test]
    fn no_bytes_panic_and_no_part_of_a_command_is_one(
        bytes in vec(any::<u8>(), 0..200),
        steps in some_steps(),
        cut in any::<Index>(),
    ) {
        let _ = decode(&bytes);
        let (_, log) = play(&steps, |_| Ok(()))?;
        for envelope in log.iter().filter_map(|(_, envelope)| envelope.as_ref()) {
            let whole = encode(envelope);
            prop_assert_eq!(&decode(&whole).expect("what we wrote"), envelope);
            prop_assert!(decode(&whole[..cut.index(whole.len())]).is_err());
        }
    }
}

/// More requests than replies are kept: the oldest are forgotten, in order, and no others.
#[test]
fn the_oldest_replies_are_forgotten_first() {
    let mut state = State::default();
    let extra = 10;
    let kept = u64::try_from(REPLIES_KEPT).expect("a small number");
    for index in 1..=kept + extra {
        let app = name::<AppName>("absent");
        let request_id = Some(name::<RequestId>(&format!("request-{index}")));
        let envelope =
            Envelope { request_id, at_ms: 0, by: None, command: Command::DeleteApp { app } };
        apply(&mut state, index, &envelope);
    }
    assert_eq!(state.replies.len(), REPLIES_KEPT);
    let is_kept = |index: u64| state.replies.contains_key(format!("request-{index}").as_str());
    assert!(!is_kept(1) && !is_kept(extra));
    assert!(is_kept(extra + 1) && is_kept(kept + extra));
}
