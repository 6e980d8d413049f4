//! `wasi:cli`, `wasi:clocks` and `wasi:random`: what a guest is told of where it runs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use wasmtime::{Linker, Result};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::{DynOutputStream, Pollable};

use super::abi::{At, Guest, give, give_rows, handle, host, memory};
use crate::host::Host;
use crate::output::Stream;

/// What clocks are said to tell apart: a nanosecond.
const RESOLUTION_NS: u64 = 1;

pub(super) fn link(linker: &mut Linker<Host>, version: &str) -> Result<()> {
    let environment = &format!("wasi:cli/environment@{version}");
    linker.func_wrap(environment, "get-environment", environment_of)?;
    linker.func_wrap(environment, "get-arguments", arguments)?;
    linker.func_wrap(environment, "initial-cwd", nothing)?;
    linker.func_wrap(&format!("wasi:cli/exit@{version}"), "exit", exit)?;
    linker.func_wrap(&format!("wasi:cli/stdout@{version}"), "get-stdout", stdout)?;
    linker.func_wrap(&format!("wasi:cli/stderr@{version}"), "get-stderr", stderr)?;

    let monotonic = &format!("wasi:clocks/monotonic-clock@{version}");
    linker.func_wrap(monotonic, "now", |mut guest: Guest<'_>| elapsed(&mut guest))?;
    linker.func_wrap(monotonic, "resolution", |_: Guest<'_>| RESOLUTION_NS)?;
    linker.func_wrap(monotonic, "subscribe-instant", at_instant)?;
    linker.func_wrap(monotonic, "subscribe-duration", after)?;
    let wall = &format!("wasi:clocks/wall-clock@{version}");
    linker.func_wrap(wall, "now", wall_now)?;
    linker.func_wrap(wall, "resolution", wall_resolution)?;

    let name = &format!("wasi:random/random@{version}");
    linker.func_wrap(name, "get-random-bytes", random_bytes)?;
    linker.func_wrap(name, "get-random-u64", |mut guest: Guest<'_>| {
        random::Host::get_random_u64(host(&mut guest)?.random())
    })?;
    let name = &format!("wasi:random/insecure@{version}");
    linker.func_wrap(name, "get-insecure-random-bytes", insecure_bytes)?;
    linker.func_wrap(name, "get-insecure-random-u64", |mut guest: Guest<'_>| {
        insecure::Host::get_insecure_random_u64(host(&mut guest)?.random())
    })?;
    let name = &format!("wasi:random/insecure-seed@{version}");
    linker.func_wrap(name, "insecure-seed", seed)?;
    Ok(())
}

fn environment_of(mut guest: Guest<'_>, result: u32) -> Result<()> {
    let result = At::new(result);
    let env = std::sync::Arc::clone(&host(&mut guest)?.env);
    let rows: Vec<[&[u8]; 2]> =
        env.iter().map(|(name, value)| [name.as_bytes(), value.as_bytes()]).collect();
    let list = give_rows(&mut guest, &rows)?;
    memory(&mut guest)?.0.put_list(result, list)
}

/// None: a function is not called with arguments.
fn arguments(mut guest: Guest<'_>, result: u32) -> Result<()> {
    let result = At::new(result);
    let list = give_rows::<1>(&mut guest, &[])?;
    memory(&mut guest)?.0.put_list(result, list)
}

/// Writes an option that is none: there are no folders.
fn nothing(mut guest: Guest<'_>, result: u32) -> Result<()> {
    let result = At::new(result);
    memory(&mut guest)?.0.put(result, [0])
}

fn exit(mut guest: Guest<'_>, failed: u32) -> Result<()> {
    host(&mut guest)?;
    Err(I32Exit(i32::from(failed != 0)).into())
}

fn stdout(guest: Guest<'_>) -> Result<u32> {
    printed(guest, Stream::Stdout)
}

fn stderr(guest: Guest<'_>) -> Result<u32> {
    printed(guest, Stream::Stderr)
}

fn printed(mut guest: Guest<'_>, which: Stream) -> Result<u32> {
    let host = host(&mut guest)?;
    let stream: DynOutputStream = Box::new(host.output.pipe(which));
    Ok(handle(&host.table.push(stream)?))
}

/// Nanoseconds since the call began.
fn elapsed(guest: &mut Guest<'_>) -> Result<u64> {
    let began = host(guest)?.began;
    Ok(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

fn at_instant(mut guest: Guest<'_>, at: u64) -> Result<u32> {
    let host = host(&mut guest)?;
    let until = host.began.checked_add(Duration::from_nanos(at));
    wait(host, until)
}

fn after(mut guest: Guest<'_>, duration: u64) -> Result<u32> {
    let host = host(&mut guest)?;
    let until = Instant::now().checked_add(Duration::from_nanos(duration));
    wait(host, until)
}

fn wait(host: &mut Host, until: Option<Instant>) -> Result<u32> {
    let moment = host.table.push(Moment(until))?;
    Ok(handle(&wasmtime_wasi::p2::subscribe(&mut host.table, moment)?))
}

/// A moment to wait for; none: later than any.
struct Moment(Option<Instant>);

#[wasmtime_wasi::async_trait]
impl Pollable for Moment {
    async fn ready(&mut self) {
        match self.0 {
            Some(until) if until <= Instant::now() => {}
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

fn wall_now(mut guest: Guest<'_>, result: u32) -> Result<()> {
    let result = At::new(result);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    put_time(&mut guest, result, since)
}

fn wall_resolution(mut guest: Guest<'_>, result: u32) -> Result<()> {
    let result = At::new(result);
    put_time(&mut guest, result, Duration::from_nanos(RESOLUTION_NS))
}

fn put_time(guest: &mut Guest<'_>, at: At, time: Duration) -> Result<()> {
    let (mut view, _) = memory(guest)?;
    view.put_u64(at, time.as_secs())?;
    view.put_u32(at + 8, time.subsec_nanos())
}

fn random_bytes(mut guest: Guest<'_>, length: u64, result: u32) -> Result<()> {
    let result = At::new(result);
    let bytes = random::Host::get_random_bytes(host(&mut guest)?.random(), length)?;
    let list = give(&mut guest, &bytes)?;
    memory(&mut guest)?.0.put_list(result, list)
}

fn insecure_bytes(mut guest: Guest<'_>, length: u64, result: u32) -> Result<()> {
    let result = At::new(result);
    let bytes = insecure::Host::get_insecure_random_bytes(host(&mut guest)?.random(), length)?;
    let list = give(&mut guest, &bytes)?;
    memory(&mut guest)?.0.put_list(result, list)
}

fn seed(mut guest: Guest<'_>, result: u32) -> Result<()> {
    let result = At::new(result);
    let (low, high) = insecure_seed::Host::insecure_seed(host(&mut guest)?.random())?;
    let (mut view, _) = memory(&mut guest)?;
    view.put_u64(result, low)?;
    view.put_u64(result + 8, high)
}
