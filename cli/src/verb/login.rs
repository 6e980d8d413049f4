//! `nigh login`.

use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::credentials::{self, Credentials};
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use crate::tls;

/// The folder that the file is put into is its owner's alone, where it has to be made.
const FOLDER_MODE: u32 = 0o700;
/// Most that is read of standard input: a credentials file is some kilobytes.
const INPUT_BYTES_MAX: u64 = 256 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh login admin.toml
  ssh edge-1 sudo cat /var/lib/nigh/admin.toml | nigh login -

Commands look for credentials in this order: --credentials FILE, NIGH_CREDENTIALS, what was
stored here ($XDG_CONFIG_HOME/nigh/credentials.toml, else ~/.config/nigh/credentials.toml),
and .nigh/admin.toml of a `nigh up` in the folder that one is in.")]
pub(crate) struct Args {
    /// A credentials file, or - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
}

pub(crate) fn run(args: &Args, format: Format) -> Result {
    let credentials = read(&args.file)?;
    tls::client(&credentials.ca)?;
    let to = credentials::login_file().ok_or_else(|| {
        Failure::usage("there is no folder for the credentials")
            .why("neither XDG_CONFIG_HOME nor HOME is set")
            .hint("name the file with --credentials or NIGH_CREDENTIALS instead")
    })?;
    store(&credentials, &to).map_err(|error| {
        Failure::internal(format!("cannot write {}", to.display())).why(error.to_string())
    })?;
    match format {
        Format::Json => output::json(&serde_json::json!({
            "file": to,
            "cluster": credentials.cluster,
            "api": credentials.api,
        })),
        Format::Table => {
            output::note(format!(
                "cluster {} is asked from now on; its credentials are in {}",
                credentials.cluster,
                to.display()
            ));
            Ok(())
        }
    }
}

/// A file that others may read is taken all the same: what is stored is not for them.
fn read(file: &Path) -> Result<Credentials> {
    if file != Path::new("-") {
        return Credentials::read_any(file);
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::invalid("cannot read standard input").why(error.to_string()))?;
    Credentials::parse(Path::new("standard input"), &text)
}

fn store(credentials: &Credentials, to: &Path) -> std::io::Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    }
    credentials.write(to)
}
