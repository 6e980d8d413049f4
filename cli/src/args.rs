//! The command line: verbs and what they have in common. Each verb's own flags are in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api::Access;
use crate::credentials;
use crate::failure::Result;
use crate::output::Format;
use crate::verb;
use crate::version::VERSION;

/// A serverless edge that you run yourself
#[derive(Debug, Parser)]
#[command(name = "nigh", version = VERSION, propagate_version = false, max_term_width = 100)]
#[command(after_help = "\
Examples:
  nigh up --demo                     start a cluster of five nodes and show what it does
  nigh deploy examples/hello         deploy an app to it
  curl http://127.0.0.1:8080/hello   call it over HTTP
  nigh invoke hello                  call it over gRPC

Exit status:
  0 done · 1 internal error · 2 wrong usage · 3 not found · 4 invalid or refused ·
  5 unavailable · 6 timed out · 7, 8 not all is well (`nigh status`) ·
  22 the function itself answered 4xx or 5xx · 130 interrupted")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) before: Before,
    /// How data is printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Common options"
    )]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How a verb reaches the cluster, as options before the verb.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Before {
    /// API of a node
    #[arg(long = "api", id = "api_first", value_name = "URL", hide = true)]
    api: Option<String>,
    /// What the cluster knows you by
    #[arg(long = "credentials", id = "credentials_first", value_name = "FILE", hide = true)]
    credentials: Option<PathBuf>,
}

/// How a verb reaches the cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Cluster {
    /// API of a node; any node will do [default: those of the credentials]
    #[arg(long, env = "NIGH_API", value_name = "URL", help_heading = "Common options")]
    api: Option<String>,
    /// What the cluster knows you by [default: see `nigh login --help`]
    #[arg(long, env = "NIGH_CREDENTIALS", value_name = "FILE", help_heading = "Common options")]
    credentials: Option<PathBuf>,
}

impl Before {
    /// The API that stood before the verb.
    pub(crate) fn api(self) -> Option<String> {
        self.api
    }
}

impl Cluster {
    /// Where the cluster is and what it knows its user by, given what stood before the verb.
    pub(crate) fn access(self, before: Before) -> Result<Access> {
        let empty = |path: &PathBuf| path.as_os_str().is_empty();
        let named = before.credentials.or(self.credentials).filter(|path| !empty(path));
        let address = before.api.or(self.api).filter(|address| !address.is_empty());
        Access::of(credentials::find(named)?, address)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a local cluster of several nodes and regions
    Up(verb::up::Args),
    /// Run one node, the daemon of a machine
    Node(Box<verb::node::Args>),
    /// Deploy a component, a folder or a manifest
    Deploy(verb::deploy::Args),
    /// List apps and where their functions are ready and warm
    Apps(verb::apps::Args),
    /// Delete an app and all its revisions
    Delete(verb::delete::Args),
    /// Call a function over gRPC
    Invoke(verb::invoke::Args),
    /// Send load at given times and measure how it is answered
    Load(Box<verb::load::Args>),
    /// Print what functions print, from every node
    Logs(verb::logs::Args),
    /// List nodes
    Nodes(verb::nodes::Args),
    /// Show the cluster on one screen, and whether all is well
    Status(verb::status::Args),
    /// Store credentials, to be used from then on
    Login(verb::login::Args),
    /// Let a node give up its work, its vote and leadership
    Drain(verb::drain::Args),
    /// Let a node go for good
    Remove(verb::remove::Args),
    /// Look after the cluster itself
    Operator(verb::operator::Args),
    /// Print a completion script for a shell
    Completions(verb::completions::Args),
    /// Print the manual page
    Man(verb::man::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn error(args: &[&str]) -> String {
        let args = std::iter::once("nigh").chain(args.iter().copied());
        Cli::try_parse_from(args).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_misspelt_verb_or_flag_is_answered_with_the_nearest_one() {
        assert!(error(&["deplyo", "x"]).contains("'deploy'"));
        assert!(error(&["deploy", "x", "--nowait"]).contains("'--no-wait'"));
        assert!(error(&["invoke", "x", "--metod", "GET"]).contains("'--method'"));
    }

    #[test]
    fn every_verb_has_an_example_and_starts_with_an_imperative() {
        let mut cli = Cli::command();
        cli.build();
        for verb in cli.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let name = verb.get_name().to_owned();
            let help = verb.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{name}");
            let first = help.lines().next().unwrap_or_default();
            assert!(
                first.starts_with(char::is_uppercase) && !first.ends_with('.'),
                "{name}: {first}"
            );
        }
    }

    #[test]
    fn what_stands_before_the_verb_is_taken_too() {
        let cli = ["nigh", "--api", "https://a:1", "--credentials", "a", "-o", "json", "nodes"];
        let cli = Cli::try_parse_from(cli).unwrap();
        assert_eq!(cli.output, Format::Json);
        let said = Cluster::default().access(cli.before).unwrap_err().to_string();
        assert!(said.contains("credentials a"), "{said}");
        let after = ["nigh", "nodes", "--api", "http://b:1", "--credentials", "b"];
        let Command::Nodes(args) = Cli::try_parse_from(after).unwrap().command else {
            panic!("nodes")
        };
        let said = args.cluster.access(Before::default()).unwrap_err().to_string();
        assert!(said.contains("http://b:1") && said.contains("TLS"), "{said}");
    }
}
