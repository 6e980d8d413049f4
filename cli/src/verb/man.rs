//! `nigh man`: the manual page, from the same source as the help.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use nigh_model::Kind;

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh man | man -l -
  nigh man deploy | man -l -
  nigh man --dir ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// Print the page of this verb
    verb: Option<String>,
    /// Write every page into this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result {
    let mut cli = Cli::command();
    cli.build();
    match (&args.dir, &args.verb) {
        (Some(dir), _) => write_all(&cli, dir),
        (None, None) => output::raw(&page("nigh", cli)?),
        (None, Some(verb)) => {
            let names = cli.get_subcommands().map(|verb| verb.get_name());
            let unknown = Failure::new(Kind::NotFound, format!("no verb is named `{verb}`"))
                .nearest(verb, names);
            let command = cli.find_subcommand(verb).ok_or(unknown)?;
            output::raw(&page(&format!("nigh-{verb}"), command.clone())?)
        }
    }
}

fn write_all(cli: &Command, dir: &Path) -> Result {
    let write = |name: String, command: &Command| -> Result {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page(&name, command.clone())?)
            .map_err(|error| Failure::invalid(format!("cannot write {}: {error}", path.display())))
    };
    std::fs::create_dir_all(dir)
        .map_err(|error| Failure::invalid(format!("cannot make {}: {error}", dir.display())))?;
    write("nigh".to_owned(), cli)?;
    for verb in cli.get_subcommands().filter(|verb| verb.get_name() != "help") {
        write(format!("nigh-{}", verb.get_name()), verb)?;
    }
    Ok(())
}

fn page(name: &str, command: Command) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Man::new(command.name(name.to_owned()))
        .render(&mut bytes)
        .map_err(|error| Failure::internal(format!("cannot render the page: {error}")))?;
    Ok(bytes)
}
