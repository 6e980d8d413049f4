//! What a guest is linked to: WASI 0.2 without folders and sockets, and wasi:http.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi::p2;
use wasmtime_wasi::random::WasiRandomCtx;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::HostIncomingRequest as _;
use wasmtime_wasi_http::p2::types::HostIncomingRequest;
use wasmtime_wasi_http::{FieldMap, WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::answer;
use crate::call::Describe;
use crate::direct::Reach;
use crate::limiter::Limiter;
use crate::meter::Usage;
use crate::outbound::Outbound;
use crate::output::{LogSink, Output, Stream};

/// Handles that a guest may hold: with 128 KiB of fields in each, as much as its memory.
const HANDLES_MAX: usize = 1_024;
/// Most random bytes that a guest gets at once.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// The host's side of one instance.
pub(crate) struct Host {
    pub(crate) limiter: Limiter,
    pub(crate) usage: Arc<Usage>,
    pub(crate) table: ResourceTable,
    /// What a module that runs directly is given: how the host reaches it, and what it asks for.
    pub(crate) reach: Reach,
    pub(crate) env: Arc<[(String, String)]>,
    pub(crate) output: Arc<Output>,
    pub(crate) began: Instant,
    /// Adds to the request's headers when they are asked for.
    pub(crate) describe: Option<Describe>,
    /// Made when it is asked for: it seeds random numbers, and a module that runs directly may never
    /// need them.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
    outbound: Outbound,
}

impl Host {
    pub(crate) fn new(
        env: Arc<[(String, String)]>,
        output: Arc<Output>,
        outbound: Outbound,
        limiter: Limiter,
        usage: Arc<Usage>,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        Self {
            limiter,
            usage,
            table,
            reach: Reach::default(),
            env,
            output,
            began: Instant::now(),
            describe: None,
            wasi: None,
            http: WasiHttpCtx::new(),
            outbound,
        }
    }

    /// A request's headers, with what is to be added to them.
    pub(crate) fn request_headers(
        &mut self,
        request: Resource<HostIncomingRequest>,
    ) -> wasmtime::Result<Resource<FieldMap>> {
        let fields = self.http().headers(request)?;
        if let Some(describe) = self.describe.take() {
            let mut headers = HeaderMap::clone(self.table.get(&fields)?);
            describe(&mut headers);
            *self.table.get_mut(&fields)? = FieldMap::new_immutable(&mut self.outbound, headers);
            self.describe = Some(describe);
        }
        Ok(fields)
    }

    /// Where random numbers come from.
    pub(crate) fn random(&mut self) -> &mut WasiRandomCtx {
        self.wasi().random()
    }

    fn wasi(&mut self) -> &mut WasiCtx {
        self.wasi.get_or_insert_with(|| {
            WasiCtx::builder()
                .envs(&self.env)
                .stdout(self.output.pipe(Stream::Stdout))
                .stderr(self.output.pipe(Stream::Stderr))
                .max_random_size(RANDOM_BYTES_MAX)
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false)
                .build()
        })
    }

    /// The next call of the same instance begins.
    pub(crate) fn begin(&mut self, usage: Arc<Usage>, logs: Arc<dyn LogSink>, deadline: Instant) {
        self.usage = usage;
        self.limiter.begin();
        self.output.begin(logs);
        self.outbound.begin(deadline);
    }

    /// Breaks off every body that the guest has begun and not finished, and lets go of all else.
    pub(crate) fn clear(&mut self) {
        self.table = ResourceTable::new();
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi();
        let Self { wasi: Some(ctx), table, .. } = self else { unreachable!("it was just made") };
        WasiCtxView { ctx, table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }
}

/// All that a guest can import.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    answer::link(&mut linker)?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::OFFERED;

    /// An item of each interface that inspection lets through, in its order.
    const ITEMS: &[&str] = &[
        "get-arguments",
        "exit",
        "get-stderr",
        "get-stdin",
        "get-stdout",
        "terminal-input",
        "terminal-output",
        "get-terminal-stderr",
        "get-terminal-stdin",
        "get-terminal-stdout",
        "subscribe-duration",
        "now",
        "get-directories",
        "descriptor",
        "handle",
        "incoming-request",
        "error",
        "poll",
        "input-stream",
        "get-insecure-random-u64",
        "insecure-seed",
        "get-random-u64",
        "instance-network",
        "resolve-addresses",
        "network",
        "tcp-socket",
        "create-tcp-socket",
        "udp-socket",
        "create-udp-socket",
    ];

    #[test]
    fn every_interface_that_inspection_lets_through_is_linked() {
        let engine = wasmtime::Engine::default();
        let mut linker = linker(&engine).unwrap();
        // A name that is taken cannot be defined again.
        let mut is_taken = |interface: &str, item: &str| {
            let mut instance = linker.instance(&format!("{interface}@0.2.12")).unwrap();
            instance.func_wrap(item, |_, (): ()| Ok(())).is_err()
        };
        assert_eq!(OFFERED.len(), ITEMS.len());
        for (interface, item) in OFFERED.iter().zip(ITEMS) {
            assert!(is_taken(interface, item), "{interface}/{item}");
            assert!(!is_taken(interface, "no-such-item"), "{interface}");
        }
    }
}
