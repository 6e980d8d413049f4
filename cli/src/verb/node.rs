//! `nigh node`: the daemon of a machine.

mod settings;

use std::path::PathBuf;
use std::time::Duration;

use nigh_node::{Error, Node};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Result};
use crate::logging::{self, LogFormat};
use crate::notify::{self, State};
use settings::Settings;

/// What the node has to close its connections and files when its calls have ended, or when it cannot
/// go on.
const GRACE: Duration = Duration::from_secs(2);
/// When it is ended whether it has stopped or not.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh node --name eu-1 --region eu-west-1 --data /var/lib/nigh --bootstrap
  nigh node --name us-1 --region us-east-1 --data /var/lib/nigh --join 10.0.0.1:7401 \\
      --peer 0.0.0.0:7401 --gossip 0.0.0.0:7402 --advertise 10.0.0.2
  nigh node --config /etc/nigh/node.toml

Flags win over NIGH_* in the environment, which wins over the file. In the file the keys are
the flags' names with _ for -, such as rtt_matrix; join is a list. On a data folder that
belongs to a cluster already, --bootstrap and --join only help to find the others, and
neither is needed.

SIGTERM and Ctrl-C end the node without a failed call: it tells the others first, and ends when no
call runs any more, at the latest when the longest that any may take is over (30 s at least). A
second one ends it at once.

NIGH_LOG (or RUST_LOG) says what is logged, such as info or nigh_node=debug; --log-format
says how.")]
pub(crate) struct Args {
    /// TOML file with any of the settings below
    #[arg(long, env = "NIGH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: settings::Flags,
}

pub(crate) async fn run(args: Args) -> Result {
    let settings = Settings::collect(args.flags, args.config.as_deref())?;
    let format = settings.log_format();
    let config = settings.validate()?;
    logging::to_stderr(format)?;
    match (format, Box::pin(serve(config)).await) {
        (LogFormat::Json, Err(failure)) => {
            tracing::error!(exit = failure.exit(), "{failure}");
            Err(failure.said())
        }
        (_, ended) => ended,
    }
}

/// Runs the node until it is asked to stop or cannot go on.
async fn serve(config: nigh_node::Config) -> Result {
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::internal(format!("cannot watch for SIGTERM: {error}")))?;

    let span = tracing::info_span!("node", node = %config.name);
    let start = tracing::Instrument::instrument(Box::pin(Node::start(config)), span);
    let node = tokio::select! {
        started = start => started.map_err(|error| not_started(&error))?,
        () = stop_asked(&mut terminate) => return Ok(()),
    };
    notify::tell(State::Ready);
    let ended = tokio::select! {
        why = node.failed() => Err(Failure::internal("the node cannot go on").why(why)),
        () = stop_asked(&mut terminate) => Ok(()),
    };
    notify::tell(State::Stopping);
    let name = node.config().name.clone();
    if let Err(failure) = &ended {
        tracing::info!(node = %name, %failure, "stopping");
    }
    // Also when it cannot go on: a removed node, or one whose disk fails, still answers calls.
    tokio::select! {
        () = node.drain() => {}
        () = stop_asked(&mut terminate) => {
            tracing::info!(node = %name, "asked to stop again: calls still running are cut off");
            return ended;
        }
    }
    if tokio::time::timeout(SHUTDOWN_MAX, Box::pin(node.shutdown(GRACE))).await.is_err() {
        tracing::warn!(node = %name, "did not stop in time and was ended");
    }
    ended
}

/// Ends at Ctrl-C or SIGTERM.
async fn stop_asked(terminate: &mut tokio::signal::unix::Signal) {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn not_started(error: &Error) -> Failure {
    let failure = Failure::new(error.kind(), "the node does not start").why(error.to_string());
    match error {
        Error::AddressInUse { what, .. } => {
            failure.hint(format!("stop what listens there, or move the node with --{what} ADDRESS"))
        }
        _ => failure,
    }
}
