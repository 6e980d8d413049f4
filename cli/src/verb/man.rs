//! `nigh man`: the manual page, from the same source as the help.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use nigh_model::Kind;

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::output;
use crate::version::VERSION;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh man | man -l -
  nigh man operator raft | man -l -
  nigh man --dir ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// Print the page of this verb
    verb: Vec<String>,
    /// Write every page into this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result {
    let mut cli = Cli::command();
    cli.build();
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|error| {
                Failure::invalid(format!("cannot make {}: {error}", dir.display()))
            })?;
            write_all("nigh", &cli, dir)
        }
        None => {
            let (name, command) = find(&cli, &args.verb)?;
            output::raw(&page(&name, command)?)
        }
    }
}

/// The command that these words lead to, and what its page is called.
fn find<'a>(cli: &'a Command, verb: &[String]) -> Result<(String, &'a Command)> {
    let (mut name, mut command) = ("nigh".to_owned(), cli);
    for word in verb {
        let names = command.get_subcommands().map(|verb| verb.get_name());
        let unknown =
            Failure::new(Kind::NotFound, format!("no verb is named `{word}`")).nearest(word, names);
        command = command.find_subcommand(word).ok_or(unknown)?;
        name = format!("{name}-{word}");
    }
    Ok((name, command))
}

/// The page of a command, and those of all below it.
fn write_all(name: &str, command: &Command, dir: &Path) -> Result {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(name, command)?)
        .map_err(|error| Failure::invalid(format!("cannot write {}: {error}", path.display())))?;
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        write_all(&format!("{name}-{}", verb.get_name()), verb, dir)?;
    }
    Ok(())
}

fn page(name: &str, command: &Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone().name(name.to_owned()))
        // An empty one would be taken for missing, and the version for the date.
        .date(" ")
        .source(format!("nigh {VERSION}"))
        .manual("nigh")
        .render(&mut page)
        .map_err(|error| Failure::internal(format!("cannot render the page: {error}")))?;
    let page = String::from_utf8_lossy(&page).replace("\n.SH EXTRA\n", "\n.SH EXAMPLES\n");
    Ok(page.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_version_and_examples() {
        let mut cli = Cli::command();
        cli.build();
        let dir = tempfile::tempdir().unwrap();
        write_all("nigh", &cli, dir.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        for name in ["nigh", "nigh-deploy", "nigh-operator", "nigh-operator-raft"] {
            let page = read(&format!("{name}.1"));
            let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
            assert_eq!(title, format!(".TH {name} 1 \" \" \"nigh {VERSION}\" nigh"));
        }
        for verb in cli.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let page = read(&format!("nigh-{}.1", verb.get_name()));
            assert!(page.contains(".SH EXAMPLES"), "{page}");
        }
    }

    #[test]
    fn an_unknown_verb_is_answered_with_the_nearest() {
        let mut cli = Cli::command();
        cli.build();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(find(&cli, &words("operator raft")).unwrap().0, "nigh-operator-raft");
        for (wrong, right) in [("deplyo", "`deploy`"), ("operator raf", "`raft`")] {
            let failure = find(&cli, &words(wrong)).map(|_| ()).unwrap_err();
            assert_eq!(failure.exit(), 3);
            assert!(failure.to_string().contains(right), "{failure}");
        }
    }
}
