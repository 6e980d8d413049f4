//! cargo-deny: the licences, sources and duplicates of what we depend on, and known
//! vulnerabilities. `deny.toml` has the rules.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::step::{End, cargo, must};

/// The one version used, so that the same tree gives the same answer everywhere.
const VERSION: &str = "0.20.2";
/// Where it is installed, below the root: a cache, not part of the machine.
const TOOLS: &str = "target/tools";
/// It runs for a second and is compiled for minutes: compile it fast.
const QUICK_PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
];

/// Installs cargo-deny unless this version is there.
///
/// # Errors
/// The installation failed.
pub(crate) fn install(root: &Path) -> Result<End> {
    if let Some(program) = find(root) {
        println!("{} {VERSION} is there", program.display());
        return Ok(End::Passed);
    }
    let args = ["install", "cargo-deny", "--version", VERSION, "--locked", "--root", TOOLS];
    let mut install = cargo(root, &args);
    // Not for us: the tool is built for this machine, whatever we build for.
    install.env_remove("RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    install.envs(QUICK_PROFILE.iter().copied());
    must(install)
}

/// Checks bans, licences and sources.
///
/// # Errors
/// A rule is broken, or cargo-deny is not installed.
pub(crate) fn rules(root: &Path) -> Result<End> {
    must(deny(root, &["--locked", "check", "bans", "licenses", "sources"])?)
}

/// Checks for advisories. Their database lives on a host of its own; when that cannot be
/// reached, nothing is checked and the step says so.
///
/// # Errors
/// An advisory applies, or cargo-deny itself failed.
pub(crate) fn advisories(root: &Path) -> Result<End> {
    let mut command = deny(root, &["--locked", "--format", "json", "check", "advisories"])?;
    // A host that is out of reach must not be asked for a password.
    command.env("GIT_TERMINAL_PROMPT", "0");
    let output = command.output().context("cannot start cargo-deny")?;
    judge(output.status.success(), &String::from_utf8_lossy(&output.stderr))
}

/// What a run of `check advisories` means: its status and a JSON object per line.
fn judge(success: bool, lines: &str) -> Result<End> {
    if success {
        return Ok(End::Passed);
    }
    let mut findings = Vec::new();
    let mut errors = Vec::new();
    for line in lines.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            errors.push(line.to_owned());
            continue;
        };
        let fields = &line["fields"];
        let message = fields["message"].as_str().unwrap_or_default().to_owned();
        match (line["type"].as_str(), fields["severity"].as_str(), fields["level"].as_str()) {
            (Some("diagnostic"), Some("error"), _) => findings.push(finding(fields, message)),
            (Some("log"), _, Some("ERROR")) => errors.push(message),
            _ => {}
        }
    }
    if !findings.is_empty() {
        bail!("advisories apply:\n  {}", findings.join("\n  "));
    }
    if errors.iter().any(|error| error.contains("failed to fetch advisory database")) {
        return Ok(End::Unchecked("could not fetch the advisory database".into()));
    }
    bail!("cargo-deny failed:\n  {}", errors.join("\n  "))
}

/// `RUSTSEC-… package version: message`.
fn finding(fields: &Value, message: String) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let package = &fields["graphs"][0]["Krate"];
    let words =
        [text(&fields["advisory"]["id"]), text(&package["name"]), text(&package["version"])];
    let known: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    if known.is_empty() { message } else { format!("{}: {message}", known.join(" ")) }
}

fn deny(root: &Path, args: &[&str]) -> Result<Command> {
    let program = find(root).context("cargo-deny is not installed")?;
    let mut command = Command::new(program);
    command.args(args).current_dir(root).stdin(Stdio::null());
    Ok(command)
}

/// The program of this version: our own, or one on the path.
fn find(root: &Path) -> Option<PathBuf> {
    let name = format!("cargo-deny{}", env::consts::EXE_SUFFIX);
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root.join(TOOLS).join("bin")).chain(env::split_paths(&path));
    folders.map(|folder| folder.join(&name)).find(|program| {
        let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        output.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deny {VERSION}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNREACHABLE: &str = r#"{"type":"log","fields":{"level":"ERROR","message":"failed to fetch advisory database https://example.com"}}"#;
    const FOUND: &str = r#"{"type":"diagnostic","fields":{"severity":"error","message":"A hole","advisory":{"id":"RUSTSEC-2026-0001"},"graphs":[{"Krate":{"name":"leaky","version":"1.0.0"}}]}}"#;
    const WARNED: &str =
        r#"{"type":"diagnostic","fields":{"severity":"warning","message":"not used"}}"#;

    #[test]
    fn a_database_out_of_reach_is_said_and_fails_nothing() {
        let end = judge(false, &format!("{WARNED}\n{UNREACHABLE}")).unwrap();
        assert_eq!(end, End::Unchecked("could not fetch the advisory database".into()));
    }

    #[test]
    fn an_advisory_fails_even_when_a_database_is_out_of_reach() {
        let error = judge(false, &format!("{UNREACHABLE}\n{FOUND}")).unwrap_err();
        assert!(error.to_string().contains("RUSTSEC-2026-0001 leaky 1.0.0: A hole"), "{error}");
    }

    #[test]
    fn any_other_failure_is_one() {
        let log = r#"{"type":"log","fields":{"level":"ERROR","message":"bad deny.toml"}}"#;
        assert!(judge(false, log).unwrap_err().to_string().contains("bad deny.toml"));
        assert!(judge(false, "").is_err());
        assert!(judge(false, "not json").unwrap_err().to_string().contains("not json"));
    }

    #[test]
    fn a_clean_run_passes() {
        assert_eq!(judge(true, WARNED).unwrap(), End::Passed);
    }
}
