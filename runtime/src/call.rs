//! One call: a fresh instance, run to its answer and on to its end, under its limits.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use http::{HeaderMap, Request, Response, header};
use nigh_model::spec::{Limits, OutboundRule};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{FieldMapError, WasiHttpView};

use crate::answer::{Answer, Outparam};
use crate::body::{Bounded, Overrun, RequestBody, ResponseBody};
use crate::engine::Slot;
use crate::host::Host;
use crate::instance::{Instance, Instances};
use crate::limiter::Limiter;
use crate::load::Loaded;
use crate::meter::{Meter, Usage, Verdict};
use crate::outbound::Outbound;
use crate::output::{LogSink, Output};
use crate::pipe::Reader;
use crate::task::Task;
use crate::{Failure, gather, headers, turns};

/// Most bytes that a guest hands to the host in one host call; no interface needs more.
const HOSTCALL_BYTES_MAX: usize = 4 << 20;

/// Adds headers to those of a request.
pub type Describe = Box<dyn Fn(&mut HeaderMap) + Send + Sync>;

/// A call to a function.
pub struct Call {
    /// The request, as the guest shall see it.
    pub request: Request<RequestBody>,
    /// What the guest sees of headers besides: made when it asks for them, as not all do.
    pub describe: Option<Describe>,
    /// Whose call it is: threads are shared out by accounts.
    pub account: u64,
    /// What the call may use.
    pub limits: Limits,
    /// When the call ends, its answer's body included.
    pub deadline: Instant,
    /// The guest's environment.
    pub env: Arc<[(String, String)]>,
    /// What the guest may call.
    pub outbound: Arc<[OutboundRule]>,
    /// Takes what the guest prints.
    pub logs: Arc<dyn LogSink>,
    /// Dropped as soon as the guest has ended, whether anybody takes its answer or not; at once
    /// when it never starts.
    pub guard: Option<Box<dyn Any + Send>>,
}

impl Loaded {
    /// Calls the function in an instance of the call's own, or in one that has waited for it; returns at
    /// the head of its answer.
    ///
    /// The guest runs on the engine's own threads: as part of this future, and then of the answer's
    /// body, when these are polled there, else as a task. Dropping this future, or the body before
    /// its end, stops the guest.
    ///
    /// # Errors
    /// [`Failure::NoSlot`] at once when the pool is full; else how the guest failed to answer.
    pub async fn call(&self, call: Call) -> Result<Response<ResponseBody>, Failure> {
        let waiting = self.instances().and_then(|instances| instances.take());
        let place = match waiting {
            Some(instance) => Place::Waiting(instance),
            None => Place::Fresh(self.engine().admit(self.slots())?),
        };
        let (limits, account) = (call.limits, call.account);
        let method = call.request.method().clone();
        let meter = Meter::new(call.deadline, Duration::from_millis(limits.cpu_ms));
        let usage = Arc::new(Usage::new(call.account, meter));
        let overrun = Overrun::new(limits.body_bytes);
        let (answer_sender, answer) = oneshot::channel();
        let (end_sender, mut end) = oneshot::channel();
        let task = run(
            self.clone(),
            call,
            place,
            overrun.clone(),
            Arc::clone(&usage),
            answer_sender,
            end_sender,
        );
        let mut guest = Task::start(self.engine().threads(), account, task);
        let answer = match guest.until(answer).await {
            Ok(answer) => check_answer(answer),
            Err(_) => Err(match guest.until(&mut end).await {
                Ok(Err(failure)) => failure,
                Ok(Ok(())) => Failure::NoAnswer,
                Err(_) => Failure::Stopping,
            }),
        };
        overrun.check()?;
        Ok(ResponseBody::attach(answer?, &method, end, guest, usage, overrun))
    }
}

/// Why a guest was stopped, as the error that unwinds it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("stopped: {0:?}")]
struct Stop(Verdict);

/// Where an error came up.
pub(crate) enum Stage {
    /// Before the handler was called.
    Instantiate,
    /// While it ran.
    Handle,
}

/// Where a call runs.
enum Place {
    /// In an instance that is to be made.
    Fresh(Slot),
    /// In one that was made for an earlier call.
    Waiting(Instance),
}

impl Place {
    /// The instance, ready for this call.
    fn instance(
        self,
        loaded: &Loaded,
        usage: Arc<Usage>,
        deadline: Instant,
        limits: &Limits,
        (env, outbound, logs): Given,
    ) -> Instance {
        let mut instance = match self {
            Self::Waiting(mut instance) => {
                instance.store.data_mut().begin(usage, logs, deadline);
                instance
            }
            Self::Fresh(slot) => {
                let limiter = Limiter::new(limits.memory_bytes, loaded.grown_bytes());
                let outbound = Outbound::new(outbound, deadline);
                let host = Host::new(env, Output::new(logs), outbound, limiter, usage);
                let mut store = Store::new(&loaded.engine().wasmtime, host);
                store.limiter(|host| &mut host.limiter);
                store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
                store.epoch_deadline_callback(|store| match store.data().usage.tick() {
                    Verdict::Go => {
                        let turn = Arc::clone(&store.data().usage).turn();
                        Ok(UpdateDeadline::YieldCustom(1, Box::pin(turn)))
                    }
                    stop => Err(Stop(stop).into()),
                });
                Instance { store, made: None, uses: 0, slot }
            }
        };
        instance.uses += 1;
        instance.store.set_epoch_deadline(1);
        instance
    }
}

/// What a fresh instance is given.
type Given = (Arc<[(String, String)]>, Arc<[OutboundRule]>, Arc<dyn LogSink>);

/// A call that runs, with all that must happen when it ends, however it ends.
struct Guest {
    end: Option<oneshot::Sender<Result<(), Failure>>>,
    guard: Option<Box<dyn Any + Send>>,
    /// None when it was kept.
    instance: Option<Instance>,
    /// Where it is kept, if it ends well.
    keeper: Option<Arc<Instances>>,
}

impl Guest {
    /// Tells how the guest ended, then breaks off what it has not finished: in this order, so
    /// that whoever sees a broken body can know why.
    fn conclude(&mut self, outcome: Result<(), Failure>) {
        let (Some(end), Some(instance)) = (self.end.take(), &mut self.instance) else { return };
        // Both are the caller's code, and a panic here would take the process down.
        let host = instance.store.data_mut();
        if catch_unwind(AssertUnwindSafe(|| host.output.finish())).is_err() {
            tracing::error!("the log sink panicked");
        }
        let guard = self.guard.take();
        if catch_unwind(AssertUnwindSafe(|| drop(guard))).is_err() {
            tracing::error!("the guard of a call panicked");
        }
        host.usage.end(host.limiter.bytes_peak(), outcome.clone().err());
        let keeper = self.keeper.take().filter(|_| outcome.is_ok());
        let _ = end.send(outcome);
        match keeper {
            Some(keeper) => self.instance.take().map_or((), |instance| keeper.keep(instance)),
            None => host.clear(),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.conclude(Err(Failure::Stopping));
    }
}

/// Runs a guest to its end.
async fn run(
    loaded: Loaded,
    call: Call,
    place: Place,
    overrun: Overrun,
    usage: Arc<Usage>,
    answer: oneshot::Sender<Answer>,
    end: oneshot::Sender<Result<(), Failure>>,
) {
    let Call { request, describe, account, limits, deadline, env, outbound, logs, guard } = call;
    if turns::is_to_wait(account) {
        // Whose time is over by then is told so below.
        let _ = timeout_at(deadline, Arc::clone(&usage).turn()).await;
    }
    let limit_ms = deadline.saturating_duration_since(Instant::now()).as_millis();
    let limit_ms = u64::try_from(limit_ms).unwrap_or(u64::MAX);
    let given = (env, outbound, logs);
    let instance = place.instance(&loaded, Arc::clone(&usage), deadline, &limits, given);
    let keeper = loaded.instances().cloned();
    let mut guest = Guest { end: Some(end), guard, instance: Some(instance), keeper };
    let Some(instance) = &mut guest.instance else { return };
    let request = request.map(|body| Bounded::new(body, overrun));

    let ended = {
        let work = AssertUnwindSafe(serve(&loaded, instance, request, describe, answer));
        let mut work = pin!(work.catch_unwind());
        let metered = poll_fn(|context| {
            if usage.is_busy() {
                // What others have answered does not wait for it.
                gather::hand_over();
            }
            // A guest that is woken by the end of its time shall not answer that it is over.
            match usage.slice_begins() {
                Verdict::Go => {}
                stop => return Poll::Ready(Err(stop)),
            }
            let poll = work.as_mut().poll(context);
            let verdict = usage.slice_ends();
            match poll {
                Poll::Pending if verdict != Verdict::Go => Poll::Ready(Err(verdict)),
                poll => poll.map(Ok),
            }
        });
        timeout_at(deadline, metered).await.unwrap_or(Err(Verdict::Deadline))
    };
    let refused = instance.store.data().limiter.refused();
    let cause = |stage, error: wasmtime::Error| explain(&stage, &error, refused, &limits, limit_ms);
    let outcome = match ended {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err((stage, error)))) => cause(stage, error),
        Ok(Err(panic)) => {
            let message = loaded.engine().caught(&*panic);
            tracing::error!(%message, "a call failed within the host");
            Err(Failure::Internal { message })
        }
        Err(verdict) => cause(Stage::Handle, Stop(verdict).into()),
    };
    guest.conclude(outcome);
}

/// Makes the instance where it is not there yet, and calls its handler.
async fn serve(
    loaded: &Loaded,
    instance: &mut Instance,
    request: Request<Bounded>,
    describe: Option<Describe>,
    answer: oneshot::Sender<Answer>,
) -> Result<(), (Stage, wasmtime::Error)> {
    let before = |error| (Stage::Instantiate, error);
    let store = &mut instance.store;
    let (mut head, body) = request.into_parts();
    headers::accept(&mut head);
    store.data_mut().describe = match describe {
        Some(describe) if !loaded.is_module() => {
            describe(&mut head.headers);
            None
        }
        // Directly that is done when the headers are asked for.
        describe => describe,
    };
    let scheme = if headers::is_https(&head) { Scheme::Https } else { Scheme::Http };
    let request = Request::from_parts(head, body);
    let request = store.data_mut().http().new_incoming_request(scheme, request).map_err(before)?;
    let out = store.data_mut().table.push(Outparam(answer)).map_err(|e| before(e.into()))?;
    let made = match &mut instance.made {
        Some(made) => made,
        made => made.insert(loaded.make(store).await.map_err(before)?),
    };
    made.handle(store, request, out).await.map_err(|error| (Stage::Handle, error))
}

/// Checks the head of a guest's answer.
fn check_answer(answer: Answer) -> Result<Response<Reader>, Failure> {
    let bad = |message: String| Failure::BadAnswer { message };
    let mut answer = answer.map_err(|code| bad(format!("it is the error {code:?}")))?;
    if answer.status().is_informational() {
        return Err(bad(format!("status {} is not final", answer.status().as_u16())));
    }
    headers::strip_hop_by_hop(answer.headers_mut());
    answer.headers_mut().remove(header::HOST);
    headers::check_size(answer.headers()).map_err(bad)?;
    Ok(answer)
}

/// The failure that an error of a guest stands for, if it is one.
fn explain(
    stage: &Stage,
    error: &wasmtime::Error,
    memory_refused: bool,
    limits: &Limits,
    limit_ms: u64,
) -> Result<(), Failure> {
    if let Some(Stop(verdict)) = error.downcast_ref() {
        return Err(match verdict {
            Verdict::Cpu => Failure::Cpu { limit_ms: limits.cpu_ms },
            Verdict::Go | Verdict::Deadline => Failure::Deadline { limit_ms },
        });
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Err(Failure::NoSlot);
    }
    if let Some(FieldMapError::TooManyFields | FieldMapError::TotalSizeTooBig) =
        error.downcast_ref()
    {
        return Err(Failure::BadAnswer { message: "too many or too large headers".into() });
    }
    let exit = error.downcast_ref::<I32Exit>().map(|exit| exit.0);
    if exit == Some(0) {
        return Ok(());
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::StackOverflow) {
        return Err(Failure::Stack);
    }
    if memory_refused {
        return Err(Failure::Memory { limit_bytes: limits.memory_bytes });
    }
    let message = match (exit, trap) {
        (Some(status), _) => format!("it exited with status {status}"),
        (None, Some(trap)) => trap.to_string(),
        (None, None) => format!("{:#}", error.root_cause()),
    };
    Err(match (stage, trap) {
        (Stage::Instantiate, None) if exit.is_none() => Failure::Instantiate { message },
        _ => Failure::Trap { message },
    })
}
