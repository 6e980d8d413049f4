//! Opens a damaged folder as a node does, and says what came of it.

use std::fs;
use std::path::Path;

use nigh_model::Digest;
use nigh_storage::{Error, Stores};
use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _, RaftStateMachine as _};

use super::sample::{self, ENGINE, Expected, LAST, PURGED};

/// What may come of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// All is there.
    Harmless,
    /// A part was set aside; it comes again from log, snapshot, peers or the compiler.
    Rebuilt,
    /// The end of the log was cut; the leader sends it again, and what was built on it goes too.
    Cut,
    /// The node does not start, and says why and what to do.
    Refused,
}

/// Opens the folder and looks at everything in it.
pub(crate) fn judge(folder: &Path, expected: &Expected) -> Result<Verdict, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stores = match sample::open(folder) {
        Ok(stores) => stores,
        Err(error) => return refused(&error),
    };
    runtime.block_on(look(stores, expected))
}

fn refused(error: &Error) -> Result<Verdict, String> {
    let text = error.to_string();
    let remedy = match error {
        Error::Corrupt { .. } => "move this node's data folder aside",
        Error::NewerFormat { .. } => "use the newer build",
        _ => return Err(format!("refused with an error that says nothing of damage: {text}")),
    };
    match text.contains(remedy) {
        true => Ok(Verdict::Refused),
        false => Err(format!("refused without a remedy: {text}")),
    }
}

async fn look(mut stores: Stores, expected: &Expected) -> Result<Verdict, String> {
    match stores.data.identity() {
        Ok(Some(identity)) if identity == expected.identity => {}
        Ok(other) => return Err(format!("another identity: {other:?}")),
        Err(error) => return refused(&error),
    }
    let mut verdict = Verdict::Harmless;
    verdict = verdict.max(log(&mut stores, expected).await?);
    verdict = verdict.max(state(&mut stores, expected).await?);
    verdict = verdict.max(artifacts(&stores, expected)?);
    Ok(verdict)
}

async fn log(stores: &mut Stores, expected: &Expected) -> Result<Verdict, String> {
    let vote = stores.log.read_vote().await.map_err(|error| error.to_string())?;
    if vote.as_ref() != Some(&expected.vote) {
        return Err(format!("another vote: {vote:?}"));
    }
    let state = stores.log.get_log_state().await.map_err(|error| error.to_string())?;
    if state.last_purged_log_id != Some(sample::log_id(PURGED)) {
        return Err(format!("purged up to {:?}", state.last_purged_log_id));
    }
    let last = state.last_log_id.map_or(0, |id| id.index);
    if last < expected.last_proven || last > LAST {
        return Err(format!("the log ends at {last}"));
    }
    let found = stores.log.try_get_log_entries(PURGED + 1..last + 1).await;
    let found = found.map_err(|error| error.to_string())?;
    let wanted: Vec<_> = (PURGED + 1..=last).map(sample::entry).collect();
    if found.iter().map(|entry| entry.log_id()).ne(wanted.iter().map(|entry| entry.log_id()))
        || found != wanted
    {
        return Err("the log holds other entries".to_owned());
    }
    Ok(if last < LAST { Verdict::Cut } else { Verdict::Harmless })
}

async fn state(stores: &mut Stores, expected: &Expected) -> Result<Verdict, String> {
    let applied = stores.machine.state().applied;
    if !(PURGED..=LAST).contains(&applied)
        || stores.machine.state() != &expected.states[applied as usize]
    {
        return Err(format!("another state at {applied}"));
    }
    let current = stores.machine.get_current_snapshot().await.map_err(|error| error.to_string())?;
    if let Some(current) = &current {
        let (meta, state) = current.snapshot.decode().map_err(|error| error.to_string())?;
        if meta != current.meta || state != expected.states[state.applied as usize] {
            return Err("another snapshot".to_owned());
        }
    }
    // What is missing the log brings, or the leader.
    sample::apply(stores, (applied + 1..=LAST).map(sample::entry)).await;
    if stores.machine.state() != &expected.states[LAST as usize] {
        return Err("another state in the end".to_owned());
    }
    let whole = current.is_some() && applied == LAST && stores.recovered.is_none();
    Ok(if whole { Verdict::Harmless } else { Verdict::Rebuilt })
}

fn artifacts(stores: &Stores, expected: &Expected) -> Result<Verdict, String> {
    let mut verdict = Verdict::Harmless;
    for (component, compiled) in expected.artifacts.iter() {
        let digest = Digest::of(component);
        match stores.artifacts.read(digest) {
            Ok(bytes) if bytes == *component => {}
            Ok(_) => return Err(format!("{digest} reads as something else")),
            Err(Error::Corrupt { .. } | Error::NoSuchArtifact { .. }) => {
                verdict = Verdict::Rebuilt;
                // As a node does: away with it, and once more from a peer.
                stores.artifacts.remove(digest).map_err(|error| error.to_string())?;
                stores.artifacts.put(digest, component).map_err(|error| error.to_string())?;
                if stores.artifacts.read(digest).ok().as_ref() != Some(component) {
                    return Err(format!("{digest} does not come again"));
                }
            }
            Err(error) => return Err(error.to_string()),
        }
        match stores.artifacts.compiled_path(ENGINE, digest).map_err(|error| error.to_string())? {
            Some(path) if fs::read(&path).ok().as_ref() == Some(compiled) => {}
            Some(path) => return Err(format!("{} would be mapped", path.display())),
            None => verdict = Verdict::Rebuilt,
        }
    }
    Ok(verdict)
}
