//! A call run on this node: admitted, taken from the shelf, handed to the runtime.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use nigh_model::{NodeName, RequestId};
use nigh_runtime::{Call, Failure, Loaded, RequestBody};
use tokio::time::{Instant, timeout_at};

use super::admit::{Door, Place, QUEUE_WAIT_MAX, RETRY_AFTER};
use super::body::AnswerBody;
use super::deadline::Deadline;
use super::problem::Problem;
use super::timings::Timings;
use super::{Gateway, expect, reasons};
use crate::agent::{ShelfError, Taken};
use crate::decided::Target;
use crate::telemetry::Origin;

/// A call that may start here: it has a place and something to run.
pub(crate) struct Prepared {
    loaded: Loaded,
    door: Arc<Door>,
    place: Place,
    cold: bool,
    queue: Duration,
    start: Duration,
}

/// Which call, and whose.
pub(crate) struct Errand<'a> {
    /// What is called.
    pub(crate) target: &'a Target,
    /// Its id.
    pub(crate) request_id: &'a RequestId,
    /// Where it entered.
    pub(crate) entry: &'a NodeName,
    /// When it is over.
    pub(crate) deadline: Deadline,
}

/// An answer of a guest on this node.
pub(crate) struct Ran {
    /// The answer.
    pub(crate) response: Response<AnswerBody>,
    /// Where its time went; `route` and `hop` are the caller's to fill in.
    pub(crate) timings: Timings,
    /// Whether it waited for a load.
    pub(crate) cold: bool,
}

impl Gateway {
    /// Admits a call to this node and takes its function from the shelf. No guest is started.
    pub(crate) async fn prepare(
        &self,
        target: &Target,
        deadline: Deadline,
    ) -> Result<Prepared, Problem> {
        let core = self.core();
        if core.engine.running() >= core.slots {
            let message =
                format!("node `{}` runs {} calls, as many as it can", core.name, core.slots);
            return Err(self.refusal(reasons::NO_CAPACITY, message).retry_after(RETRY_AFTER));
        }
        let began = Instant::now();
        let door = core.admission.door(&target.function, &target.spec);
        let place = door.enter(deadline.at.min(began + QUEUE_WAIT_MAX)).await.map_err(|_full| {
            let message = format!(
                "{} calls of `{}/{}` run on node `{}`, as many as may (limits.concurrency)",
                target.spec.limits.concurrency, target.app, target.function.function, core.name
            );
            self.refusal(reasons::CONCURRENCY_LIMIT, message).retry_after(RETRY_AFTER)
        })?;
        let queue = began.elapsed();
        let taking = core.shelf.take(&target.app, &target.function, &target.spec);
        let Taken { loaded, cold, waited } = match timeout_at(deadline.at, taking).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(ShelfError::NotHere)) => {
                let message = format!("`{}` is not on node `{}`", target.function, core.name);
                return Err(self.refusal(reasons::NOT_HERE, message));
            }
            Ok(Err(ShelfError::Failed(why))) => {
                let message = format!("`{}` on node `{}`: {why}", target.function, core.name);
                return Err(self.refusal(reasons::LOAD_FAILED, message).retry_after(RETRY_AFTER));
            }
            Err(_) => return Err(deadline.problem(&core.name, "the function was loaded")),
        };
        Ok(Prepared { loaded, door, place, cold, queue, start: waited })
    }

    /// Starts a guest and waits for the head of its answer.
    pub(crate) async fn run(
        &self,
        prepared: Prepared,
        errand: Errand<'_>,
        request: Request<RequestBody>,
    ) -> Result<Ran, Problem> {
        let core = self.core();
        let Prepared { loaded, door, place, cold, queue, start } = prepared;
        let Errand { target, request_id, entry, deadline } = errand;
        let origin = Origin {
            app: target.app.clone(),
            function: target.function.clone(),
            request_id: request_id.clone(),
        };
        let (mut head, body) = request.into_parts();
        let Ok(body) = timeout_at(deadline.at, expect::begin(&mut head.headers, body)).await else {
            return Err(deadline.problem(&core.name, "the request body was waited for"));
        };
        let call = Call {
            request: Request::from_parts(head, body),
            limits: target.spec.limits,
            deadline: deadline.at,
            env: Arc::clone(&door.env),
            outbound: Arc::clone(&door.outbound),
            logs: core.logs.sink(origin),
            // It is the guest's, not the answer's: a caller that takes nothing keeps no place.
            guard: Some(Box::new(place)),
        };
        let began = Instant::now();
        let result = loaded.call(call).await;
        let timings = Timings { queue, start, exec: began.elapsed(), ..Timings::default() };
        core.metrics.ran(&timings, cold);
        let (status, result) = match result {
            Ok(response) => {
                let status = response.status().as_u16();
                let (node, metrics) = (core.name.clone(), core.metrics.clone());
                let body = |body| AnswerBody::here(body, deadline, node, metrics);
                (status, Ok(Ran { response: response.map(body), timings, cold }))
            }
            Err(failure) => {
                let problem = explain(failure, deadline, &core.name);
                (problem.reason().status, Err(problem))
            }
        };
        tracing::debug!(
            target: "nigh::call",
            request = %request_id,
            app = %target.app,
            function = %target.function,
            node = %core.name,
            %entry,
            status,
            reason = result.as_ref().err().map(|problem| problem.reason().name),
            "call ran"
        );
        result
    }

    fn refusal(&self, reason: &'static reasons::Reason, message: String) -> Problem {
        Problem::new(reason, message).at(&self.core().name)
    }
}

/// What a guest's failure means to the caller.
pub(crate) fn explain(failure: Failure, deadline: Deadline, node: &NodeName) -> Problem {
    match failure {
        Failure::Deadline { .. } => deadline.problem(node, "the function ran"),
        Failure::NoSlot | Failure::Stopping => {
            Problem::from(failure).retry_after(RETRY_AFTER).at(node)
        }
        failure => Problem::from(failure).at(node),
    }
}
