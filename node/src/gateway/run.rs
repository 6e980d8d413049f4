//! A call run on this node: admitted, taken from the shelf, handed to the runtime.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use nigh_model::{NodeName, RequestId};
use nigh_runtime::{Call, Describe, Failure, Loaded, RequestBody};
use tokio::time::{Instant, timeout_at};

use super::admit::{Door, Overloaded, Pass, Patience, Place, RETRY_AFTER, TooManyLoading};
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
    pass: Pass,
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
        let door = core.admission.door(&target.function, &target.spec);
        let pass = core.admission.pass(&door).map_err(|Overloaded(after)| {
            let message = format!("node `{}` has more to do than it can in time", core.name);
            self.refusal(reasons::OVERLOADED, message).retry_after(after)
        })?;
        // Before a place is taken: what waits for a load runs nothing.
        let Taken { loaded, cold, waited } = self.take(target, deadline).await?;
        let patience = if cold { Patience::Loaded } else { Patience::Short };
        let began = Instant::now();
        let place = door.enter(deadline.at, patience).await.map_err(|_full| {
            let message = format!(
                "{} calls of `{}/{}` run on node `{}`, as many as may (limits.concurrency)",
                target.spec.limits.concurrency, target.app, target.function.function, core.name
            );
            self.refusal(reasons::CONCURRENCY_LIMIT, message).retry_after(RETRY_AFTER)
        })?;
        let queue = began.elapsed();
        Ok(Prepared { loaded, door, pass, place, cold, queue, start: waited })
    }

    /// Takes the function from the shelf, after a load if it is cold.
    async fn take(&self, target: &Target, deadline: Deadline) -> Result<Taken, Problem> {
        let core = self.core();
        let mut taking = pin!(core.shelf.take(&target.app, &target.function, &target.spec));
        let taken = match futures::poll!(taking.as_mut()) {
            Poll::Ready(taken) => taken,
            Poll::Pending => {
                let _room = core.admission.loading().map_err(|TooManyLoading| {
                    let message = format!("too many calls wait for a load on node `{}`", core.name);
                    self.refusal(reasons::NO_CAPACITY, message).retry_after(RETRY_AFTER)
                })?;
                timeout_at(deadline.at, taking)
                    .await
                    .map_err(|_| deadline.problem(&core.name, "the function was loaded"))?
            }
        };
        taken.map_err(|error| match error {
            ShelfError::NotHere => {
                let message = format!("`{}` is not on node `{}`", target.function, core.name);
                self.refusal(reasons::NOT_HERE, message)
            }
            ShelfError::Failed(why) => {
                let message = format!("`{}` on node `{}`: {why}", target.function, core.name);
                self.refusal(reasons::LOAD_FAILED, message).retry_after(RETRY_AFTER)
            }
        })
    }

    /// Starts a guest and waits for the head of its answer.
    pub(crate) async fn run(
        &self,
        prepared: Prepared,
        errand: Errand<'_>,
        request: Request<RequestBody>,
        describe: Option<Describe>,
    ) -> Result<Ran, Problem> {
        let core = self.core();
        let Prepared { loaded, door, pass, place, cold, queue, start } = prepared;
        let Errand { target, request_id, entry, deadline } = errand;
        let origin = Origin {
            app: target.app.clone(),
            function: target.function.clone(),
            request_id: request_id.clone(),
        };
        let (mut head, body) = request.into_parts();
        let body = if expect::waits(&head.headers) {
            let begun = timeout_at(deadline.at, expect::begin(&mut head.headers, body)).await;
            begun.map_err(|_| deadline.problem(&core.name, "the request body was waited for"))?
        } else {
            body
        };
        let call = Call {
            request: Request::from_parts(head, body),
            describe,
            account: door.id(),
            limits: target.spec.limits,
            deadline: deadline.at,
            env: Arc::clone(&door.env),
            outbound: Arc::clone(&door.outbound),
            logs: core.logs.sink(origin),
            // It is the guest's, not the answer's: a caller that takes nothing keeps no place.
            guard: Some(Box::new(place)),
        };
        let began = Instant::now();
        if deadline.is_over(began) {
            // Nobody waits for what it would do.
            return Err(deadline.problem(&core.name, "it waited for its turn"));
        }
        let result = pass.watch(loaded.call(call)).await;
        drop(pass);
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
