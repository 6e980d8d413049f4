//! One step of a task after the other, each timed; a failed one does not stop the rest, so that
//! one run shows everything that is wrong.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// How a step that did not fail ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Passed,
    /// It could not look; why, in one line.
    Unchecked(String),
}

/// The steps run so far.
#[derive(Default)]
pub(crate) struct Steps {
    ran: Vec<Ran>,
}

struct Ran {
    name: &'static str,
    took: Duration,
    end: Result<End>,
}

impl Steps {
    /// Runs one more step and says how it went.
    pub(crate) fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<End>) {
        println!("\n==> {name}");
        let began = Instant::now();
        let end = work();
        let ran = Ran { name, took: began.elapsed(), end };
        if let Err(error) = &ran.end {
            eprintln!("{error:#}");
        }
        println!("{}", line(&ran));
        self.ran.push(ran);
    }

    /// Prints a line for each step.
    ///
    /// # Errors
    /// Names the steps that failed.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\n==> all steps");
        for ran in &self.ran {
            println!("{}", line(ran));
        }
        let failed: Vec<_> = self.ran.iter().filter(|ran| ran.end.is_err()).collect();
        let names: Vec<_> = failed.iter().map(|ran| ran.name).collect();
        ensure!(failed.is_empty(), "failed: {}", names.join(", "));
        Ok(())
    }
}

fn line(ran: &Ran) -> String {
    let word = match &ran.end {
        Ok(End::Passed) => "ok".to_owned(),
        Ok(End::Unchecked(why)) => format!("NOT CHECKED: {why}"),
        Err(_) => "FAILED".to_owned(),
    };
    format!("{:<12} {:>7.1} s  {word}", ran.name, ran.took.as_secs_f64())
}

/// Cargo, as it was called for this task.
pub(crate) fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root).stdin(Stdio::null());
    command
}

/// Runs a command to its end; its output goes where ours goes.
///
/// # Errors
/// It cannot be started, or ends with another status than 0.
pub(crate) fn must(mut command: Command) -> Result<End> {
    let shown = shown(&command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(End::Passed)
}

/// A command as one would type it, without the path of the program.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_step_is_named_and_the_others_still_run() {
        let mut steps = Steps::default();
        steps.run("first", || bail!("broken"));
        steps.run("second", || Ok(End::Passed));
        steps.run("third", || bail!("broken too"));
        steps.run("fourth", || Ok(End::Unchecked("nothing to look at".into())));
        assert_eq!(steps.finish().unwrap_err().to_string(), "failed: first, third");
    }

    #[test]
    fn a_step_that_could_not_look_says_so_and_does_not_fail() {
        let end = Ok(End::Unchecked("no network".into()));
        let ran = Ran { name: "advisories", took: Duration::from_millis(1_230), end };
        assert_eq!(line(&ran), "advisories       1.2 s  NOT CHECKED: no network");
    }
}
