//! `nigh load`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::AppName;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::api::Api;
use crate::args::{Before, Cluster};
use crate::failure::{Failure, Result};
use crate::load::arrivals::{Arrivals, Spread};
use crate::load::client::Client;
use crate::load::ledger::Ledger;
use crate::load::report::{self, Tally};
use crate::load::run::Run;
use crate::load::target::{self, Target};
use crate::load::trace::Trace;
use crate::load::{Entry, Planned, traced};
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::rollout::{self, Options};
use crate::units;

/// Highest rate: far above what one client machine sends.
const RATE_MAX: f64 = 1_000_000.0;
/// Most calls at once: each holds a connection.
const CONCURRENCY_MAX: u64 = 50_000;
/// Longest wait until a trace's app is served.
const TRACE_DEPLOY_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh load hello --rate 200 --duration 30s
  nigh load 'work?wait_ms=5' /echo/a --rate 100 --ledger calls.jsonl
  nigh load http://127.0.0.1:8080/hello --spread constant
  nigh load --trace cli/data/azure_30min_invocations.csv --speed 45

A TARGET is app[/function][?query], a /path[?query] at any node, or a URL. Calls enter at all
live nodes in turn by lot; several targets are called in equal shares.

Each call has an intended start, drawn before; its latency counts from there. Calls beyond
--concurrency are counted as dropped and never delayed. Errors are data: the exit status says
only whether the load was sent.

--trace reads calls per minute and function (Azure Functions 2019) and the run times beside
it, deploys the functions as the app --app with a component that waits and computes as long
as the trace says, and replays it.")]
pub(crate) struct Args {
    /// What to call
    #[arg(value_name = "TARGET", required_unless_present = "trace", conflicts_with = "trace")]
    targets: Vec<String>,
    /// Replay a trace: NAME_invocations.csv with NAME_durations.csv beside it
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// App that the trace's functions are deployed as
    #[arg(long, value_name = "APP", default_value = "trace", requires = "trace")]
    app: String,
    /// Calls per second, all targets together
    #[arg(long, value_name = "R", default_value_t = 50.0, value_parser = rate, conflicts_with = "trace")]
    rate: f64,
    /// How long to start calls [default: 10s; a trace: all of it]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// How many times faster than it was the trace is replayed, its run times too
    #[arg(long, value_name = "S", default_value_t = 45.0, value_parser = speed, requires = "trace")]
    speed: f64,
    /// How the starts are spread
    #[arg(long, value_enum, default_value_t = Spread::Poisson, conflicts_with = "trace")]
    spread: Spread,
    /// Most calls at once
    #[arg(long, value_name = "C", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CONCURRENCY_MAX))]
    concurrency: u64,
    /// Give a call up after this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    timeout: Duration,
    /// Seed of everything that is drawn [default: drawn, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Node that calls enter; may be given several times [default: every live node]
    #[arg(long, value_name = "NODE")]
    entry: Vec<String>,
    /// Write a JSON line per call
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
}

/// What is to be sent.
struct Load {
    entries: Arc<[Entry]>,
    functions: Vec<String>,
    calls: Box<dyn Iterator<Item = Planned> + Send>,
    duration: Duration,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let seed = args.seed.unwrap_or_else(rand::random);
    let ledger = args.ledger.as_deref().map(Ledger::create).transpose()?;
    let load = match &args.trace {
        Some(file) => {
            let trace = Trace::read(file)?;
            let api = Api::connect(&args.cluster.clone().access(before)?).await?;
            of_trace(&args, &api, trace, seed).await?
        }
        None => of_targets(&args, before, seed).await?,
    };
    output::note(format!(
        "{} for {}, seed {seed}",
        match &args.trace {
            Some(file) => format!("{} at speed {}", file.display(), args.speed),
            None => format!("{} calls/s to {}", args.rate, load.functions.join(", ")),
        },
        units::show(load.duration)
    ));
    let (tallies, stopped) =
        send(&args, load.entries, &load.functions, load.calls, load.duration, ledger).await?;
    let mut total = Tally::default();
    for tally in &tallies {
        total.add(tally);
    }
    match format {
        Format::Json => output::json(&serde_json::json!({
            "seed": seed,
            "total": total.summary(),
            "functions": load.functions.iter().zip(&tallies).filter(|(_, tally)| tally.calls > 0)
                .map(|(name, tally)| (name.clone(), serde_json::to_value(tally.summary()).unwrap_or_default()))
                .collect::<serde_json::Map<_, _>>(),
        }))?,
        Format::Table => output::line(report::text(&load.functions, &tallies, &total))?,
    }
    if stopped { Err(Failure::interrupted("stopped before its end")) } else { Ok(()) }
}

/// Sends the calls and counts them by function; also says whether Ctrl-C ended it.
async fn send(
    args: &Args,
    entries: Arc<[Entry]>,
    functions: &[String],
    calls: Box<dyn Iterator<Item = Planned> + Send>,
    duration: Duration,
    mut ledger: Option<Ledger>,
) -> Result<(Vec<Tally>, bool)> {
    let mut tallies = vec![Tally::default(); functions.len()];
    let mut progress = Progress::new();
    let bar = progress.bar(duration.as_millis() as u64);
    let run = Run {
        entries: Arc::clone(&entries),
        client: Client::new(args.timeout),
        concurrency: args.concurrency as usize,
    };
    let made = run.make(calls, |record| {
        bar.set_position(record.at.as_millis() as u64);
        tallies[record.function].count(&record);
        if let Some(ledger) = &mut ledger {
            ledger.note(&record, &entries, functions);
        }
    });
    let stopped = tokio::select! {
        () = made => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    bar.finish_and_clear();
    progress.clear();
    ledger.map_or(Ok(()), Ledger::close)?;
    Ok((tallies, stopped))
}

async fn of_targets(args: &Args, before: Before, seed: u64) -> Result<Load> {
    // A URL needs no cluster: any HTTP server can be measured.
    let needs_cluster = args.targets.iter().any(|target| !target.contains("://"));
    let (apps, mut entries) = if needs_cluster {
        let api = Api::connect(&args.cluster.clone().access(before)?).await?;
        (api.all_apps().await?, target::entries(&api.nodes().await?, &args.entry)?)
    } else {
        (Vec::new(), Vec::new())
    };
    let any: std::ops::Range<usize> = 0..entries.len();
    let mut targets = Vec::new();
    for text in &args.targets {
        let target = Target::read(text, &apps)?;
        let places = match target.authority {
            None => any.clone(),
            Some(authority) => {
                let name = authority.clone();
                entries.push(Entry { name, region: String::new(), authority });
                entries.len() - 1..entries.len()
            }
        };
        targets.push((target.name, target.path, places));
    }
    let functions = targets.iter().map(|(name, _, _)| name.clone()).collect();
    let duration = args.duration.unwrap_or(Duration::from_secs(10));
    let arrivals = Arrivals::new(args.spread, args.rate, duration, StdRng::seed_from_u64(seed));
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(1));
    let calls = arrivals.map(move |at| {
        let function = random.random_range(0..targets.len());
        let (_, path, places) = &targets[function];
        let entry = random.random_range(places.clone());
        Planned { at, entry, function, path: Arc::clone(path) }
    });
    Ok(Load { entries: entries.into(), functions, calls: Box::new(calls), duration })
}

async fn of_trace(args: &Args, api: &Api, trace: Trace, seed: u64) -> Result<Load> {
    let app = AppName::new(&args.app).map_err(|error| Failure::usage(format!("--app: {error}")))?;
    let package = traced::package(app.clone(), &trace, |_| Vec::new());
    output::note(format!(
        "deploying {} functions with {} calls as `{app}`",
        trace.functions.len(),
        trace.calls()
    ));
    let mut progress = Progress::new();
    let options = Options { wait: true, timeout: TRACE_DEPLOY_TIMEOUT };
    let deployed = Box::pin(rollout::deploy(api, &package, options, &mut progress)).await;
    progress.clear();
    deployed?;
    let entries = target::entries(&api.nodes().await?, &args.entry)?;
    let whole = trace.replay_time(args.speed);
    let duration = args.duration.map_or(whole, |duration| duration.min(whole));
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(1));
    let mut calls = Vec::new();
    for call in trace.replay(args.speed, seed) {
        if call.at >= duration {
            break;
        }
        calls.push(Planned {
            at: call.at,
            entry: random.random_range(0..entries.len()),
            function: call.function,
            path: traced::path(&app, &trace, call.function, call.runs),
        });
    }
    let functions = traced::names(&app, &trace);
    Ok(Load { entries: entries.into(), functions, calls: Box::new(calls.into_iter()), duration })
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    positive(text, RATE_MAX)
}

fn speed(text: &str) -> std::result::Result<f64, String> {
    positive(text, 1_000_000.0)
}

fn positive(text: &str, max: f64) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= max => Ok(number),
        _ => Err(format!("write a number above 0, at most {max}")),
    }
}
