//! `nigh completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Result;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  nigh completions bash > ~/.local/share/bash-completion/completions/nigh")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nigh", &mut script);
    output::raw(&script)
}
