//! The table of the demonstration, and whether all went as it should.

use std::collections::BTreeMap;

use nigh_model::Kind;
use nigh_proto::v1::Node;
use serde::Serialize;

use crate::demo::judge::{Judge, Verdict};
use crate::failure::{Failure, Result};
use crate::load::client::Answer;
use crate::load::report::Latencies;
use crate::load::run::{Outcome, Record};
use crate::local::layout::Place;
use crate::table::{self, Rows};

/// Largest share of calls that may run elsewhere than on the nearest warm node.
const ELSEWHERE_MAX: f64 = 0.05;

/// What the demonstration came to.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    nodes: Vec<Line>,
    total: Line,
    calls: u64,
    /// Calls that were not answered as expected, by reason.
    failed: BTreeMap<String, u64>,
    /// Calls that were answered sooner than the emulated round trip allows.
    too_fast: u64,
    /// Calls that ran warm while a nearer node was warm.
    farther: u64,
    /// Share of all calls that ran on the nearest warm node.
    nearest_share: f64,
}

/// A line of the table.
#[derive(Clone, Debug, Default, Serialize)]
struct Line {
    node: String,
    region: String,
    role: String,
    entered: u64,
    served: u64,
    forwarded_out: u64,
    cold: u64,
    warm_share: Option<f64>,
    added_ms_p50: Option<f64>,
    added_ms_p99: Option<f64>,
    #[serde(skip)]
    added: Latencies,
}

impl Summary {
    /// Counts and judges all calls.
    pub(crate) fn of(
        places: &[Place],
        nodes: &[Node],
        judge: &Judge<'_>,
        records: &[Record],
    ) -> Self {
        let mut lines: Vec<Line> = places.iter().map(|place| line_of(place, nodes)).collect();
        let mut failed: BTreeMap<String, u64> = BTreeMap::new();
        let (mut too_fast, mut farther, mut nearest) = (0, 0, 0);
        for record in records {
            lines[record.entry].entered += 1;
            let (answer, node) = match expected(record, judge) {
                Ok(ran) => ran,
                Err(why) => {
                    *failed.entry(why).or_default() += 1;
                    continue;
                }
            };
            lines[node].served += 1;
            lines[node].cold += u64::from(answer.ran.cold == Some(true));
            lines[record.entry].forwarded_out += u64::from(answer.ran.forwarded);
            let round_trip = judge.round_trip_ms(record.entry, node).unwrap_or_default();
            lines[record.entry].added.count_ms(answer.ran.timing.added(round_trip));
            too_fast += u64::from(judge.is_too_fast(record, node));
            match judge.verdict(record, answer, node) {
                Verdict::Nearest => nearest += 1,
                Verdict::Farther => farther += 1,
                Verdict::Cold => {}
            }
        }
        let mut total = Line { node: "total".to_owned(), ..Line::default() };
        for line in &mut lines {
            line.close();
            total.entered += line.entered;
            total.served += line.served;
            total.forwarded_out += line.forwarded_out;
            total.cold += line.cold;
            total.added.add(&line.added);
        }
        total.close();
        let calls = records.len() as u64;
        let nearest_share = if calls == 0 { 0.0 } else { nearest as f64 / calls as f64 };
        Self { nodes: lines, total, calls, failed, too_fast, farther, nearest_share }
    }

    /// Whether every call was answered as expected, some were forwarded, and at most 5 % ran
    /// elsewhere than on the nearest warm node.
    pub(crate) fn verdict(&self) -> Result {
        let mut wrong = Vec::new();
        let failed: u64 = self.failed.values().sum();
        if self.calls == 0 {
            wrong.push("no call was made".to_owned());
        }
        if failed > 0 {
            let reasons = self.failed.iter().map(|(reason, calls)| format!("{reason}: {calls}"));
            let reasons = reasons.collect::<Vec<_>>().join(", ");
            wrong.push(format!("{failed} calls were not answered as expected ({reasons})"));
        }
        if self.too_fast > 0 {
            wrong.push(format!("{} answers came sooner than the way allows", self.too_fast));
        }
        if self.total.forwarded_out == 0 && self.nodes.len() > 1 {
            wrong.push("no call was forwarded".to_owned());
        }
        if 1.0 - self.nearest_share > ELSEWHERE_MAX {
            let share = percent(1.0 - self.nearest_share);
            wrong.push(format!("{share} of the calls ran elsewhere than on the nearest warm node"));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Kind::Internal, "the demonstration did not go as it should")
            .why(wrong.join("; "))
            .hint("demo.jsonl in the data folder has every call, nigh.log what the nodes said"))
    }

    /// The table, its total and what the columns mean.
    pub(crate) fn text(&self) -> String {
        let mut rows = Rows::new([
            "NODE",
            "REGION",
            "ROLE",
            ">ENTERED",
            ">SERVED HERE",
            ">FORWARDED OUT",
            ">COLD",
            ">WARM",
            ">ADDED P50",
            ">ADDED P99",
        ]);
        for line in self.nodes.iter().chain([&self.total]) {
            let time = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), table::millis);
            rows.push([
                line.node.clone(),
                line.region.clone(),
                line.role.clone(),
                line.entered.to_string(),
                line.served.to_string(),
                line.forwarded_out.to_string(),
                line.cold.to_string(),
                line.warm_share.map_or_else(|| "-".to_owned(), percent),
                time(line.added_ms_p50),
                time(line.added_ms_p99),
            ]);
        }
        let failed: u64 = self.failed.values().sum();
        let mut lines = vec![rows.text(), String::new()];
        lines.push(format!(
            "{} of {} calls ran on the nearest warm node, {} on a farther one, {} cold; {failed} failed",
            percent(self.nearest_share),
            self.calls,
            self.farther,
            self.total.cold
        ));
        for (reason, calls) in &self.failed {
            lines.push(format!("  {reason}: {calls}"));
        }
        lines.push(
            "added: what the platform added to calls that entered here: route, queue, start and \
             hop, without the emulated round trip"
                .to_owned(),
        );
        lines.join("\n")
    }
}

impl Line {
    fn close(&mut self) {
        let warm = || 1.0 - self.cold as f64 / self.served as f64;
        self.warm_share = (self.served > 0).then(warm);
        self.added_ms_p50 = self.added.quantile_ms(0.5);
        self.added_ms_p99 = self.added.quantile_ms(0.99);
    }
}

fn line_of(place: &Place, nodes: &[Node]) -> Line {
    let role = nodes.iter().find(|node| node.name == place.name.as_str()).map(|node| &node.raft);
    Line {
        node: place.name.to_string(),
        region: place.region.to_string(),
        role: role.cloned().unwrap_or_default(),
        ..Line::default()
    }
}

/// The answer and the node that ran it, if it is what was expected: status 200, and the very
/// request id that was sent, in the header and in what the function itself saw.
fn expected<'a>(
    record: &'a Record,
    judge: &Judge<'_>,
) -> std::result::Result<(&'a Answer, usize), String> {
    let answer = match &record.outcome {
        Outcome::Answered(answer) => answer,
        Outcome::Unanswered(why) => return Err(why.name().to_owned()),
        Outcome::Dropped => return Err("client: dropped".to_owned()),
    };
    if let Some(reason) = &answer.reason {
        return Err(reason.clone());
    }
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    let body: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let seen = body.as_ref().and_then(|body| body.get("request_id")?.as_str());
    if seen != Some(&record.request_id)
        || answer.ran.request_id.as_ref() != Some(&record.request_id)
    {
        return Err("another request's answer".to_owned());
    }
    match judge.node_of(answer) {
        Some(node) => Ok((answer, node)),
        None => Err("answered by an unknown node".to_owned()),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::warm::tests::timeline;
    use crate::load::ledger::tests::answered;
    use crate::local::layout::deal;
    use nigh_model::Region;
    use nigh_placement::RttMatrix;
    use std::time::Duration;
    use tokio::time::Instant;

    fn record(start: Instant, entry: usize, node: &str, change: impl Fn(&mut Answer)) -> Record {
        let mut record = answered(entry, 0, node, false);
        record.sent = start + Duration::from_millis(500);
        record.service = Duration::from_millis(300);
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.body = format!("{{\"request_id\":\"{}\"}}\n   ", record.request_id).into();
            answer.ran.request_id = Some(record.request_id.clone());
            change(answer);
        }
        record
    }

    fn summary(records: impl Fn(Instant) -> Vec<Record>) -> Summary {
        let regions = ["eu-west-1", "us-east-1"].map(|name| Region::new(name).unwrap());
        let places = deal(2, &regions, None).unwrap();
        let matrix = RttMatrix::aws();
        let start = Instant::now();
        let timeline = timeline(start, &[&[0], &[0]]);
        let judge = Judge::new(&places, Some(&matrix), &timeline);
        let leader = Node { name: "eu-west-1-a".into(), raft: "leader".into(), ..Node::default() };
        Summary::of(&places, &[leader], &judge, &records(start))
    }

    fn good(start: Instant) -> Vec<Record> {
        vec![
            record(start, 0, "eu-west-1-a", |_| ()),
            record(start, 1, "eu-west-1-a", |answer| {
                answer.ran.forwarded = true;
                answer.ran.timing.hop = 72.0;
                answer.ran.timing.route = 0.5;
            }),
        ]
    }

    #[test]
    fn what_went_well_passes_and_is_counted_by_node() {
        let summary = summary(good);
        summary.verdict().unwrap();
        assert_eq!((summary.nodes[0].served, summary.nodes[1].forwarded_out), (2, 1));
        assert_eq!(summary.nearest_share, 1.0);
        let added = summary.nodes[1].added_ms_p50.unwrap();
        assert!((1.9..2.1).contains(&added), "{added}: 0.5 + 72 - 70.508");
        let text = summary.text();
        assert!(text.contains("leader") && text.contains("100.0 % of 2 calls"), "{text}");
    }

    #[test]
    fn whatever_goes_wrong_is_said() {
        let with = |change: fn(&mut Answer)| {
            let summary = summary(|start| {
                let mut records = good(start);
                records.push(record(start, 0, "eu-west-1-a", change));
                records
            });
            summary.verdict().unwrap_err().to_string()
        };
        assert!(with(|answer| answer.status = 500).contains("status 500: 1"));
        assert!(with(|answer| answer.reason = Some("TRAP".into())).contains("TRAP: 1"));
        assert!(with(|answer| answer.body = "{}".into()).contains("another request's answer"));
        assert!(with(|answer| answer.ran.node = Some("us-east-1-a".into())).contains("33.3 %"));
        assert!(with(|answer| answer.ran.cold = Some(true)).contains("33.3 %"));
        let none = summary(|start| good(start)[..1].to_vec());
        assert!(none.verdict().unwrap_err().to_string().contains("no call was forwarded"));
    }
}
