//! Starts the compilers that make the guests. Installs nothing: what is missing is named.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Build, EXAMPLES, Guest, HOSTILE, TOOL};

/// Builds all `guests` and puts each component where it is committed.
///
/// # Errors
/// A missing tool, a failed build, or a file that cannot be read or written.
pub(super) fn all(root: &Path, guests: &[Guest]) -> Result<()> {
    let toolchain = Toolchain::find(root)?;
    let zig = zig()?;
    say(toolchain.describe());
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let target = root.join(target).join("guests");

    toolchain.build(&root.join(EXAMPLES), &target, &["--workspace"])?;
    toolchain.build(&root.join(HOSTILE), &target, &["--examples"])?;
    run(cargo(&root.join(TOOL), &target).args(["build", "--locked"]))?;
    let tool = format!("guest-tool{}", env::consts::EXE_SUFFIX);
    let tool = target.join("debug").join(tool);

    for guest in guests {
        let component = root.join(&guest.component);
        match &guest.build {
            Build::Rust { artifact } => {
                let release = target.join(toolchain.triple()).join("release");
                fs::copy(release.join(artifact), &component)
                    .with_context(|| format!("cannot copy {}", artifact.display()))?;
            }
            Build::C { file } => {
                build_c(&zig, &tool, &target.join("c"), &root.join(file), &component)?;
            }
            Build::Wat { file } => {
                run(Command::new(&tool).arg("wat").arg(root.join(file)).arg(&component))?;
            }
        }
    }
    Ok(())
}

/// A way to compile Rust for WebAssembly components.
enum Toolchain {
    /// The rustup target that makes components itself.
    Rustup,
    /// Debian's compiler, which brings the library's sources, with this toolchain's linkers.
    Debian { linkers: PathBuf },
}

impl Toolchain {
    fn find(root: &Path) -> Result<Self> {
        let rustup = Command::new("rustup").args(["target", "list", "--installed"]).output();
        let targets = rustup.map(|output| output.stdout).unwrap_or_default();
        if String::from_utf8_lossy(&targets).lines().any(|target| target == "wasm32-wasip2") {
            return Ok(Self::Rustup);
        }
        let library = "/usr/lib/rustlib/src/rust/library";
        ensure!(
            Path::new("/usr/bin/rustc").exists() && Path::new(library).exists(),
            "no way to compile guests: `rustup target add wasm32-wasip2`, or on Debian \
             `apt-get install rustc-web rust-web-src`"
        );
        let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]), root)?;
        let version = output_of(Command::new("rustc").arg("-vV"), root)?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("rustc does not name its host")?;
        Ok(Self::Debian { linkers: Path::new(&sysroot).join("lib/rustlib").join(host).join("bin") })
    }

    fn describe(&self) -> &'static str {
        match self {
            Self::Rustup => "compiling with the installed target wasm32-wasip2",
            Self::Debian { .. } => {
                "no target wasm32-wasip2; compiling with Debian's /usr/bin/rustc and its sources"
            }
        }
    }

    fn triple(&self) -> &'static str {
        match self {
            Self::Rustup => "wasm32-wasip2",
            Self::Debian { .. } => "wasm32-unknown-unknown",
        }
    }

    fn build(&self, workspace: &Path, target: &Path, args: &[&str]) -> Result<()> {
        let mut command = cargo(workspace, target);
        command.args(["build", "--release", "--locked", "--target", self.triple()]).args(args);
        command.env("CARGO_ENCODED_RUSTFLAGS", remapped_paths()?);
        if let Self::Debian { linkers } = self {
            // The folder goes first, or an older wasm-ld on the path is taken.
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = [linkers.join("gcc-ld")].into_iter().chain(env::split_paths(&path));
            command.arg("-Zbuild-std=std,panic_abort");
            command.env("PATH", env::join_paths(folders)?);
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
            let linker = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";
            command.env(linker, linkers.join("wasm-component-ld"));
        }
        run(&mut command)
    }
}

/// Compiler flags that keep the paths of this machine out of the panic messages in a component.
fn remapped_paths() -> Result<OsString> {
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or(home).context("no home folder")?;
    let mut flags = OsString::from("--remap-path-prefix=/usr/lib/rustlib/src/rust=rust");
    for registry in fs::read_dir(home.join("registry/src")).into_iter().flatten() {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(registry?.path());
        flags.push("=crates");
    }
    Ok(flags)
}

fn cargo(folder: &Path, target: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder).env("CARGO_TARGET_DIR", target).env_remove("RUSTFLAGS");
    command
}

/// The command that runs zig: itself, or the one that Python's `ziglang` brings.
fn zig() -> Result<Vec<&'static str>> {
    for command in [vec!["zig"], vec!["python3", "-m", "ziglang"], vec!["python-zig"]] {
        let version = Command::new(command[0]).args(&command[1..]).arg("version").output();
        if version.is_ok_and(|output| output.status.success()) {
            return Ok(command);
        }
    }
    bail!("no zig to compile C with: install it, or `pip install ziglang`")
}

fn build_c(zig: &[&str], tool: &Path, work: &Path, file: &Path, component: &Path) -> Result<()> {
    run(Command::new(tool).arg("bindings").arg(work))?;
    let core = work.join("core.wasm");
    let flags = ["-mexec-model=reactor", "-Os", "-s", "-Wall", "-Wextra", "-Wno-unused-parameter"];
    let bindings = ["proxy.c", "proxy_component_type.o"].map(|name| work.join(name));
    let mut compile = Command::new(zig[0]);
    compile.args(&zig[1..]).args(["cc", "--target=wasm32-wasi"]).args(flags);
    run(compile.arg("-I").arg(work).arg(file).args(bindings).arg("-o").arg(&core))?;
    run(Command::new(tool).arg("encode").arg(&core).arg(component))
}

fn output_of(command: &mut Command, folder: &Path) -> Result<String> {
    let output = command.current_dir(folder).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn say(line: &str) {
    // Nobody reads progress once stderr is gone.
    let _ = writeln!(std::io::stderr(), "{line}");
}
