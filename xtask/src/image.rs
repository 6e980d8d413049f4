//! `nigh:local`, the container image: a self-contained binary and the certificates of public
//! authorities, on top of nothing.
//!
//! The binary is linked statically against glibc, which needs a target named explicitly (proc
//! macros would be static too otherwise) and so a target folder of its own. What the image is made
//! of is laid out in one folder first: `deploy/Dockerfile` copies it, and `deploy/Dockerfile.source`
//! makes it inside a build stage with the same task. Nothing is pushed anywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::step::{End, Steps, cargo, must};

/// The image's name; compose files and manifests use it.
const NAME: &str = "nigh:local";
/// Cargo's profile for it: stripped, as nobody debugs in an image without a shell.
const PROFILE: &str = "image";
/// Cargo's folder for it, below the root.
const TARGET: &str = "target/image";
/// What the image is made of, below [`TARGET`].
const CONTEXT: &str = "context";
/// Static, so that it needs nothing of the image.
const RUSTFLAGS: &str = "-C target-feature=+crt-static";
/// Addresses to be moved at the start are packed (RELR, glibc 2.36): 1 MB less.
const LINK: [&str; 3] = ["--", "-C", "link-arg=-Wl,-z,pack-relative-relocs"];
/// Most bytes of the image: what one is ready to copy to every machine without a registry.
const BYTES_MAX: u64 = 40_000_000;
/// Characters of a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;
/// How long the container may take that tries the image, in the words of `timeout`.
const TRIAL_LIMIT: [&str; 3] = ["-k", "5", "60"];

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The folder that an image is made of.
    Context,
    /// The image, tried.
    Image,
}

/// Makes the image.
///
/// # Errors
/// A step failed.
pub(crate) fn build(root: &Path, until: Until) -> Result<()> {
    let target = target()?;
    let context = root.join(TARGET).join(CONTEXT);
    let mut steps = Steps::default();
    let mut done = true;
    let mut step = |name, work: &mut dyn FnMut() -> Result<End>| {
        // Each stands on the one before.
        if done {
            steps.run(name, || work().inspect_err(|_| done = false));
        }
    };
    step("binary", &mut || binary(root, &target));
    step("context", &mut || lay_out(root, &target, &context));
    if until == Until::Image {
        step("image", &mut || image(root, &context));
        step("trial", &mut || trial());
    }
    steps.finish()
}

/// The target to name: what this machine is, where that can be linked statically.
fn target() -> Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .stdin(Stdio::null())
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say what it compiles for")?;
    ensure!(
        host.ends_with("-linux-gnu"),
        "an image is made on Linux with glibc, and this is {host}: build it with \
         `docker build -f deploy/Dockerfile.source -t {NAME} .`"
    );
    Ok(host.to_owned())
}

fn binary(root: &Path, target: &str) -> Result<End> {
    let args = ["rustc", "--locked", "--package", "nigh-cli", "--bin", "nigh"];
    let mut build = cargo(root, &args);
    build.args(["--profile", PROFILE, "--target", target, "--target-dir", TARGET]).args(LINK);
    build.env("RUSTFLAGS", RUSTFLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    must(build).context(
        "when the linker finds no libc.a: it is in glibc's development package \
         (Debian: libc6-dev, Fedora: glibc-static)",
    )
}

/// Everything that the image holds, as it lies in it.
fn lay_out(root: &Path, target: &str, context: &Path) -> Result<End> {
    let binary = root.join(TARGET).join(target).join(PROFILE).join("nigh");
    if context.exists() {
        fs::remove_dir_all(context)?;
    }
    // An empty folder that the image gives to its user.
    fs::create_dir_all(context.join("empty"))?;
    fs::copy(&binary, context.join("nigh"))
        .with_context(|| format!("cannot copy {}", binary.display()))?;
    fs::write(context.join("ca-certificates.crt"), authorities())?;
    println!("{} has all of the image", context.display());
    Ok(End::Passed)
}

/// The public authorities as PEM. They are Mozilla's, from a crate: pinned by the lock file and the
/// same on every machine, where a machine's own bundle may hold what only that machine trusts.
fn authorities() -> String {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| pem(der)).collect()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn image(root: &Path, context: &Path) -> Result<End> {
    let version = String::from_utf8(said(Command::new(context.join("nigh")).arg("--version"))?)?;
    let before = id();
    let mut build = docker();
    build.args(["build", "--tag", NAME, "--file"]).arg(dockerfile(root));
    build.arg("--label").arg(format!("org.opencontainers.image.version={}", version.trim()));
    build.arg(context);
    // Without buildx the classic builder does it; both know all that the file says.
    must(build)?;
    // The one before has no name now. Something may still run from it, and then it stays.
    if let Some(before) = before.filter(|before| Some(before) != id().as_ref()) {
        let _ = docker().args(["image", "rm", &before]).stdout(Stdio::null()).output();
    }
    Ok(End::Passed)
}

/// Which image has the name now.
fn id() -> Option<String> {
    let output = docker().args(["image", "inspect", "--format", "{{.Id}}", NAME]).output().ok()?;
    let id = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Some(id).filter(|id| output.status.success() && !id.is_empty())
}

fn dockerfile(root: &Path) -> PathBuf {
    root.join("deploy/Dockerfile")
}

/// Whether it runs as it will: without network, and without a place to write to. And its size.
fn trial() -> Result<End> {
    let mut run = Command::new("timeout");
    run.args(TRIAL_LIMIT).args(["docker", "run", "--rm", "--read-only", "--network", "none"]);
    must({
        run.args(["--cap-drop", "ALL", NAME, "--version"]);
        run
    })?;
    let size = said(docker().args(["image", "inspect", "--format", "{{.Size}}", NAME]))?;
    let bytes: u64 = String::from_utf8(size)?.trim().parse().context("docker says no size")?;
    let megabytes = bytes as f64 / 1e6;
    println!("{NAME} has {megabytes:.1} MB");
    ensure!(bytes <= BYTES_MAX, "{bytes} bytes are more than the {BYTES_MAX} it may have");
    Ok(End::Passed)
}

fn docker() -> Command {
    let mut docker = Command::new("docker");
    docker.stdin(Stdio::null());
    docker
}

/// What a command prints; its stderr goes where ours goes.
fn said(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authorities_are_whole_certificates() {
        let text = authorities();
        let count = text.matches("-----BEGIN CERTIFICATE-----\n").count();
        assert_eq!(count, text.matches("-----END CERTIFICATE-----\n").count());
        assert!(count > 50, "{count} authorities");
        assert!(text.lines().all(|line| !line.is_empty() && line.len() <= PEM_LINE));
    }

    #[test]
    fn pem_is_cut_into_lines() {
        let lines = pem(&[0; 49]);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[1].len(), lines[2]), (PEM_LINE, "AA=="));
    }
}
