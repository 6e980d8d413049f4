//! Raises the cluster's feature level once every registered node supports a newer one.

use nigh_model::State;
use nigh_model::command::{Command, FEATURE_LEVEL};

use crate::control::propose::Control;

/// Takes the step that is due.
pub(super) async fn step(control: &Control) {
    let Some(level) = next_level(&control.decided.state()) else { return };
    match control.propose_as_leader(Command::RaiseFeatureLevel { level }).await {
        Ok((_, Ok(_))) => tracing::info!(level, "the cluster's feature level was raised"),
        Ok((_, Err(refusal))) => tracing::debug!(%refusal, "the feature level stays"),
        Err(error) => tracing::debug!(%error, "the feature level stays"),
    }
}

/// The level to be raised to. A leader of an older build than the rest raises to its own.
fn next_level(state: &State) -> Option<u32> {
    let supported = state.supported_level().min(FEATURE_LEVEL);
    (state.cluster.is_some() && supported > state.level()).then_some(supported)
}
