//! The settings of `nigh node` in its file: the same as its flags.

use std::path::{Path, PathBuf};

use super::{Flags, SLOTS_MAX, THREADS_MAX};
use crate::failure::{Failure, Result};
use crate::logging::LogFormat;
use crate::section::{self, Bad, Section};

/// What a file says.
pub(super) fn read(path: &Path) -> Result<Flags> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("--config: cannot read {}", path.display())).why(error.to_string())
    })?;
    let table = section::parse(path, &text)?;
    of_file(&Section::root(&table, "a node's configuration")).map_err(|bad| bad.failure(path))
}

fn of_file(root: &Section<'_>) -> std::result::Result<Flags, Bad> {
    root.only(&[
        "name",
        "region",
        "zone",
        "location",
        "data",
        "http",
        "https",
        "https_certificates",
        "https_self_signed",
        "https_redirect",
        "api",
        "peer",
        "gossip",
        "metrics",
        "advertise",
        "rtt_matrix",
        "bootstrap",
        "join",
        "join_token",
        "write_join_token",
        "identity_key",
        "certificate_life",
        "replace_after",
        "slots",
        "guest_threads",
        "compile_threads",
        "loaded_memory",
        "log_format",
    ])?;
    let text = |key| Ok(root.string(key)?.map(str::to_owned));
    let join: Vec<String> = root.strings("join")?.into_iter().map(str::to_owned).collect();
    let advertise = root.one_or_more("advertise")?.into_iter().map(str::to_owned);
    let advertise: Vec<String> = advertise.collect();
    Ok(Flags {
        name: text("name")?,
        region: text("region")?,
        zone: text("zone")?,
        location: text("location")?,
        data: root.string("data")?.map(PathBuf::from),
        http: text("http")?,
        https: text("https")?,
        https_certificates: root.string("https_certificates")?.map(PathBuf::from),
        https_self_signed: root.boolean("https_self_signed")?,
        https_redirect: redirect_of_file(root)?,
        api: text("api")?,
        peer: text("peer")?,
        gossip: text("gossip")?,
        metrics: text("metrics")?,
        advertise: Some(advertise).filter(|hosts| !hosts.is_empty()),
        rtt_matrix: root.string("rtt_matrix")?.map(PathBuf::from),
        bootstrap: root.boolean("bootstrap")?,
        join: Some(join).filter(|join| !join.is_empty()),
        join_token: text("join_token")?,
        write_join_token: root.string("write_join_token")?.map(PathBuf::from),
        identity_key: root.string("identity_key")?.map(PathBuf::from),
        certificate_life: text("certificate_life")?,
        replace_after: text("replace_after")?,
        slots: root.count("slots", SLOTS_MAX)?,
        guest_threads: root.count("guest_threads", THREADS_MAX)?,
        compile_threads: root.count("compile_threads", THREADS_MAX)?,
        loaded_memory: text("loaded_memory")?,
        log_format: log_format(root)?,
    })
}

/// True, false, or a port.
fn redirect_of_file(root: &Section<'_>) -> std::result::Result<Option<String>, Bad> {
    let key = "https_redirect";
    if let Ok(redirect) = root.boolean(key) {
        return Ok(redirect.map(|redirect| redirect.to_string()));
    }
    let port = root.count(key, u16::MAX.into());
    let port = port.map_err(|_| root.bad(key, "write true, false, or a port from 1 to 65535"))?;
    Ok(port.map(|port| port.to_string()))
}

fn log_format(root: &Section<'_>) -> std::result::Result<Option<LogFormat>, Bad> {
    let Some(name) = root.string("log_format")? else { return Ok(None) };
    let known = <LogFormat as clap::ValueEnum>::from_str(name, false);
    known.map(Some).map_err(|_| {
        root.bad("log_format", format!("`{name}` is none of {}", LogFormat::NAMES.join(", ")))
    })
}
