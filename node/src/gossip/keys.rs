//! What a node says of itself, as gossip's keys and values. Pure.
//!
//! Values are short text, one key for each group that changes together, since chitchat sends
//! every changed value whole. Addresses are not among them: the registry has them. What does
//! not parse is taken as not said: a peer's mistake must not disturb this node.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use nigh_model::{GossipKeyId, Region, RevisionId, Zone};
use nigh_proto::PEER_PROTOCOL;
use nigh_runtime::FINGERPRINT_DIGITS;

use super::filter::Filter;
use crate::seen::{DiskReport, DiskState, IdentityReport, KeysInUse, Load, Report, Room};

/// The node's region; never changes.
pub(super) const REGION: &str = "region";
const ZONE: &str = "zone";
const PROTOCOL: &str = "protocol";
const VERSION: &str = "version";
const PHASE: &str = "phase";
const LOAD: &str = "load";
const SETTLED: &str = "settled";
const WARM: &str = "warm";
const READY: &str = "ready";
const IDENTITY: &str = "cert";
const KEYS: &str = "keys";
/// A key that there is not.
const NO_KEY: &str = "-";
const DISK: &str = "disk";
const ROOM: &str = "room";
const ENGINE: &str = "engine";

/// Keys whose change others wait for: it is told at once instead of with the next round.
pub(super) const URGENT: [&str; 5] = [PHASE, SETTLED, WARM, READY, KEYS];

const SERVING: &str = "serving";
const DRAINING: &str = "draining";
const LEFT: &str = "left";

/// Most lagging revisions that are named.
const LAG_MAX: usize = 16;
/// Longest build version.
const VERSION_BYTES_MAX: usize = 16;
/// Memory and room are told in steps of this, so that they do not change at every look.
const MEMORY_STEP: u64 = 1 << 20;

/// What never changes while a node runs.
pub(super) fn fixed(region: &Region, zone: Option<&Zone>) -> Vec<(String, String)> {
    let mut pairs = vec![
        (REGION.to_owned(), region.to_string()),
        (PROTOCOL.to_owned(), PEER_PROTOCOL.to_string()),
    ];
    pairs.extend(zone.map(|zone| (ZONE.to_owned(), zone.to_string())));
    pairs
}

/// A report as keys and values. CPU is rounded to 0.001, memory and room to MiB; what is not known
/// is an empty value.
pub(super) fn encode(report: &Report) -> [(&'static str, String); 11] {
    let phase = if report.draining { DRAINING } else { SERVING };
    let version = report.version.char_indices();
    let version = version.take_while(|(at, c)| at + c.len_utf8() <= VERSION_BYTES_MAX);
    [
        (PHASE, phase.to_owned()),
        (VERSION, version.map(|(_, c)| c).collect()),
        (LOAD, encode_load(&report.load)),
        (SETTLED, encode_settled(report.settled, &report.lag)),
        (WARM, STANDARD_NO_PAD.encode(report.warm.as_bytes())),
        (READY, STANDARD_NO_PAD.encode(report.ready.as_bytes())),
        (IDENTITY, report.identity.as_ref().map(encode_identity).unwrap_or_default()),
        (KEYS, encode_keys(report.keys)),
        (DISK, encode_disk(report.disk)),
        (ROOM, report.room.as_ref().map(encode_room).unwrap_or_default()),
        (ENGINE, report.engine.clone()),
    ]
}

/// The last words of a node.
pub(super) const GOODBYE: (&str, &str) = (PHASE, LEFT);

/// Whether these are the keys of a node that said goodbye.
pub(super) fn has_left<'k>(get: impl Fn(&str) -> Option<&'k str>) -> bool {
    get(PHASE) == Some(LEFT)
}

/// The report in these keys; what is missing or does not parse is as if it were not said.
pub(super) fn decode<'k>(get: impl Fn(&str) -> Option<&'k str>) -> Report {
    let filter = |key| {
        let bytes = get(key).and_then(|text| STANDARD_NO_PAD.decode(text).ok());
        bytes.map(Filter::from_bytes).unwrap_or_default()
    };
    let (settled, lag) = get(SETTLED).and_then(decode_settled).unwrap_or_default();
    let version = get(VERSION).filter(|version| version.len() <= VERSION_BYTES_MAX);
    let engine = get(ENGINE).filter(|engine| engine.len() <= FINGERPRINT_DIGITS);
    Report {
        load: get(LOAD).and_then(decode_load).unwrap_or_default(),
        draining: matches!(get(PHASE), Some(DRAINING | LEFT)),
        settled,
        lag,
        warm: filter(WARM),
        ready: filter(READY),
        version: version.unwrap_or_default().to_owned(),
        identity: get(IDENTITY).and_then(decode_identity),
        keys: get(KEYS).and_then(decode_keys).unwrap_or_default(),
        disk: get(DISK).and_then(decode_disk).unwrap_or_default(),
        room: get(ROOM).and_then(decode_room),
        engine: engine.unwrap_or_default().to_owned(),
    }
}

fn encode_identity(identity: &IdentityReport) -> String {
    let IdentityReport { expires_ms, issuer, newest } = identity;
    format!("{expires_ms} {issuer:x} {newest:x}")
}

fn decode_identity(text: &str) -> Option<IdentityReport> {
    let mut words = text.split(' ');
    let expires_ms = words.next()?.parse().ok()?;
    let mut digits = || u32::from_str_radix(words.next()?, 16).ok();
    Some(IdentityReport { expires_ms, issuer: digits()?, newest: digits()? })
}

fn encode_keys(keys: KeysInUse) -> String {
    let id = |id: Option<GossipKeyId>| id.map_or_else(|| NO_KEY.to_owned(), |id| id.to_string());
    format!("{} {}", id(keys.newest), id(keys.sending))
}

fn decode_keys(text: &str) -> Option<KeysInUse> {
    let id = |text: &str| match text {
        NO_KEY => Some(None),
        id => id.parse().ok().map(Some),
    };
    let (newest, sending) = text.split_once(' ')?;
    Some(KeysInUse { newest: id(newest)?, sending: id(sending)? })
}

fn encode_disk(disk: DiskReport) -> String {
    let state = match disk.state {
        DiskState::Fine => "fine",
        DiskState::Full => "full",
        DiskState::Failed => "failed",
    };
    format!("{state} {}", disk.sync_ms)
}

fn decode_disk(text: &str) -> Option<DiskReport> {
    let (state, sync_ms) = text.split_once(' ')?;
    let state = match state {
        "fine" => DiskState::Fine,
        "full" => DiskState::Full,
        "failed" => DiskState::Failed,
        _ => return None,
    };
    Some(DiskReport { state, sync_ms: sync_ms.parse().ok()? })
}

fn encode_load(load: &Load) -> String {
    let cpu = (load.cpu.clamp(0.0, 1.0) * 1_000.0).round() as u32;
    let memory = load.memory_bytes / MEMORY_STEP;
    let Load { running, slots, ready, warm, .. } = load;
    format!("{running} {slots} {cpu} {memory} {ready} {warm}")
}

fn decode_load(text: &str) -> Option<Load> {
    let mut numbers = text.split(' ');
    let mut small = || numbers.next()?.parse::<u32>().ok();
    let (running, slots, cpu) = (small()?, small()?, small()?.min(1_000));
    let memory = numbers.next()?.parse::<u64>().ok()?;
    let mut small = || numbers.next()?.parse::<u32>().ok();
    Some(Load {
        running,
        slots,
        cpu: cpu as f32 / 1_000.0,
        memory_bytes: memory.saturating_mul(MEMORY_STEP),
        ready: small()?,
        warm: small()?,
    })
}

fn encode_room(room: &Room) -> String {
    let Room { data_bytes, free_bytes, size_bytes } = room;
    let steps = |bytes: &u64| bytes / MEMORY_STEP;
    format!("{} {} {}", steps(data_bytes), steps(free_bytes), steps(size_bytes))
}

fn decode_room(text: &str) -> Option<Room> {
    let mut numbers = text.split(' ');
    let mut bytes = || Some(numbers.next()?.parse::<u64>().ok()?.saturating_mul(MEMORY_STEP));
    Some(Room { data_bytes: bytes()?, free_bytes: bytes()?, size_bytes: bytes()? })
}

/// Lagging in more than can be named means settled nowhere: a node never claims too much.
fn encode_settled(settled: u64, lag: &[RevisionId]) -> String {
    let settled = if lag.len() > LAG_MAX { 0 } else { settled };
    let named = lag.iter().take(LAG_MAX).map(|revision| format!(" {}", revision.0));
    format!("{settled}{}", named.collect::<String>())
}

fn decode_settled(text: &str) -> Option<(u64, Vec<RevisionId>)> {
    let mut numbers = text.split(' ').map(str::parse::<u64>);
    let settled = numbers.next()?.ok()?;
    let lag: Vec<_> = numbers.take(LAG_MAX + 1).collect::<Result<_, _>>().ok()?;
    (lag.len() <= LAG_MAX).then(|| (settled, lag.into_iter().map(RevisionId).collect()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn back(pairs: &[(&'static str, String)]) -> Report {
        let map: BTreeMap<_, _> = pairs.iter().map(|(key, value)| (*key, value.as_str())).collect();
        decode(|key| map.get(key).copied())
    }

    fn filter() -> impl Strategy<Value = Filter> {
        vec(any::<u8>(), 0..400).prop_map(Filter::from_bytes)
    }

    prop_compose! {
        fn load()(running: u32, slots: u32, cpu in 0..=1_000_u32, memory in 0..1_u64 << 40,
            ready: u32, warm: u32) -> Load {
            let cpu = cpu as f32 / 1_000.0;
            Load { running, slots, cpu, memory_bytes: memory << 20, ready, warm }
        }
    }

    prop_compose! {
        fn room()(steps in (0..1_u64 << 30, 0..1_u64 << 30, 0..1_u64 << 30)) -> Room {
            let (data, free, size) = steps;
            Room { data_bytes: data << 20, free_bytes: free << 20, size_bytes: size << 20 }
        }
    }

    prop_compose! {
        fn report()(load in load(), draining: bool, settled: u64,
            lag in vec(any::<u64>().prop_map(RevisionId), 0..=LAG_MAX),
            warm in filter(), ready in filter(), version in "[0-9a-z.+-]{0,16}",
            certificate in proptest::option::of((any::<u64>(), any::<u32>(), any::<u32>())),
            newest: Option<u64>, sending: Option<u64>,
            (state, sync_ms) in (0..3_usize, any::<u32>()),
            room in proptest::option::of(room()), engine in "[0-9a-f]{0,16}") -> Report {
            let id = |id: Option<u64>| id.map(GossipKeyId);
            let keys = KeysInUse { newest: id(newest), sending: id(sending) };
            let identity = certificate.map(|(expires_ms, issuer, newest)| {
                IdentityReport { expires_ms, issuer, newest }
            });
            let state = [DiskState::Fine, DiskState::Full, DiskState::Failed][state];
            let disk = DiskReport { state, sync_ms };
            Report {
                load, draining, settled, lag, warm, ready, version, identity, keys, disk, room,
                engine,
            }
        }
    }

    proptest! {
        #[test]
        fn a_report_comes_back_as_it_was(report in report()) {
            prop_assert_eq!(back(&encode(&report)), report);
        }

        #[test]
        fn any_text_is_read_without_a_panic(texts in vec("\\PC{0,60}", 11), numbers in "[0-9 ]{0,90}") {
            let keys =
                [PHASE, VERSION, LOAD, SETTLED, WARM, READY, IDENTITY, KEYS, DISK, ROOM, ENGINE];
            let mut pairs: Vec<_> = keys.into_iter().zip(texts).collect();
            back(&pairs);
            for at in [2, 3, 6, 7, 8, 9] {
                pairs[at].1.clone_from(&numbers);
            }
            back(&pairs);
        }
    }

    #[test]
    fn nothing_said_is_an_empty_report() {
        assert_eq!(back(&[]), Report::default());
        let wrong =
            [(LOAD, "1 2 x".to_owned()), (SETTLED, "-1".to_owned()), (WARM, "?".to_owned())];
        assert_eq!(back(&wrong), Report::default());
    }

    #[test]
    fn lagging_in_more_than_can_be_named_is_settled_nowhere() {
        let lag = (1..=LAG_MAX as u64 + 1).map(RevisionId).collect();
        let report = back(&encode(&Report { settled: 90, lag, ..Report::default() }));
        assert_eq!((report.settled, report.lag.len()), (0, LAG_MAX));
    }

    #[test]
    fn a_node_says_at_most_2_kb_of_itself() {
        let name = nigh_model::FunctionName::new("f").unwrap();
        let all: Vec<_> = (0..5_000_u64)
            .map(|n| nigh_model::FunctionRef { revision: RevisionId(n), function: name.clone() })
            .collect();
        let largest = u32::MAX;
        let report = Report {
            load: Load {
                running: largest,
                slots: largest,
                cpu: 1.0,
                memory_bytes: 1 << 42,
                ready: largest,
                warm: largest,
            },
            draining: true,
            settled: u64::from(largest),
            lag: vec![RevisionId(largest.into()); LAG_MAX],
            warm: Filter::of(all.iter()),
            ready: Filter::of(all.iter()),
            disk: DiskReport { state: DiskState::Failed, sync_ms: 1 << 31 },
            version: "v".repeat(40),
            identity: Some(IdentityReport {
                expires_ms: 4_102_444_800_000,
                issuer: largest,
                newest: largest,
            }),
            keys: KeysInUse {
                newest: Some(GossipKeyId(u64::MAX)),
                sending: Some(GossipKeyId(u64::MAX)),
            },
            room: Some(Room { data_bytes: 1 << 50, free_bytes: 1 << 50, size_bytes: 1 << 50 }),
            engine: "f".repeat(FINGERPRINT_DIGITS),
        };
        let region = Region::new("r".repeat(32)).unwrap();
        let zone = Zone::new("z".repeat(32)).unwrap();
        let changing = encode(&report).map(|(key, value)| (key.to_owned(), value));
        let pairs = fixed(&region, Some(&zone)).into_iter().chain(changing);
        let bytes: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
        assert!(bytes <= 2_048, "{bytes} bytes");
    }
}
