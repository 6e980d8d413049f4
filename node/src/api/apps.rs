//! The public `Apps` service: checks what is asked, proposes it, tells how far it is.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use nigh_model::audit::Actor;
use nigh_model::command::{Command, Envelope, Outcome, Reply};
use nigh_model::refusal::Refusal;
use nigh_model::spec::PlacementSpec;
use nigh_model::suggest::nearest;
use nigh_model::{App, AppName, AppSpec, Kind, Revision, RevisionId, State};
use nigh_proto::v1::{self, apps_server};
use nigh_proto::{convert, status};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::authorize::actor;
use crate::agent;
use crate::clock;
use crate::control::{Control, progress, unaware};
use crate::decided::routes_of;
use crate::seen::{Liveness, View};

/// Apps on a page unless asked otherwise, and at most.
const PAGE_SIZE: usize = 1_000;
/// A revision that was committed is known here by then, or this node lags.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// A rollout without news is told again this often, so that a watcher knows it is watched.
const ROLLOUT_INTERVAL: Duration = Duration::from_secs(1);

/// Serves `Apps`.
#[derive(Clone)]
pub(crate) struct AppsService {
    /// The control plane.
    pub(crate) control: Control,
    /// Sees to it that components are on enough nodes.
    pub(crate) copies: agent::Copies,
    /// What is on disk here.
    pub(crate) stock: agent::Stock,
}

impl AppsService {
    async fn propose(
        &self,
        by: Actor,
        request_id: &str,
        command: Command,
    ) -> Result<Reply, Status> {
        let request_id = super::request_id(request_id)?;
        let (_, outcome) = self.control.propose_by(Some(by), request_id, command).await?;
        outcome.map_err(|refusal| self.refused(&refusal))
    }

    fn refused(&self, refusal: &Refusal) -> Status {
        let message = match refusal {
            Refusal::NoSuchApp { app } => no_such_app(&self.control.decided.state(), app.as_str()),
            other => other.to_string(),
        };
        status::of_kind(refusal.kind(), refusal.reason(), message)
    }

    /// Every function has a region to run in, every component is known and has the size said.
    fn check(&self, state: &State, spec: &AppSpec) -> Result<(), Status> {
        spec.check().map_err(|bad| invalid("BAD_SPEC", &bad))?;
        for (name, function) in &spec.functions {
            let allowed = state.nodes.values().any(|node| function.placement.allows(&node.region));
            if !allowed {
                let why = nobody_in(state, &function.placement);
                let message = format!("function.{name}.placement.regions: {why}");
                return Err(invalid("NO_ALLOWED_NODE", &message));
            }
        }
        Ok(())
    }

    /// What the command would answer, without any effect.
    fn rehearse(&self, state: &State, command: &Command) -> Outcome {
        let mut copy = state.clone();
        let index = copy.applied + 1;
        let envelope = Envelope {
            request_id: None,
            at_ms: clock::now_ms(),
            by: None,
            command: command.clone(),
        };
        nigh_model::apply(&mut copy, index, &envelope).reply
    }

    async fn copy_components(&self, spec: &AppSpec) -> Result<(), Status> {
        for digest in spec.components() {
            let users = || spec.functions.iter().filter(|(_, f)| f.component == digest);
            let bytes = self.stock.size_of(digest).await.map_err(|error| error.status())?;
            if let Some(bytes) = bytes
                && let Some((name, function)) = users().find(|(_, f)| f.component_bytes != bytes)
            {
                let said = function.component_bytes;
                let message =
                    format!("function.{name}.component: {digest} has {bytes} bytes and not {said}");
                return Err(invalid("BAD_SPEC", &message));
            }
            let allowed = |region: &_| users().any(|(_, f)| f.placement.allows(region));
            self.copies.ensure_copies(digest, allowed).await.map_err(|error| error.status())?;
        }
        Ok(())
    }

    fn message_of(&self, state: &State, view: &View, app: &App) -> v1::App {
        let shown = app.active_revision().or_else(|| app.newest());
        let functions = shown.into_iter().flat_map(|revision| {
            revision.functions().map(|(function, spec)| {
                let nodes = |warm: bool| {
                    let has = |id: &nigh_model::NodeId| {
                        view.nodes.get(id).is_some_and(|seen| {
                            let set = if warm { &seen.report.warm } else { &seen.report.ready };
                            seen.liveness != Liveness::Dead && set.contains(&function)
                        })
                    };
                    let held = state.nodes.values().filter(|node| has(&node.id));
                    let held = held.filter(|node| spec.placement.allows(&node.region));
                    held.map(|node| node.name.to_string()).collect::<Vec<_>>()
                };
                v1::Function {
                    name: function.function.to_string(),
                    routes: routes_of(&app.name, &revision.spec, &function.function),
                    component: spec.component.to_string(),
                    bytes: spec.component_bytes,
                    ready_nodes: nodes(false),
                    warm_nodes: nodes(true),
                }
            })
        });
        v1::App {
            name: app.name.to_string(),
            revision: app.active.map(|id| id.to_string()).unwrap_or_default(),
            rollout: app.rollout.map(|id| id.to_string()).unwrap_or_default(),
            functions: functions.collect(),
            etag: app.changed.to_string(),
        }
    }
}

#[tonic::async_trait]
impl apps_server::Apps for AppsService {
    async fn deploy(
        &self,
        request: Request<v1::DeployRequest>,
    ) -> Result<Response<v1::DeployResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let request = request.into_inner();
        let app = app_name(&request.app)?;
        let spec = request.spec.ok_or_else(|| invalid("BAD_SPEC", "the request has no spec"))?;
        let spec = AppSpec::try_from(spec).map_err(|error| invalid("BAD_SPEC", &error))?;
        // What is compared with must be the newest; and without a quorum nothing is copied.
        self.control.read_barrier().await?;
        let state = self.control.decided.state();
        self.check(&state, &spec)?;
        let routes: Vec<String> =
            spec.functions.keys().flat_map(|name| routes_of(&app, &spec, name)).collect();
        let command = Command::PutRevision { app, spec };
        self.rehearse(&state, &command).map_err(|refusal| self.refused(&refusal))?;
        if request.validate_only {
            return Ok(Response::new(v1::DeployResponse {
                revision: String::new(),
                changed: false,
                routes,
            }));
        }
        if let Command::PutRevision { spec, .. } = &command {
            self.copy_components(spec).await?;
        }
        match self.propose(by, &request.request_id, command).await? {
            Reply::Revision { id, changed } => {
                let revision = id.to_string();
                Ok(Response::new(v1::DeployResponse { revision, changed, routes }))
            }
            other => Err(Status::internal(format!("a deploy answered {other:?}"))),
        }
    }

    async fn activate(
        &self,
        request: Request<v1::ActivateRequest>,
    ) -> Result<Response<v1::ActivateResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let request = request.into_inner();
        let app = app_name(&request.app)?;
        let revision = revision_id(&request.revision)?;
        let command = Command::RollOut { app, revision };
        match self.propose(by, &request.request_id, command).await? {
            Reply::Revision { changed, .. } => Ok(Response::new(v1::ActivateResponse { changed })),
            other => Err(Status::internal(format!("an activation answered {other:?}"))),
        }
    }

    async fn get(&self, request: Request<v1::GetAppRequest>) -> Result<Response<v1::App>, Status> {
        let state = self.control.decided.state();
        let app = find(&state, &request.into_inner().app)?;
        let view = self.control.seen.now();
        Ok(Response::new(self.message_of(&state, &view, app)))
    }

    async fn list(
        &self,
        request: Request<v1::ListAppsRequest>,
    ) -> Result<Response<v1::ListAppsResponse>, Status> {
        let request = request.into_inner();
        let size = match request.page_size as usize {
            0 => PAGE_SIZE,
            given => given.min(PAGE_SIZE),
        };
        let state = self.control.decided.state();
        let view = self.control.seen.now();
        let after = request.page_token.as_str();
        let mut rest =
            state.apps.values().filter(|app| after.is_empty() || app.name.as_str() > after);
        let apps: Vec<v1::App> =
            rest.by_ref().take(size).map(|app| self.message_of(&state, &view, app)).collect();
        let more = rest.next().is_some();
        let next_page_token =
            apps.last().filter(|_| more).map(|app| app.name.clone()).unwrap_or_default();
        Ok(Response::new(v1::ListAppsResponse { apps, next_page_token }))
    }

    async fn list_revisions(
        &self,
        request: Request<v1::ListRevisionsRequest>,
    ) -> Result<Response<v1::ListRevisionsResponse>, Status> {
        let state = self.control.decided.state();
        let app = find(&state, &request.into_inner().app)?;
        let revisions = app.revisions.values().rev().map(|revision| v1::Revision {
            id: revision.id.to_string(),
            spec: Some((&revision.spec).into()),
            created: Some(convert::timestamp_ms(revision.created_ms)),
            active: app.active == Some(revision.id),
        });
        Ok(Response::new(v1::ListRevisionsResponse { revisions: revisions.collect() }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteAppRequest>,
    ) -> Result<Response<v1::DeleteAppResponse>, Status> {
        let by = actor(&request, self.control.own)?;
        let request = request.into_inner();
        let app = app_name(&request.app)?;
        self.propose(by, &request.request_id, Command::DeleteApp { app }).await?;
        Ok(Response::new(v1::DeleteAppResponse {}))
    }

    type WatchRolloutStream = Pin<Box<dyn Stream<Item = Result<v1::Rollout, Status>> + Send>>;

    async fn watch_rollout(
        &self,
        request: Request<v1::WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let request = request.into_inner();
        let app = app_name(&request.app)?;
        let revision = revision_id(&request.revision)?;
        // A revision's id is a log index: a node that lags gets a moment to know it.
        let known_here = self.control.decided.reached(revision.0);
        let _ = tokio::time::timeout(KNOWN_TIMEOUT, known_here).await;
        let state = self.control.decided.state();
        let known = find(&state, app.as_str())?;
        if !known.revisions.contains_key(&revision) {
            let refusal = Refusal::NoSuchRevision { app, revision };
            return Err(self.refused(&refusal));
        }
        let (rollouts, stream) = mpsc::channel(4);
        tokio::spawn(tell_rollout(self.control.clone(), app, revision, rollouts));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Tells how far a rollout is, on each change, until it is over or nobody listens.
async fn tell_rollout(
    control: Control,
    app: AppName,
    revision: RevisionId,
    rollouts: mpsc::Sender<Result<v1::Rollout, Status>>,
) {
    let mut decided = control.decided.changes();
    let mut seen = control.seen.changes();
    let mut told: Option<v1::Rollout> = None;
    let mut again = tokio::time::interval(ROLLOUT_INTERVAL);
    loop {
        decided.borrow_and_update();
        seen.borrow_and_update();
        let rollout = rollout_now(&control, &app, revision);
        let over = rollout.active || rollout.superseded;
        if told.as_ref() != Some(&rollout) {
            if rollouts.send(Ok(rollout.clone())).await.is_err() || over {
                return;
            }
            told = Some(rollout);
        }
        tokio::select! {
            changed = decided.changed() => if changed.is_err() { return },
            changed = seen.changed() => if changed.is_err() { return },
            _ = again.tick() => {}
            () = rollouts.closed() => return,
        }
    }
}

fn rollout_now(control: &Control, app: &AppName, revision: RevisionId) -> v1::Rollout {
    let state = control.decided.state();
    let known = state.apps.get(app).and_then(|app| Some((app, app.revisions.get(&revision)?)));
    let superseded = |app: &App| app.active != Some(revision) && app.rollout != Some(revision);
    let Some((app, revision)) = known.filter(|(app, _)| !superseded(app)) else {
        return v1::Rollout { superseded: true, ..v1::Rollout::default() };
    };
    rollout_of(&state, &control.seen.now(), app, revision)
}

fn rollout_of(state: &State, view: &View, app: &App, revision: &Revision) -> v1::Rollout {
    let progress = progress(state, view, app, revision);
    // Until the first plan nothing is assigned; that is not the end of it.
    let served = !progress.is_empty() && progress.iter().all(|node| node.ready || !node.alive);
    let nodes = progress.iter().filter_map(|progress| {
        let node = state.nodes.get(&progress.node)?;
        Some(v1::RolloutNode {
            node: node.name.to_string(),
            region: node.region.to_string(),
            ready: progress.ready,
            alive: progress.alive,
        })
    });
    let is_active = app.active == Some(revision.id);
    let behind = if is_active { unaware(view, app) } else { Vec::new() };
    let name = |id| state.nodes.get(&id).map(|node| node.name.to_string());
    v1::Rollout {
        nodes: nodes.collect(),
        active: served && is_active && behind.is_empty(),
        superseded: false,
        unaware: behind.into_iter().filter_map(name).collect(),
    }
}

fn app_name(given: &str) -> Result<AppName, Status> {
    AppName::new(given).map_err(|error| invalid("BAD_NAME", &error))
}

fn revision_id(given: &str) -> Result<RevisionId, Status> {
    given.parse().map_err(|error: nigh_model::ids::BadName| invalid("BAD_NAME", &error))
}

fn find<'s>(state: &'s State, app: &str) -> Result<&'s App, Status> {
    state
        .apps
        .get(app)
        .map(AsRef::as_ref)
        .ok_or_else(|| status::of_kind(Kind::NotFound, "NO_SUCH_APP", no_such_app(state, app)))
}

fn no_such_app(state: &State, app: &str) -> String {
    match nearest(app, state.apps.keys().map(AppName::as_str)) {
        Some(like) => format!("no app is named `{app}`; did you mean `{like}`?"),
        None => format!("no app is named `{app}`"),
    }
}

/// Says that no node is where this allows, and where nodes are.
pub(super) fn nobody_in(state: &State, placement: &PlacementSpec) -> String {
    let mut regions: Vec<&str> = state.nodes.values().map(|node| node.region.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    let wanted: Vec<&str> = placement.regions.iter().map(|p| p.as_str()).collect();
    let like = wanted.iter().find_map(|wanted| nearest(wanted, regions.iter().copied()));
    let hint = like.map(|like| format!("; did you mean `{like}`?")).unwrap_or_default();
    format!("no node is in {}; the cluster has {}{hint}", wanted.join(", "), regions.join(", "))
}

fn invalid(reason: &str, message: &(impl std::fmt::Display + ?Sized)) -> Status {
    status::of_kind(Kind::Invalid, reason, message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_no_app_name() {
        let digest = nigh_model::Digest::of(b"x").to_string();
        assert!(app_name(&digest).is_err());
    }
}
