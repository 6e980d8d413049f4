//! The one way of every call: route → admit → pick → run here or forward.

use std::sync::Arc;

use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use nigh_model::{NodeId, NodeName, Region, RequestId, RevisionId};
use nigh_placement::Start;
use nigh_runtime::{Describe, RequestBody};
use tokio::time::Instant;

use super::body::AnswerBody;
use super::deadline::Deadline;
use super::forward::{Outbound, Way};
use super::headers::Description;
use super::pick::{self, Here, Met};
use super::problem::Problem;
use super::reasons::Outcome;
use super::replay::Replay;
use super::retry::{Ended, Progress, is_idempotent, may_retry};
use super::run::{Errand, Prepared};
use super::timings::Timings;
use super::{Gateway, reasons};
use crate::decided::Target;
use crate::telemetry::Place;

/// A call, its function found.
pub(crate) struct Ask {
    /// What is called.
    pub(crate) target: Target,
    /// The request as the guest shall see it, but for its description.
    pub(crate) request: Request<RequestBody>,
    /// What the guest is told of it besides.
    pub(crate) description: Description,
    /// Its id.
    pub(crate) request_id: RequestId,
    /// When it arrived.
    pub(crate) began: Instant,
    /// When it is over.
    pub(crate) deadline: Deadline,
}

/// Where and how a call ran.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    /// The node that ran it.
    pub(crate) node: NodeName,
    /// That node's region.
    pub(crate) region: Region,
    /// What ran.
    pub(crate) revision: RevisionId,
    /// Whether it waited for a load.
    pub(crate) cold: bool,
    /// Whether it ran on another node than it entered.
    pub(crate) forwarded: bool,
    /// Where its time went.
    pub(crate) timings: Timings,
}

/// A function's answer.
pub(crate) struct Answer {
    /// The answer, its body still to come.
    pub(crate) response: Response<AnswerBody>,
    /// Where and how it ran.
    pub(crate) execution: Execution,
}

impl Answer {
    /// How the call is counted.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.response.status().is_server_error() { Outcome::FunctionError } else { Outcome::Ok }
    }

    /// Which node answered.
    pub(crate) fn place(&self) -> Place {
        if self.execution.forwarded { Place::There } else { Place::Here }
    }
}

impl Gateway {
    /// Calls a function on the nearest node that is warm.
    pub(crate) async fn call(&self, ask: Ask) -> Result<Answer, Problem> {
        let core = self.core();
        check_length(&ask)?;
        if !core.shelf.is_warm(&ask.target.function) || self.is_draining() {
            return Box::pin(self.call_best(ask, None)).await;
        }
        // No node is nearer than this one: there is nothing to choose.
        let route = ask.began.elapsed();
        match self.prepare(&ask.target, ask.deadline).await {
            Ok(prepared) => {
                let Ask { target, request, description, request_id, deadline, .. } = ask;
                let errand = Errand {
                    target: &target,
                    request_id: &request_id,
                    entry: &core.name,
                    deadline,
                };
                let describe: Describe = Box::new(move |headers| description.tell(headers));
                self.run_here(prepared, errand, request, Some(describe), route).await
            }
            Err(full) if self.may_go_elsewhere(&full) => {
                Box::pin(self.call_best(ask, Some(full))).await
            }
            Err(problem) => Err(problem),
        }
    }

    /// Whether a call that this node has refused may go to another that is warm.
    fn may_go_elsewhere(&self, refusal: &Problem) -> bool {
        refusal.reason() == reasons::NO_CAPACITY
            || (refusal.reason() == reasons::OVERLOADED && self.core().admission.may_send_on())
    }

    /// Calls a function on the best node, and on the next best when that does not take it.
    /// `full`: this node has refused already.
    async fn call_best(&self, ask: Ask, full: Option<Problem>) -> Result<Answer, Problem> {
        let core = self.core();
        let Ask { target, mut request, description, request_id, began, deadline } = ask;
        description.tell(request.headers_mut());
        let order = self.order(&target, full.is_some());
        let route = began.elapsed();
        let idempotent = is_idempotent(request.method(), request.headers());
        let (head, body) = request.into_parts();
        let body = Arc::new(Replay::new(body, idempotent));
        let refusals = u32::from(full.is_some());
        let mut progress =
            Progress { tries: 0, refusals, idempotent, body_sent: 0, replayable: true };
        let mut last = full;
        for id in order {
            progress.tries += 1;
            if progress.tries > 1 {
                core.metrics.retried();
            }
            let (ended, problem) = if id == core.own {
                match self.prepare(&target, deadline).await {
                    Ok(prepared) => {
                        let reading = body.read();
                        body.accepted();
                        let request = Request::from_parts(head, reading.boxed_unsync());
                        let (target, request_id, entry) = (&target, &request_id, &core.name);
                        let errand = Errand { target, request_id, entry, deadline };
                        return self.run_here(prepared, errand, request, None, route).await;
                    }
                    Err(problem) => (Ended::Refused, problem),
                }
            } else {
                let node = core.decided.now().state.nodes.get(&id).cloned();
                let Some(node) = node else { continue };
                if progress.tries == 1 {
                    core.retries.deposit();
                    core.metrics.forwarded();
                    if target.spec.placement.allows(&core.region) {
                        core.shelf.forwarded(&target.function);
                    }
                }
                let call = Outbound {
                    target: &target,
                    head: &head,
                    url: &description.url,
                    request_id: &request_id,
                    deadline,
                };
                match self.forward(&node, call, &body).await {
                    Way::Answered(far) => {
                        let mut timings =
                            far.timings.with_hop(began.elapsed().saturating_sub(route));
                        timings.route = route;
                        core.metrics.hopped(timings.hop);
                        let execution = Execution {
                            node: node.name.clone(),
                            region: node.region.clone(),
                            revision: target.function.revision,
                            cold: far.cold,
                            forwarded: true,
                            timings,
                        };
                        return Ok(Answer { response: far.response, execution });
                    }
                    Way::Failed(problem) => return Err(problem),
                    Way::Ended(ended, problem) => (ended, problem),
                }
            };
            tracing::debug!(request = %request_id, node = %id, ?ended, %problem, "call not taken");
            progress.refusals += u32::from(ended == Ended::Refused);
            progress.body_sent = body.taken_bytes();
            progress.replayable = body.is_replayable();
            last = Some(problem);
            let over = deadline.is_over(Instant::now());
            if over || !may_retry(ended, &progress) || !core.retries.withdraw() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| no_node(&target)))
    }

    async fn run_here(
        &self,
        prepared: Prepared,
        errand: Errand<'_>,
        request: Request<RequestBody>,
        describe: Option<Describe>,
        route: std::time::Duration,
    ) -> Result<Answer, Problem> {
        let core = self.core();
        let revision = errand.target.function.revision;
        let ran = self.run(prepared, errand, request, describe).await?;
        let execution = Execution {
            node: core.name.clone(),
            region: core.region.clone(),
            revision,
            cold: ran.cold,
            forwarded: false,
            timings: Timings { route, ..ran.timings },
        };
        Ok(Answer { response: ran.response, execution })
    }

    /// The nodes to ask, best first. When this node is full, only others that are warm.
    fn order(&self, target: &Target, full_here: bool) -> Vec<NodeId> {
        let core = self.core();
        let (function, decision, view) = (&target.function, core.decided.now(), core.seen.now());
        let start = match () {
            () if full_here => None,
            () if core.shelf.is_warm(function) => Some(Start::Warm),
            () if core.shelf.is_ready(function) => Some(Start::Ready),
            () if core.shelf.is_wanted(function) => Some(Start::Fetch),
            () => None,
        };
        let here = Here {
            id: core.own,
            start,
            running: core.engine.running(),
            slots: core.slots,
            draining: self.is_draining(),
        };
        let met = |id| Met { ejected: core.peers.is_ejected(id), rtt_ms: core.peers.rtt_ms(id) };
        let mut found = pick::candidates(target, &here, &decision.state, &view, met);
        if full_here {
            found.retain(|candidate| candidate.start == Start::Warm);
        }
        pick::order(&found, core.own, function)
    }
}

/// Refuses a body that says itself that it is too large, before any of it is read.
fn check_length(ask: &Ask) -> Result<(), Problem> {
    let length = ask.request.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let limit = ask.target.spec.limits.body_bytes;
    match length {
        Some(length) if length > limit => {
            let message = format!(
                "the request body has {length} bytes, `{}/{}` takes {limit} (limits.body)",
                ask.target.app, ask.target.function.function
            );
            Err(Problem::new(reasons::BODY_TOO_LARGE, message))
        }
        _ => Ok(()),
    }
}

fn no_node(target: &Target) -> Problem {
    let message =
        format!("no node that may run `{}/{}` has it", target.app, target.function.function);
    let hint = "see `nigh nodes` and `nigh apps`".to_owned();
    Problem::new(reasons::NO_NODE, message).hint(Some(hint)).retry_after(super::admit::RETRY_AFTER)
}
