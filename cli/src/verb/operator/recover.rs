//! `nigh operator recover`: on a data folder whose node does not run.

use std::path::PathBuf;

use nigh_node::Error;
use nigh_node::recover::{Recovered, forget, recover};

use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use crate::table::count;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh operator recover --data /var/lib/nigh
  nigh operator recover --data /var/lib/nigh --rejoin

For the day on which a majority of the voters is lost for ever. Stop all nodes that are left. On one
of them, the one a voter, with the highest index if several are left: only voters hold the
key that admits nodes, run this without --rejoin and
start it: it leads a cluster of one, with every app. On all others run it with --rejoin, which keeps
their components and forgets the rest, and start them with --join and a new --join-token.

What only the lost nodes had is lost: entries that they decided without this one, and components
that no survivor holds. Both are said as far as they are known. The former data is moved aside within
the data folder and kept; delete it when all is well.

It refuses while another voter answers: two clusters would go on under one name. --force does
not change that.")]
pub(crate) struct Args {
    /// Data folder of the node, which must not run
    #[arg(long, env = "NIGH_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Forget the cluster and keep the components, to join the recovered one
    #[arg(long)]
    rejoin: bool,
    /// Also while nodes answer that do not vote
    #[arg(long, conflicts_with = "rejoin")]
    force: bool,
}

pub(crate) async fn run(args: Args, format: Format) -> Result {
    if !args.data.is_dir() {
        let what = format!("there is no folder {}", args.data.display());
        return Err(Failure::usage(what).hint("name the --data of the node that survived"));
    }
    if args.rejoin {
        let aside = forget(&args.data).await.map_err(|error| failed(&error))?;
        return match format {
            Format::Json => output::json(&serde_json::json!({ "kept": aside })),
            Format::Table => {
                output::note(format!("what was there is kept in {}", aside.display()));
                output::line(
                    "start this node with --join, the peer address of the recovered one, and a --join-token",
                )
            }
        };
    }
    let done = recover(&args.data, args.force).await.map_err(|error| failed(&error))?;
    match format {
        Format::Json => output::json(&document(&done)),
        Format::Table => output::line(text_of(&done)),
    }
}

fn failed(error: &Error) -> Failure {
    let failure = Failure::new(error.kind(), "nothing was recovered").why(error.to_string());
    match error {
        Error::NotLost { voters: false, .. } => failure.hint("--force if they cannot be stopped"),
        _ => failure,
    }
}

fn document(done: &Recovered) -> serde_json::Value {
    serde_json::json!({
        "node": done.node,
        "index": done.index,
        "undecided": done.undecided,
        "others": done.others,
        "missing": done.missing,
        "kept": done.aside,
    })
}

fn text_of(done: &Recovered) -> String {
    let mut lines = vec![
        format!(
            "{} is the whole cluster now, with all that it knew up to index {}",
            done.node, done.index
        ),
        format!("  lost: what the others decided after index {} without it", done.index),
    ];
    if done.undecided > 0 {
        let entries = if done.undecided == 1 { "entry" } else { "entries" };
        lines.push(format!(
            "  kept: {} {entries} at the end of its log that may never have been acknowledged",
            done.undecided
        ));
    }
    if !done.missing.is_empty() {
        let apps = count(done.missing.len(), "app");
        lines.push(format!(
            "  lost unless another survivor has them: components of {apps}: {}",
            done.missing.join(", ")
        ));
    }
    lines.push(format!("  what was there is kept in {}", done.aside.display()));
    lines.push("next: start this node as before".to_owned());
    if !done.others.is_empty() {
        lines.push(format!(
            "then, on each of {} that is left: nigh operator recover --rejoin --data DIR, and start \
             it with --join and a --join-token",
            done.others.join(", ")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_may_be_lost_and_what_comes_next() {
        let done = Recovered {
            node: "a".into(),
            index: 7,
            undecided: 1,
            others: vec!["b".into(), "c".into()],
            missing: vec!["shop".into()],
            aside: "/data/before-recovery-1".into(),
        };
        let text = text_of(&done);
        for said in
            ["a is the whole cluster", "up to index 7", "1 entry", "1 app: shop", "each of b, c"]
        {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert_eq!(document(&done)["index"], 7);
    }
}
