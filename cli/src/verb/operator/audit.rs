//! `nigh operator audit`.

use nigh_proto::v1::{Change, ListAuditRequest};
use serde::Serialize;

use crate::api::{Api, timed};
use crate::failure::Result;
use crate::output::{self, Format};
use crate::table::Rows;
use crate::time::rfc3339_at;

/// What stands for whoever asked when it was the cluster itself.
const ITSELF: &str = "the cluster";

/// Prints the last changes.
pub(super) async fn run(api: &Api, limit: u32, format: Format) -> Result {
    let answer = api.access().list_audit(timed(ListAuditRequest { limit })).await;
    let changes = answer.map_err(|status| api.failure(&status))?.into_inner().changes;
    match format {
        Format::Json => output::json(&changes.into_iter().map(Row::from).collect::<Vec<_>>()),
        Format::Table => output::line(table_of(&changes)),
    }
}

/// A change as JSON.
#[derive(Debug, Serialize)]
struct Row {
    index: u64,
    at: String,
    token: Option<String>,
    name: Option<String>,
    from: Option<String>,
    node: Option<String>,
    action: String,
    target: String,
    refused: Option<String>,
}

impl From<Change> for Row {
    fn from(change: Change) -> Self {
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            index: change.index,
            at: change.at.map(rfc3339_at).unwrap_or_default(),
            token: said(change.token),
            name: said(change.name),
            from: said(change.from),
            node: said(change.node),
            action: change.action,
            target: change.target,
            refused: said(change.refused),
        }
    }
}

fn table_of(changes: &[Change]) -> String {
    let or_dash = |text: &str| match text {
        "" => "-".to_owned(),
        text => output::printable(text).into_owned(),
    };
    let mut rows = Rows::new([">INDEX", "AT", "WHO", "FROM", "NODE", "ACTION", "TARGET", "RESULT"]);
    for change in changes {
        let who = match (change.token.as_str(), change.name.as_str()) {
            ("", _) => ITSELF.to_owned(),
            (token, "") => token.to_owned(),
            (token, name) => format!("{} ({token})", output::printable(name)),
        };
        rows.push([
            change.index.to_string(),
            change.at.map(rfc3339_at).unwrap_or_default(),
            who,
            or_dash(&change.from),
            or_dash(&change.node),
            change.action.clone(),
            or_dash(&change.target),
            if change.refused.is_empty() { "done".to_owned() } else { change.refused.clone() },
        ]);
    }
    rows.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_for_what_and_what_came_of_it_is_told() {
        let asked = Change {
            index: 7,
            token: "0101010101010101".into(),
            name: "ci".into(),
            from: "192.0.2.7:5".into(),
            node: "n1".into(),
            action: "deploy".into(),
            target: "shop".into(),
            refused: "ROUTE_TAKEN".into(),
            ..Change::default()
        };
        let own = Change { index: 8, action: "place".into(), ..Change::default() };
        let text = table_of(&[asked.clone(), own]);
        for said in ["ci (0101010101010101)", "192.0.2.7:5", "ROUTE_TAKEN", ITSELF, "done"] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        let json = serde_json::to_value(Row::from(asked)).unwrap();
        assert_eq!((&json["name"], &json["refused"]), (&"ci".into(), &"ROUTE_TAKEN".into()));
    }
}
