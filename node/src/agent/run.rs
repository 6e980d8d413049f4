//! The agent's loop: looks at what differs from the decision and carries out what follows.
//!
//! Each component is worked on by one task at a time; how many fetch and compile at once is
//! bounded where that is done.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use nigh_model::{Digest, NodeId, Region, State};
use nigh_runtime::Behind;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::demanded::Demanded;
use super::diff::{Action, Here, Settled, Unwanted, diff, settled};
use super::error::Error;
use super::fetch::Fetcher;
use super::make::Maker;
use super::retry::Retries;
use super::shelf::Shelf;
use super::stock::Stock;
use super::wants::Wants;
use crate::decided::Decided;
use crate::rest::Rest;

/// What changes with time alone (demand, idleness, graces) is looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// Carries out what the diff asks for.
pub(super) struct Worker {
    own: NodeId,
    region: Region,
    decided: Decided,
    shelf: Shelf,
    stock: Stock,
    fetcher: Fetcher,
    maker: Maker,
    settle: watch::Sender<Settled>,
    demanded: Demanded,
    unwanted: Unwanted,
    retries: Retries,
    jobs: JoinSet<Result<(), Error>>,
    busy: HashMap<Id, Digest>,
}

impl Worker {
    pub(super) fn new(
        (own, region): (NodeId, Region),
        decided: Decided,
        shelf: Shelf,
        stock: Stock,
        (fetcher, maker): (Fetcher, Maker),
        settle: watch::Sender<Settled>,
    ) -> Self {
        Self {
            demanded: Demanded::new(own, region.clone()),
            own,
            region,
            decided,
            shelf,
            stock,
            fetcher,
            maker,
            settle,
            unwanted: Unwanted::default(),
            retries: Retries::default(),
            jobs: JoinSet::new(),
            busy: HashMap::new(),
        }
    }

    /// Runs until it is cancelled. What is being fetched then is given up. It looks around behind calls: with very many
    /// functions that takes milliseconds.
    pub(super) async fn run(mut self, behind: Behind, stop: CancellationToken) {
        let here_runs = Handle::current();
        let mut decided = self.decided.changes();
        let mut here = self.stock.changes();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let began = Instant::now();
            let jobs = here_runs.clone();
            let looked = behind.run(move || {
                let _begun_there = jobs.enter();
                let retry = self.reconcile();
                (self, retry)
            });
            let Some((worker, retry)) = looked.await else { return };
            self = worker;
            let rest = Rest::after(began);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(rest.ends) => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                // The senders live as long as self.
                _ = decided.changed() => {}
                _ = rest.loads(&mut here) => {}
                Some(done) = self.jobs.join_next_with_id() => self.done(done),
                _ = ticks.tick() => {
                    let looked = behind.run(move || {
                        self.look_at_demand();
                        self
                    });
                    let Some(worker) = looked.await else { return };
                    self = worker;
                }
                () = tokio::time::sleep(retry.unwrap_or(TICK)) => {}
            }
            while let Some(done) = self.jobs.try_join_next_with_id() {
                self.done(done);
            }
        }
        self.jobs.shutdown().await;
    }

    /// Begins what is to be done now; answers when to look again for what failed before.
    fn reconcile(&mut self) -> Option<Duration> {
        let state = self.decided.state();
        self.retries.decided(state.plan_basis);
        let wants = Wants::of(self.own, &self.region, &state, self.demanded.functions());
        let (here, now_ms) = self.look(&wants);
        self.publish(settled(&wants, &here, state.applied, now_ms));
        let steady = wants.functions.iter().filter(|(_, want)| want.steady);
        self.shelf.set_steady(steady.map(|(function, _)| function.clone()).collect());

        let mut work: BTreeMap<Digest, Vec<Action>> = BTreeMap::new();
        for action in diff(&wants, &here, now_ms) {
            let digest = match &action {
                Action::Unload(function) => {
                    self.shelf.unload(function);
                    continue;
                }
                Action::Load(function) => wants.functions[function].component,
                Action::Fetch(digest)
                | Action::Compile(digest)
                | Action::RemoveCompiled(digest)
                | Action::RemoveComponent(digest) => *digest,
            };
            work.entry(digest).or_default().push(action);
        }
        self.retries.retain(|digest| work.contains_key(digest));
        for (digest, actions) in work {
            if !self.busy.values().any(|busy| *busy == digest)
                && self.retries.may_begin(&digest, now_ms)
            {
                self.begin(digest, actions, &here);
            }
        }
        self.retries.next_ms(now_ms).map(|next_ms| Duration::from_millis(next_ms - now_ms))
    }

    /// What is here now. The time is taken last: nothing here is from its future.
    fn look(&mut self, wants: &Wants) -> (Here, u64) {
        let index = self.stock.snapshot();
        let warm = self.shelf.warmth();
        let rested = self.shelf.rested_of(|function| wants.functions.contains_key(function));
        let now_ms = self.stock.now_ms();
        let components = index.components.iter().map(|(digest, ms)| (*digest, *ms)).collect();
        let compiled = index.compiled.iter().copied().collect();
        self.unwanted.note(wants, &warm, &compiled, now_ms);
        let unwanted = self.unwanted.clone();
        let memory = self.shelf.memory();
        (Here { components, compiled, warm, memory, rested, unwanted }, now_ms)
    }

    fn publish(&self, settled: Settled) {
        self.settle.send_if_modified(|last| {
            let news = *last != settled;
            *last = settled;
            news
        });
    }

    fn begin(&mut self, digest: Digest, actions: Vec<Action>, here: &Here) {
        let (shelf, stock) = (self.shelf.clone(), self.stock.clone());
        let (fetcher, maker) = (self.fetcher.clone(), self.maker.clone());
        let asked_ms = here.components.get(&digest).copied().unwrap_or_default();
        let job = self.jobs.spawn(async move {
            for action in actions {
                match action {
                    Action::Fetch(digest) => fetcher.fetch(digest).await?,
                    Action::Compile(digest) => maker.make(digest).await?,
                    Action::Load(function) => drop(shelf.load(&function, digest).await?),
                    Action::Unload(function) => shelf.unload(&function),
                    Action::RemoveCompiled(digest) => stock.remove_compiled(digest).await?,
                    Action::RemoveComponent(digest) => stock.remove(digest, asked_ms).await?,
                }
            }
            Ok(())
        });
        self.busy.insert(job.id(), digest);
    }

    fn done(&mut self, done: Result<(Id, Result<(), Error>), JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(Error::ended(&error))),
        };
        let Some(component) = self.busy.remove(&id) else { return };
        let Err(error) = result else { return self.retries.forget(&component) };
        if self.retries.failed(component, self.stock.now_ms()) {
            tracing::warn!(%component, %error, "this node cannot do what is decided, it tries on");
        } else {
            tracing::debug!(%component, %error, "a step failed and is tried again");
        }
    }

    /// Takes in what calls keep asking for, lets go of what they ask for no more.
    fn look_at_demand(&mut self) {
        let state: std::sync::Arc<State> = self.decided.state();
        let asked_for = self.shelf.asked_for();
        let warm = self.shelf.warmth();
        let rested = self.shelf.rested_of(|_| true);
        let before = self.demanded.functions().clone();
        self.demanded.update(&state, &asked_for, &warm, &rested, self.stock.now_ms());
        let after = self.demanded.functions();
        // What came is on its way; what may not come is not asked for again before it is
        // forwarded again.
        asked_for.iter().for_each(|function| self.shelf.no_longer_asked_for(function));
        for function in after.difference(&before) {
            tracing::info!(%function, "calls keep asking for a function: it is brought here");
        }
        if *after != before {
            self.shelf.set_demanded(after.clone());
        }
    }
}
