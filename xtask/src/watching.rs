//! Holds the alert rules and the dashboard to the table of metrics, and the operators' page to the
//! alerts. Tests only.
//!
//! It looks at form: names, labels and their values, units, titles. Whether a query is valid PromQL
//! says `promtool check rules`, which is run here where it is installed.

mod query;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::source;

const METRICS: &str = "docs/metrics.md";
const OPERATIONS: &str = "docs/operations.md";
const RULES: &str = "deploy/prometheus/nigh.rules.yaml";
const DASHBOARD: &str = "deploy/grafana/nigh.json";

/// Labels that Prometheus gives each target.
const OF_TARGETS: [&str; 2] = ["job", "instance"];
/// What Prometheus itself says of a target.
const UP: &str = "up";
const SEVERITIES: [&str; 3] = ["critical", "warning", "info"];
/// Units that Grafana knows, of those in use.
const UNITS: [&str; 6] = ["bytes", "percentunit", "pps", "reqps", "s", "short"];

/// A metric as the document has it.
struct Known {
    kind: String,
    /// The values of each label; none where they are not named.
    labels: BTreeMap<String, BTreeSet<String>>,
}

fn read(path: &str) -> String {
    source::read(&crate::root().unwrap(), path).unwrap()
}

/// The table of the document, which a test of the node holds to the code.
fn known() -> BTreeMap<String, Known> {
    let text = read(METRICS);
    let rows = text.lines().filter(|line| line.starts_with("| `nigh_"));
    let known = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let labels = cells[2].split("; ").filter(|label| !label.is_empty()).map(|label| {
            let (name, values) = label.split_once(": ").unwrap_or((label, ""));
            let values =
                values.split(", ").filter(|value| !value.contains(' ') && !value.is_empty());
            (name.trim_matches('`').to_owned(), values.map(str::to_owned).collect())
        });
        let kind = cells[1].to_owned();
        (cells[0].trim_matches('`').to_owned(), Known { kind, labels: labels.collect() })
    });
    known.collect()
}

/// Checks a query: each metric is in the table, with the labels and values that it has.
fn check(known: &BTreeMap<String, Known>, expr: &str) {
    let mut labels: BTreeSet<&str> = OF_TARGETS.into();
    for selector in query::selectors(expr) {
        if selector.name == UP {
            continue;
        }
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let name = selector.name.strip_suffix(end)?;
            known.get(name).filter(|metric| metric.kind == "histogram")
        });
        let whole = known.get(selector.name).filter(|metric| metric.kind != "histogram");
        let metric =
            part.or(whole).unwrap_or_else(|| panic!("no metric {}: {expr}", selector.name));
        if selector.name.ends_with("_bucket") {
            labels.insert("le");
        }
        labels.extend(metric.labels.keys().map(String::as_str));
        for (label, value) in selector.matchers {
            if OF_TARGETS.contains(&label) {
                continue;
            }
            let values = metric.labels.get(label);
            let values =
                values.unwrap_or_else(|| panic!("{} has no {label}: {expr}", selector.name));
            for value in value.split('|') {
                let named = values.is_empty() || values.contains(value);
                assert!(named, "{label} is never `{value}`: {expr}");
            }
        }
    }
    for label in query::grouped(expr) {
        assert!(labels.contains(label), "nothing has a label {label}: {expr}");
    }
}

/// The rules as they stand in the file.
fn rules() -> Vec<Value> {
    let document: Value = serde_saphyr::from_str(&read(RULES)).unwrap();
    let groups = document["groups"].as_array().unwrap();
    assert!(groups.iter().all(|group| group["name"].is_string()));
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The values of the reasons' label stand in another document.
fn with_reasons(mut known: BTreeMap<String, Known>) -> BTreeMap<String, Known> {
    let text = read("docs/errors.md");
    let heads = text.lines().filter_map(|line| line.strip_prefix("### ")?.split(' ').next());
    let reasons: BTreeSet<String> = heads.map(str::to_owned).collect();
    for metric in known.values_mut() {
        if let Some(values) = metric.labels.get_mut("reason") {
            values.clone_from(&reasons);
        }
    }
    known
}

#[test]
fn the_table_is_read() {
    let known = known();
    assert!(known.len() > 60, "{}", known.len());
    let calls = &known["nigh_gateway_calls_total"];
    assert_eq!(calls.kind, "counter");
    assert!(calls.labels["outcome"].contains("function_error"));
    assert!(calls.labels["place"].contains("there"));
    assert!(known["nigh_build_info"].labels["version"].is_empty());
}

#[test]
fn every_alert_asks_for_metrics_that_are_there() {
    let known = with_reasons(known());
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap().to_owned();
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{name}")).to_owned();
        check(&known, &text(&rule["expr"]));
        assert!(SEVERITIES.contains(&text(&rule["labels"]["severity"]).as_str()), "{name}");
        assert!(text(&rule["annotations"]["summary"]).len() > 10, "{name}");
        assert!(rule["for"].is_string(), "{name}");
        assert!(name.starts_with("Nigh") && names.insert(name.clone()), "{name} twice");
    }
    assert!(names.len() > 20);
}

#[test]
fn every_alert_has_a_row_for_operators_and_every_row_an_alert() {
    let operations = read(OPERATIONS);
    let rows = operations.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let told: BTreeSet<&str> = quoted.filter(|word| word.starts_with("Nigh")).collect();
    let rules = rules();
    let there: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(told, there);
}

#[test]
fn every_metric_that_operators_are_told_of_is_there() {
    let known = with_reasons(known());
    for document in [OPERATIONS, "README.md"] {
        let text = read(document);
        for quoted in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            if quoted.starts_with("nigh_") && !quoted.contains(['*', ':']) {
                let known_level = quoted.split('{').next() == Some("nigh_node=debug");
                if !known_level {
                    assert!(known.contains_key(quoted), "{document}: no metric {quoted}");
                }
            }
        }
    }
}

#[test]
fn the_dashboard_shows_metrics_that_are_there_with_titles_and_units() {
    let known = with_reasons(known());
    let board: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert!(board["title"].is_string() && board["uid"].is_string());
    let variables: Vec<&Value> = board["templating"]["list"].as_array().unwrap().iter().collect();
    let variables: BTreeSet<&str> =
        variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    let mut places = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{title}");
        assert!(places.insert((place["y"].as_u64(), place["x"].as_u64())), "{title} hides another");
        if panel["type"] == "row" {
            continue;
        }
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        assert!(UNITS.contains(&unit), "{title}: unit `{unit}`");
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            check(&known, expr);
            assert!(!query::selectors(expr).is_empty(), "{title}: {expr}");
            for variable in query::variables(expr) {
                let own = variables.contains(variable) || variable == "__rate_interval";
                assert!(own, "{title}: no variable {variable}");
            }
        }
    }
    assert!(ids.len() > 30);
}

#[test]
fn promtool_finds_nothing_where_it_is_installed() {
    let path = crate::root().unwrap().join(RULES);
    match Command::new("promtool").args(["check", "rules"]).arg(path).output() {
        Ok(ran) => assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr)),
        Err(error) => eprintln!("skipped: promtool is not installed ({error})"),
    }
}
