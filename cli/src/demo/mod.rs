//! `nigh up --demo`: the examples, half an hour of real load, and how it was served.
//!
//! Everything here goes over the public doors, as any client does: gRPC to deploy and to ask,
//! HTTP to call. What the table says is measured on the client's side.

mod calls;
mod examples;
mod judge;
mod summary;
mod warm;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::AppName;
use nigh_model::spec::RegionPattern;
use nigh_placement::RttMatrix;
use tokio::time::Instant;

use crate::api::{Access, Api};
use crate::credentials;
use crate::failure::Result;
use crate::load::client::Client;
use crate::load::ledger::Ledger;
use crate::load::run::{Record, Run};
use crate::load::trace::Trace;
use crate::load::{Entry, traced};
use crate::local::layout::{Place, Ports};
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::rollout::{self, Options};
use crate::table::count;
use summary::Summary;

/// Seed of everything that is drawn, unless something else is said.
pub(crate) const SEED: u64 = 2019;

/// The app that the traced functions make up.
const APP: &str = "azure";
/// Thirty minutes in forty seconds.
const SPEED: f64 = 45.0;
/// Most calls at once: a hundred times what is under way on average.
const CONCURRENCY: usize = 1_000;
/// Far above the longest run of a traced function and its way around the world.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait until an app is served everywhere.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(60);

const INVOCATIONS: &str = include_str!("../../data/azure_30min_invocations.csv");
const DURATIONS: &str = include_str!("../../data/azure_30min_durations.csv");

/// How the demonstration runs.
pub(crate) struct Plan {
    /// Seed of everything that is drawn.
    pub(crate) seed: u64,
    /// Only this much of the replay.
    pub(crate) replay: Option<Duration>,
    /// Where a line per call is written.
    pub(crate) ledger: PathBuf,
    /// The round trips that are emulated.
    pub(crate) matrix: Option<Arc<RttMatrix>>,
    /// Where the cluster is, and what it knows us by.
    pub(crate) access: Access,
}

/// What the demonstration showed.
pub(crate) struct Shown {
    summary: Summary,
}

impl Shown {
    /// Whether all went as it should.
    pub(crate) fn verdict(&self) -> Result {
        self.summary.verdict()
    }
}

/// Runs it and prints the table.
pub(crate) async fn show(places: &[Place], plan: &Plan, format: Format) -> Result<Shown> {
    let api = Api::connect(&plan.access).await?;
    let say = |text: String| match format {
        Format::Table => output::line(text),
        Format::Json => Ok(()),
    };

    let started = Instant::now();
    let client = Client::new(CALL_TIMEOUT);
    let apps = examples::deploy(&api).await?;
    examples::call_everywhere(&client, &apps, places).await?;
    let seconds = started.elapsed().as_secs_f64();
    say(format!(
        "{} answer in every region after {seconds:.2} s: {}",
        count(apps.len(), "example"),
        apps.join(", ")
    ))?;

    let app = AppName::new(APP).expect("the name is constant and valid");
    let trace = Trace::parse(INVOCATIONS, DURATIONS).expect("the embedded trace is read by a test");
    let mix = calls::Mix::draw(places, &trace, plan.seed);
    let deployed = deploy_trace(&api, &app, &trace, &mix).await?;
    say(format!(
        "{} of the Azure trace are served after {deployed:.2} s, {} of them in one region only",
        count(trace.functions.len(), "function"),
        mix.restricted()
    ))?;

    let whole = trace.replay_time(SPEED);
    let length = plan.replay.map_or(whole, |length| length.min(whole));
    let calls = mix.calls(&app, &trace, SPEED, length);
    say(format!(
        "replaying {} of {} minutes of it, {} calls, in {:.0} s (seed {})\n",
        (length.as_secs_f64() * SPEED / 60.0).round(),
        trace.minutes,
        calls.len(),
        length.as_secs_f64(),
        plan.seed
    ))?;

    let functions = traced::names(&app, &trace);
    let entries: Arc<[Entry]> = places.iter().map(entry).collect();
    let watch = warm::Watch::start(&plan.access, places, &app, &trace).await?;
    let records = replay(client, calls, &entries, &functions, length, plan).await?;
    let timeline = watch.end().await;
    let nodes = api.nodes().await?;

    let judge = judge::Judge::new(places, plan.matrix.as_deref(), &timeline);
    let summary = Summary::of(places, &nodes, &judge, &records);
    match format {
        Format::Table => output::line(summary.text())?,
        Format::Json => output::json(&summary)?,
    }
    say(format!("\na line per call is in {}", plan.ledger.display()))?;
    Ok(Shown { summary })
}

async fn deploy_trace(api: &Api, app: &AppName, trace: &Trace, mix: &calls::Mix) -> Result<f64> {
    let regions = |function| {
        let only = mix.only_region(function);
        only.map(|region| {
            RegionPattern::try_from(region.to_string()).expect("a region is a pattern")
        })
        .into_iter()
        .collect()
    };
    let package = traced::package(app.clone(), trace, regions);
    let options = Options { wait: true, timeout: DEPLOY_TIMEOUT };
    let mut progress = Progress::new();
    let deployed = Box::pin(rollout::deploy(api, &package, options, &mut progress)).await;
    progress.clear();
    Ok(deployed?.seconds)
}

/// Makes the calls under a progress bar, with a line in the ledger for each.
async fn replay(
    client: Client,
    calls: Vec<crate::load::Planned>,
    entries: &Arc<[Entry]>,
    functions: &[String],
    length: Duration,
    plan: &Plan,
) -> Result<Vec<Record>> {
    let mut ledger = Ledger::create(&plan.ledger)?;
    let mut progress = Progress::new();
    let bar = progress.bar(length.as_millis() as u64);
    let mut records = Vec::with_capacity(calls.len());
    let run = Run { entries: Arc::clone(entries), client, concurrency: CONCURRENCY };
    let made = run.make(calls.into_iter(), |record| {
        ledger.note(&record, entries, functions);
        bar.set_position(bar.position().max(record.at.as_millis() as u64));
        records.push(record);
        bar.set_message(format!("{} calls", records.len()));
    });
    Box::pin(made).await;
    bar.finish_and_clear();
    progress.clear();
    ledger.close()?;
    Ok(records)
}

fn entry(place: &Place) -> Entry {
    Entry {
        name: place.name.to_string(),
        region: place.region.to_string(),
        authority: Ports::address(place.ports.http).to_string(),
    }
}

/// `--credentials FILE` where verbs that are typed here would not find the file by themselves.
pub(crate) fn credentials_flag(access: &Access) -> String {
    let is_set = std::env::var_os("NIGH_CREDENTIALS").is_some_and(|set| !set.is_empty());
    let has_own = credentials::login_file().is_some_and(|own| own.exists());
    if access.file == credentials::local_file() && !is_set && !has_own {
        return String::new();
    }
    format!(" --credentials {}", access.file.display())
}

/// What to try next; each line works when pasted.
pub(crate) fn try_next(places: &[Place], access: &Access) -> String {
    let (program, flag) = (program(), credentials_flag(access));
    let last = places.last().unwrap_or(&places[0]);
    let http = Ports::address(last.ports.http);
    format!(
        "\ntry next:\n  curl -i http://{http}/hello\n  {program} invoke hello -i{flag}\n  {program} nodes{flag}\n"
    )
}

/// How this program is called from here: by its name when the search path has it, else by a
/// path that works.
pub(crate) fn program() -> String {
    let Ok(own) = std::env::current_exe() else { return "nigh".to_owned() };
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .any(|folder| folder.join("nigh").canonicalize().is_ok_and(|found| found == own))
    });
    if on_path {
        return "nigh".to_owned();
    }
    let here = std::env::current_dir().ok();
    let below = here.as_ref().and_then(|here| own.strip_prefix(here).ok());
    below.unwrap_or(&own).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_trace_is_what_its_readme_says() {
        let trace = Trace::parse(INVOCATIONS, DURATIONS).unwrap();
        assert_eq!((trace.minutes, trace.functions.len()), (30, 100));
        assert_eq!(trace.calls(), 18_558);
        assert_eq!(trace.replay_time(SPEED), Duration::from_secs(40));
        assert_eq!(trace.functions.iter().filter(|function| function.calls() > 0).count(), 68);
    }
}
