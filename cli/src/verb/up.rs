//! `nigh up`: a local cluster of several nodes and regions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nigh_model::Region;
use nigh_placement::RttMatrix;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::Access;
use crate::demo;
use crate::failure::{Failure, Result};
use crate::local::cluster::Cluster;
use crate::local::folder::{Folder, Note};
use crate::local::layout::{self, NODES_MAX, Place, Ports};
use crate::local::ports;
use crate::logging::{self, LogFormat};
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::rtt;
use crate::table::{Rows, count};

/// Nodes of a new cluster unless something else is said.
const NODES_DEFAULT: u16 = 5;
/// Its regions.
const REGIONS_DEFAULT: [&str; 3] = ["eu-west-1", "us-east-1", "ap-northeast-1"];

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh up
  nigh up --demo
  nigh up --nodes 3 --regions eu-central-1,us-west-2 --fresh
  nigh up --base-port 20000 --data /tmp/nigh

Node k, from 1, listens on 127.0.0.1 on every default port + 10·(k−1): HTTP 8080, 8090, …;
HTTPS 8443, …; API 7400, 7410, …; peers 7401, …; gossip 7402/udp, …. What nodes log is in
nigh.log in the data folder; commands that are typed in this folder find admin.toml there by
themselves. All nodes show callers over HTTPS one certificate, https/self-made.crt in the data
folder: curl --cacert takes it.")]
pub(crate) struct Args {
    /// Deploy the examples, replay real load, and show how it was served
    #[arg(long)]
    demo: bool,
    /// Stop after the demonstration; the exit status says whether all went as it should
    #[arg(long, requires = "demo")]
    exit: bool,
    /// Number of nodes [default: 5, or those of the data folder]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: Option<u16>,
    /// Regions; nodes are dealt over them in turn [default: eu-west-1,us-east-1,ap-northeast-1]
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    regions: Option<Vec<String>>,
    /// Data folder
    #[arg(long, value_name = "DIR", default_value = ".nigh")]
    data: PathBuf,
    /// Empty the data folder first
    #[arg(long)]
    fresh: bool,
    /// Round trips between regions to emulate, as CSV [default: aws, measured ones of 19 regions]
    #[arg(long, value_name = "FILE|aws", conflicts_with = "no_rtt")]
    rtt_matrix: Option<PathBuf>,
    /// Emulate no delay
    #[arg(long)]
    no_rtt: bool,
    /// First port: HTTP P, API P+1, peers P+2, gossip P+3, HTTPS P+4, the next node +10
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
    /// Show on the terminal what the nodes log
    #[arg(long)]
    verbose: bool,
    /// How the nodes' events are written
    #[arg(long, env = "NIGH_LOG_FORMAT", value_enum, default_value_t, value_name = "text|json")]
    #[arg(hide_possible_values = true)]
    log_format: LogFormat,
    /// Seed of everything that the demonstration draws
    #[arg(long, value_name = "N", default_value_t = demo::SEED, hide = true)]
    demo_seed: u64,
    /// Shorten the demonstration's replay, for tests
    #[arg(long, value_name = "SECONDS", hide = true, requires = "demo")]
    demo_seconds: Option<u64>,
}

pub(crate) async fn run(args: Args, format: Format) -> Result {
    let folder = Folder::new(args.data.clone());
    let held = if args.fresh { None } else { folder.note()? };
    let places = places(&args, held.as_ref())?;
    let matrix = matrix(&args, &places)?;
    ports::check(&places)?;
    if args.fresh {
        folder.empty()?;
    }
    folder.prepare(&places)?;
    let certificate = nigh_node::make_certificate(&folder.https(), &[]).map_err(|error| {
        Failure::new(error.kind(), "HTTPS cannot be served").why(error.to_string())
    })?;
    logging::to_file(&folder.log(), args.verbose, args.log_format)?;
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::internal(format!("cannot watch for SIGTERM: {error}")))?;

    let mut stop = std::pin::pin!(async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    });
    let started = Instant::now();
    let mut progress = Progress::new();
    let line = progress.waiting(format!("starting {}", count(places.len(), "node")));
    let start = Cluster::start(&places, &folder, matrix.clone(), stop.as_mut());
    let start = Box::pin(start).await;
    let mut clear = || {
        line.finish_and_clear();
        progress.clear();
    };
    let cluster = match start {
        Ok(Some(cluster)) => cluster,
        ended => {
            clear();
            return ended.and_then(|_| stopped(&args));
        }
    };
    let ended = tokio::select! {
        ended = async {
            cluster.ready().await?;
            let access = folder.tell_admin(&places)?;
            clear();
            let after = started.elapsed();
            let shown = Shown { access, certificate, matrix, after, format };
            Box::pin(serve(&args, &places, &folder, shown)).await
        } => ended,
        failure = cluster.failed() => Err(failure),
        () = &mut stop => stopped(&args),
    };
    clear();
    cluster.stop().await;
    ended
}

/// How a command ends that was asked to stop: well, unless it was to end by itself.
fn stopped(args: &Args) -> Result {
    if args.exit {
        return Err(Failure::interrupted("the demonstration was stopped before its end"));
    }
    Ok(())
}

/// A cluster that serves, and how it is shown.
struct Shown {
    access: Access,
    /// What callers over HTTPS are shown.
    certificate: PathBuf,
    matrix: Option<Arc<RttMatrix>>,
    /// So long it took to start.
    after: Duration,
    format: Format,
}

/// Everything between start and stop. Ends by itself only with `--exit` or when it fails.
async fn serve(args: &Args, places: &[Place], folder: &Folder, shown: Shown) -> Result {
    let Shown { access, certificate, matrix, after, format } = shown;
    match format {
        Format::Table => output::line(text_of(places, after))?,
        // Programs get one document: the cluster, or what the demonstration came to.
        Format::Json if args.demo => {}
        Format::Json => output::json(&document(places, &access, &certificate, after))?,
    }
    if args.demo {
        let plan = demo::Plan {
            seed: args.demo_seed,
            replay: args.demo_seconds.map(Duration::from_secs),
            ledger: folder.ledger(),
            matrix,
            access: access.clone(),
        };
        let shown = Box::pin(demo::show(places, &plan, format)).await?;
        if args.exit {
            return shown.verdict();
        }
        if let Err(failure) = shown.verdict() {
            output::failure(&failure);
        }
        output::note(demo::try_next(places, &access));
    } else {
        output::note(format!(
            "deploy something: {} deploy PATH{}",
            demo::program(),
            demo::credentials_flag(&access)
        ));
    }
    if let Some(place) = places.first() {
        output::note(format!(
            "over HTTPS: curl --cacert {} https://{}/…",
            certificate.display(),
            Ports::address(place.ports.https)
        ));
    }
    output::note("Ctrl-C stops the cluster; its data stays");
    std::future::pending().await
}

/// Which nodes the cluster has: as the flags say, else as the data folder does.
fn places(args: &Args, held: Option<&Note>) -> Result<Vec<Place>> {
    let regions = match (&args.regions, held) {
        (Some(names), _) => names
            .iter()
            .map(|name| Region::new(name.trim()))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| Failure::usage(format!("--regions: {error}")))?,
        (None, Some(note)) => note.regions(),
        (None, None) => REGIONS_DEFAULT
            .iter()
            .map(|name| Region::new(name).expect("the default regions have valid names"))
            .collect(),
    };
    for (index, region) in regions.iter().enumerate() {
        if regions[..index].contains(region) {
            return Err(Failure::usage(format!("--regions: `{region}` stands there twice")));
        }
    }
    let held = held.map(|note| note.nodes.len() as u16);
    let nodes = args.nodes.or(held).unwrap_or(NODES_DEFAULT);
    layout::deal(nodes, &regions, args.base_port)
}

fn matrix(args: &Args, places: &[Place]) -> Result<Option<Arc<RttMatrix>>> {
    if args.no_rtt {
        return Ok(None);
    }
    let matrix = match &args.rtt_matrix {
        Some(path) => rtt::read(path, "--rtt-matrix")?,
        None => RttMatrix::aws(),
    };
    rtt::check(&matrix, places.iter().map(|place| &place.region))?;
    Ok(Some(Arc::new(matrix)))
}

fn document(
    places: &[Place],
    access: &Access,
    certificate: &Path,
    after: Duration,
) -> serde_json::Value {
    let node = |place: &Place| {
        serde_json::json!({
            "name": place.name,
            "region": place.region,
            "http": Ports::address(place.ports.http),
            "https": Ports::address(place.ports.https),
            "api": Ports::address(place.ports.api),
            "peer": Ports::address(place.ports.peer),
            "gossip": Ports::address(place.ports.gossip),
        })
    };
    let nodes: Vec<_> = places.iter().map(node).collect();
    serde_json::json!({
        "seconds": after.as_secs_f64(),
        "credentials": access.file,
        "https_certificate": certificate,
        "nodes": nodes,
    })
}

fn text_of(places: &[Place], after: Duration) -> String {
    let mut regions: Vec<&Region> = places.iter().map(|place| &place.region).collect();
    regions.sort();
    regions.dedup();
    let mut rows = Rows::new(["NODE", "REGION", "HTTP", "HTTPS", "API"]);
    for place in places {
        rows.push([
            place.name.to_string(),
            place.region.to_string(),
            format!("http://{}", Ports::address(place.ports.http)),
            format!("https://{}", Ports::address(place.ports.https)),
            place.api_url(),
        ]);
    }
    format!(
        "{} in {} serve after {:.1} s\n\n{}\n",
        count(places.len(), "node"),
        count(regions.len(), "region"),
        after.as_secs_f64(),
        rows.text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn args(line: &str) -> Args {
        let words = ["nigh", "up"].into_iter().chain(line.split_whitespace());
        match crate::args::Cli::try_parse_from(words).unwrap().command {
            crate::args::Command::Up(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn five_nodes_in_three_regions_are_the_default() {
        let places = places(&args(""), None).unwrap();
        let of = |region: &str| places.iter().filter(|p| p.region.as_str() == region).count();
        assert_eq!([of("eu-west-1"), of("us-east-1"), of("ap-northeast-1")], [2, 2, 1]);
    }

    #[test]
    fn a_data_folder_says_what_the_flags_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::new(folder.path().to_owned());
        folder.prepare(&places(&args("--nodes 2 --regions a,b"), None).unwrap()).unwrap();
        let note = folder.note().unwrap();
        let resumed = places(&args(""), note.as_ref()).unwrap();
        assert_eq!((resumed.len(), resumed[1].name.as_str()), (2, "b-a"));
    }

    #[test]
    fn a_demonstration_that_is_stopped_has_not_succeeded() {
        assert_eq!(stopped(&args("--demo")), Ok(()));
        assert_eq!(stopped(&args("--demo --exit")).unwrap_err().exit(), 130);
    }

    #[test]
    fn a_region_that_the_matrix_lacks_is_refused() {
        let args = args("--regions eu-west-1,us-esat-1");
        let places = places(&args, None).unwrap();
        assert!(matrix(&args, &places).unwrap_err().to_string().contains("us-east-"));
        let without = Args { no_rtt: true, ..args };
        assert!(matrix(&without, &places).unwrap().is_none());
        assert!(super::places(&Args { regions: Some(vec!["A".into()]), ..without }, None).is_err());
    }
}
