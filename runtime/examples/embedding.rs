//! What nigh is measured against: the least code around wasmtime's own HTTP host, with every setting
//! tuned that costs a call nothing of its isolation. No routing, limits, metrics or logs.
//!
//! `cargo run --release -p nigh-runtime --example embedding -- ADDRESS COMPONENT`
//!
//! Each core has a thread of its own that accepts, parses and runs guests; each call has a fresh
//! instance. The pool keeps touched memory resident and asks the kernel which pages those are.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// Instances at once.
const SLOTS: u32 = 1_000;
/// Bytes of linear memory and of tables that a slot keeps for its next instance.
const KEEP_BYTES: usize = 1 << 20;
const KEEP_TABLE_BYTES: usize = 64 << 10;
/// Connections that the kernel holds for each thread.
const BACKLOG: u32 = 1_024;

struct Host {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: Outbound,
}

/// Calls out of guests: none.
struct Outbound;

type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send>;
type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _done: Io,
    ) -> Sending {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(address), Some(component)) = (args.next(), args.next()) else {
        return println!("usage: embedding ADDRESS COMPONENT");
    };
    let address: SocketAddr = address.parse().unwrap();
    let proxy = Arc::new(prepare(&component));
    let threads = std::thread::available_parallelism().unwrap().get();
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let proxy = Arc::clone(&proxy);
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move { serve(listen(address), proxy).await });
            })
        })
        .collect();
    println!("listening on {address}");
    for thread in threads {
        thread.join().unwrap();
    }
}

fn prepare(component: &str) -> ProxyPre<Host> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(SLOTS)
        .total_core_instances(SLOTS * 4)
        .total_memories(SLOTS)
        .total_tables(SLOTS * 4)
        .total_stacks(SLOTS)
        .max_memory_size(128 << 20)
        .linear_memory_keep_resident(KEEP_BYTES)
        .table_keep_resident(KEEP_TABLE_BYTES)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).unwrap();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    let component = Component::from_file(&engine, component).unwrap();
    ProxyPre::new(linker.instantiate_pre(&component).unwrap()).unwrap()
}

/// Every thread listens on the same port; the kernel deals connections out.
fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(BACKLOG).unwrap()
}

async fn serve(listener: TcpListener, proxy: Arc<ProxyPre<Host>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let service = service_fn(|request| call(Arc::clone(&proxy), request));
            let mut http = hyper::server::conn::http1::Builder::new();
            // Whoever measures closes connections as it likes.
            let _ = http.pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn call(
    proxy: Arc<ProxyPre<Host>>,
    request: Request<Incoming>,
) -> wasmtime::Result<Response<HyperOutgoingBody>> {
    let host = Host {
        table: ResourceTable::new(),
        wasi: WasiCtx::builder().build(),
        http: WasiHttpCtx::new(),
        outbound: Outbound,
    };
    let mut store = Store::new(proxy.engine(), host);
    let (sender, answer) = oneshot::channel();
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam(sender)?;
    // The guest goes on after the head of its answer: on this thread, as a task of its own.
    let guest = tokio::spawn(async move {
        let proxy = proxy.instantiate_async(&mut store).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
    });
    match answer.await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(guest.await?.err().unwrap_or_else(|| wasmtime::format_err!("no answer"))),
    }
}
