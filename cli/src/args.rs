//! The command line: verbs and what they have in common. Each verb's own flags are in its file.

use clap::{Args, Parser, Subcommand};

use crate::output::Format;
use crate::verb;
use crate::version::VERSION;

/// Where a node's API is unless something else is said.
const API_DEFAULT: &str = "http://127.0.0.1:7400";

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
  5 unavailable · 6 timed out · 22 the function itself answered 4xx or 5xx ·
  130 interrupted")]
pub(crate) struct Cli {
    /// API of a node, as an option before the verb
    #[arg(long = "api", id = "api_first", value_name = "URL", hide = true)]
    pub(crate) api: Option<String>,
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

/// How a verb reaches the cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Cluster {
    /// API of a node; any node will do [default: http://127.0.0.1:7400]
    #[arg(long, env = "NIGH_API", value_name = "URL", help_heading = "Common options")]
    api: Option<String>,
}

impl Cluster {
    /// The address to ask, given what stood before the verb.
    pub(crate) fn address(self, before_verb: Option<String>) -> String {
        before_verb.or(self.api).unwrap_or_else(|| API_DEFAULT.to_owned())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a local cluster of several nodes and regions
    Up(verb::up::Args),
    /// Run one node, the daemon of a machine
    Node(verb::node::Args),
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
    fn the_address_before_the_verb_is_taken_too() {
        let cli =
            Cli::try_parse_from(["nigh", "--api", "http://a:1", "-o", "json", "nodes"]).unwrap();
        assert_eq!(cli.output, Format::Json);
        assert_eq!(Cluster::default().address(cli.api), "http://a:1");
        let after = Cli::try_parse_from(["nigh", "nodes", "--api", "http://b:1", "-o", "json"]);
        let Command::Nodes(args) = after.unwrap().command else { panic!("nodes") };
        assert_eq!(args.cluster.address(None), "http://b:1");
    }
}
