//! The Kubernetes manifests.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::yaml::{documents, entries, strings};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// Where nodes listen, by the names that probes and services use.
const PORTS: [(&str, u64); 4] = [("http", 8080), ("api", 7400), ("peer", 7401), ("gossip", 7402)];

fn set(region: &str) -> Value {
    let mut documents = documents(&format!("kubernetes/{region}.yaml"));
    assert_eq!(documents.len(), 1);
    let set = documents.remove(0);
    assert_eq!((&set["apiVersion"], &set["kind"]), (&"apps/v1".into(), &"StatefulSet".into()));
    set
}

fn container(set: &Value) -> &Value {
    let containers = set["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// The only document of this kind and name in the file that all regions share.
fn common(kind: &str, name: &str) -> Value {
    let all = documents("kubernetes/common.yaml");
    let fits = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
    let found: Vec<&Value> = all.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    found[0].clone()
}

/// Whether every label of the selector is on the pods of the set.
fn selects(selector: &Value, set: &Value) -> bool {
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    entries(selector).all(|(key, value)| labels[key] == *value)
}

#[test]
fn every_probe_asks_a_port_that_is_there_for_what_is_served_there() {
    for region in REGIONS {
        let set = set(region);
        let container = container(&set);
        let ports: Vec<(&str, u64)> =
            container["ports"].as_array().unwrap().iter().map(named).collect();
        assert_eq!(ports, PORTS, "{region}");
        assert_eq!(container["ports"][3]["protocol"], "UDP");
        for (probe, path) in [
            ("startupProbe", "/healthz"),
            ("livenessProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
        ] {
            let get = &container[probe]["httpGet"];
            assert_eq!(get["path"], path, "{region} {probe}");
            assert_eq!(get["port"], "api", "{region} {probe}");
            assert_eq!(get["scheme"], SCHEME, "{region} {probe}");
        }
    }
}

fn named(port: &Value) -> (&str, u64) {
    (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap())
}

/// What the API port speaks.
const SCHEME: &str = "HTTPS";

#[test]
fn every_node_is_closed_and_bounded() {
    for region in REGIONS {
        let set = set(region);
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert!(pod["serviceAccountName"].is_null() && pod["hostNetwork"].is_null());
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        assert_eq!(pod["securityContext"]["fsGroup"], 65532);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= 35);
        let container = container(&set);
        assert_eq!(container["image"], "nigh:local");
        for limits in ["requests", "limits"] {
            for resource in ["cpu", "memory"] {
                assert!(
                    container["resources"][limits][resource].is_string(),
                    "{limits} {resource}"
                );
            }
        }
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
        assert!(security["capabilities"]["add"].is_null());
    }
}

#[test]
fn every_mount_has_its_volume() {
    for region in REGIONS {
        let set = set(region);
        let named = |list: &Value| -> BTreeSet<String> {
            list.as_array().unwrap().iter().map(name_of).collect()
        };
        let mut volumes = named(&set["spec"]["template"]["spec"]["volumes"]);
        for claim in set["spec"]["volumeClaimTemplates"].as_array().unwrap() {
            volumes.insert(name_of(&claim["metadata"]));
        }
        assert_eq!(named(&container(&set)["volumeMounts"]), volumes, "{region}");
        let mounts = container(&set)["volumeMounts"].as_array().unwrap();
        let path = |name: &str| mounts.iter().find(|mount| mount["name"] == name).unwrap();
        assert_eq!(path("data")["mountPath"], "/data");
        assert_eq!(path("join")["readOnly"], true);
    }
}

fn name_of(value: &Value) -> String {
    value["name"].as_str().unwrap().to_owned()
}

#[test]
fn selectors_find_the_pods_that_they_are_meant_for() {
    let budget = common("PodDisruptionBudget", "nigh");
    assert_eq!(budget["apiVersion"], "policy/v1");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    let (names, http) = (common("Service", "nigh"), common("Service", "nigh-http"));
    assert_eq!(names["spec"]["clusterIP"], "None");
    assert_eq!(names["spec"]["publishNotReadyAddresses"], true);
    for region in REGIONS {
        let set = set(region);
        assert!(selects(&set["spec"]["selector"]["matchLabels"], &set), "{region}");
        assert!(selects(&budget["spec"]["selector"]["matchLabels"], &set), "{region}");
        assert!(selects(&names["spec"]["selector"], &set), "{region}");
        assert!(selects(&http["spec"]["selector"], &set), "{region}");
        assert_eq!(set["spec"]["serviceName"], names["metadata"]["name"]);
        // Another region's set must not take these pods for its own.
        let label = &set["spec"]["selector"]["matchLabels"]["nigh/region"];
        assert!(label.as_str().unwrap().starts_with(region), "{region}");
    }
    for service in [names, http] {
        for port in service["spec"]["ports"].as_array().unwrap() {
            let known = PORTS.iter().find(|(name, _)| port["targetPort"] == *name);
            assert_eq!(port["port"], known.unwrap().1);
        }
    }
}

#[test]
fn regions_differ_in_their_region_only() {
    let plain = |region: &str| {
        let mut set = set(region);
        let long = set["metadata"]["labels"]["nigh/region"].as_str().unwrap().to_owned();
        set["spec"]["replicas"] = Value::Null;
        let short = format!("nigh-{region}");
        set.to_string().replace(&long, "REGION").replace(&short, "nigh-SET")
    };
    assert_eq!(plain("eu"), plain("us"));
    assert_eq!(plain("eu"), plain("ap"));
}

#[test]
fn a_cluster_begins_with_one_node_and_all_others_join_nodes_that_there_will_be() {
    assert_eq!(set("eu")["spec"]["replicas"], 1, "each node of this set would begin a cluster");
    let begin = documents("kubernetes/begin.yaml").remove(0);
    let join = documents("kubernetes/join.yaml").remove(0);
    assert_eq!(begin["data"]["NIGH_BOOTSTRAP"], "true");
    assert!(begin["data"]["NIGH_JOIN"].is_null() && join["data"]["NIGH_BOOTSTRAP"].is_null());
    let services: BTreeSet<String> =
        REGIONS.map(|region| format!("nigh-{region}-0.nigh:7401")).into();
    assert_eq!(join["data"]["NIGH_JOIN_TOKEN"], "@/join/token");
    let joined = join["data"]["NIGH_JOIN"].as_str().unwrap();
    assert_eq!(joined.split(',').map(str::to_owned).collect::<BTreeSet<_>>(), services);
    for region in REGIONS {
        let set = set(region);
        let from = &container(&set)["envFrom"][0]["configMapRef"]["name"];
        assert_eq!((from, from), (&begin["metadata"]["name"], &join["metadata"]["name"]));
    }
}
