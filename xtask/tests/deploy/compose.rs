//! The compose files.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::yaml::{document, entries, strings, text};

const BASE: &str = "compose.yaml";
const SEVEN: &str = "compose.seven.yaml";
const OVERRIDES: [&str; 4] =
    ["compose.chaos.yaml", "compose.delay.yaml", SEVEN, "compose.three.yaml"];
/// Files that define whole services.
const WHOLE: [&str; 2] = [BASE, SEVEN];
/// API and HTTP of the first node, and how far the next one's are from them.
const FIRST_PORTS: [usize; 2] = [7400, 8080];
const PORTS_APART: usize = 10;
/// The order in which the nodes got their ports.
const NODES: [&str; 7] = ["eu-1", "us-1", "ap-1", "eu-2", "us-2", "ap-2", "eu-3"];

fn services(path: &str) -> Vec<(String, Value)> {
    let document = document(path);
    entries(&document["services"]).map(|(name, service)| (name.clone(), service.clone())).collect()
}

#[test]
fn every_node_is_closed_bounded_and_looked_after() {
    for (name, service) in WHOLE.iter().flat_map(|path| services(path)) {
        assert_eq!(service["image"], "nigh:local", "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(strings(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(strings(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        let check = strings(&service["healthcheck"]["test"]);
        assert_eq!(check, ["CMD", "/nigh", "operator", "health"], "{name}");
        for key in ["mem_limit", "cpus", "pids_limit", "stop_grace_period", "restart"] {
            assert!(!service[key].is_null(), "{name} has no {key}");
        }
        for key in ["privileged", "cap_add", "user", "ulimits", "network_mode", "pid", "build"] {
            assert!(service[key].is_null(), "{name} has {key}");
        }
        let size = service["tmpfs"][0].as_str().unwrap();
        assert!(size.starts_with("/tmp:size="), "{name}: {size}");
    }
}

#[test]
fn every_node_has_a_name_a_volume_and_ports_of_its_own_on_loopback_only() {
    let mut seen = BTreeSet::new();
    for (name, service) in WHOLE.iter().flat_map(|path| services(path)) {
        let index = NODES.iter().position(|known| *known == name).unwrap();
        assert!(seen.insert(index), "{name} is there twice");
        let environment = &service["environment"];
        assert_eq!(environment["NIGH_NAME"], name);
        assert_eq!(environment["NIGH_ADVERTISE"], name);
        let region = environment["NIGH_REGION"].as_str().unwrap();
        assert!(region.starts_with(&name[..2]), "{name} is in {region}");
        let mut ports = Vec::new();
        for (first, (to, word)) in FIRST_PORTS.into_iter().zip([(7400, "API"), (8080, "HTTP")]) {
            let variable = format!("NIGH_{}_{word}", name.to_uppercase().replace('-', "_"));
            let port = first + index * PORTS_APART;
            ports.push(format!("127.0.0.1:${{{variable}:-{port}}}:{to}"));
        }
        assert_eq!(strings(&service["ports"]), ports, "{name}");
        let join = if index == 0 { "join:/join" } else { "join:/join:ro" };
        assert_eq!(strings(&service["volumes"]), [format!("{name}:/data"), join.into()]);
    }
    assert_eq!(seen.len(), NODES.len());
    let regions: BTreeSet<&str> = NODES[..5].iter().map(|name| &name[..2]).collect();
    assert_eq!(regions.len(), 3);
}

#[test]
fn one_node_begins_and_the_others_wait_for_it() {
    for (name, service) in WHOLE.iter().flat_map(|path| services(path)) {
        let environment = &service["environment"];
        let begins = name == NODES[0];
        assert_eq!(environment["NIGH_BOOTSTRAP"] == "true", begins, "{name}");
        assert_eq!(environment["NIGH_JOIN"].is_string(), !begins, "{name}");
        assert_eq!(environment["NIGH_WRITE_JOIN_TOKEN"] == "/join/token", begins, "{name}");
        assert_eq!(environment["NIGH_JOIN_TOKEN"] == "@/join/token", !begins, "{name}");
        let waits = &service["depends_on"][NODES[0]]["condition"];
        assert_eq!(*waits == "service_healthy", !begins, "{name}");
    }
}

#[test]
fn every_volume_and_network_that_is_used_is_made() {
    let base = document(BASE);
    for path in WHOLE {
        let own = document(path);
        let is_there = |kind: &str, name: &str| {
            [&base, &own].iter().any(|file| file[kind].get(name).is_some())
        };
        for (name, service) in services(path) {
            for volume in strings(&service["volumes"]) {
                let volume = volume.split(':').next().unwrap();
                assert!(is_there("volumes", volume), "{name} uses {volume}");
            }
            for network in strings(&service["networks"]) {
                assert!(is_there("networks", network), "{name} uses {network}");
            }
        }
    }
}

#[test]
fn both_composes_take_the_files() {
    for path in WHOLE.iter().chain(&OVERRIDES) {
        let file = document(path);
        // 1.29 refuses a name, and takes a version for an older format.
        assert!(file["name"].is_null() && file["version"].is_null(), "{path}");
        let known = |key: &str| matches!(key, "services" | "networks" | "volumes");
        for (key, _) in entries(&file) {
            assert!(known(key) || key.starts_with("x-"), "{path}: {key}");
        }
    }
}

#[test]
fn what_is_put_over_it_changes_only_what_it_says() {
    let allowed: [(&str, &[&str]); 3] = [
        ("compose.chaos.yaml", &["restart", "networks"]),
        ("compose.delay.yaml", &["environment"]),
        ("compose.three.yaml", &["mem_limit", "cpus", "environment", "profiles"]),
    ];
    for (path, keys) in allowed {
        let services = services(path);
        assert_eq!(services.len(), 5, "{path}");
        for (name, service) in services {
            assert!(NODES[..5].contains(&name.as_str()), "{path}: {name}");
            for (key, _) in entries(&service) {
                assert!(keys.contains(&key.as_str()), "{path}: {name} changes {key}");
            }
        }
    }
    let delays = services("compose.delay.yaml");
    assert!(delays.iter().all(|(_, service)| service["environment"]["NIGH_RTT_MATRIX"] == "aws"));
}

#[test]
fn a_node_is_the_same_in_both_files() {
    let (base, seven) = (document(BASE), document(SEVEN));
    assert_eq!(base["x-node"], seven["x-node"]);
    let mut joins = seven["x-joins"].clone();
    joins.as_object_mut().unwrap().remove("NIGH_RTT_MATRIX");
    assert_eq!(base["x-joins"], joins);
}

#[test]
fn no_secret_stands_in_a_file() {
    for path in WHOLE.iter().chain(&OVERRIDES) {
        for line in text(path).lines().filter(|line| !line.trim_start().starts_with('#')) {
            let upper = line.to_uppercase();
            for word in ["PASSWORD", "SECRET", "PRIVATE KEY"] {
                assert!(!upper.contains(word), "{path}: {line}");
            }
            // A token stands in a file of a volume, never in the settings.
            let told = upper.split_once("TOKEN:").map(|(_, value)| value.trim().to_owned());
            assert!(told.is_none_or(|value| value.contains("/JOIN/TOKEN")), "{path}: {line}");
        }
    }
}
