//! `wasi:io`: streams, what can be waited for, and errors.

use bytes::Bytes;
use wasmtime::{Linker, Result};
use wasmtime_wasi::p2::bindings::io::error::HostError as _;
use wasmtime_wasi::p2::bindings::io::poll::{Host as _, HostPollable as _};
use wasmtime_wasi::p2::bindings::io::streams::HostOutputStream as _;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, IoError, StreamError, StreamResult,
};

use super::abi::{
    At, Guest, View, give, give_later, give_numbers_later, handle, host, lent, memory, own, size,
    wrong,
};
use super::{Later, later, let_go};
use crate::host::Host;

/// Most bytes of a blocking write, by the interface.
const BLOCKING_WRITE_BYTES_MAX: u32 = 4096;
/// Pollables in one list.
const POLLABLES_MAX: u32 = 1_024;

pub(super) fn link(linker: &mut Linker<Host>, version: &str) -> Result<()> {
    let streams = &format!("wasi:io/streams@{version}");
    linker.func_wrap(streams, "[method]output-stream.check-write", check_write)?;
    linker.func_wrap(streams, "[method]output-stream.write", write)?;
    linker.func_wrap_async(
        streams,
        "[method]output-stream.blocking-write-and-flush",
        blocking_write_and_flush,
    )?;
    linker.func_wrap(streams, "[method]output-stream.flush", flush)?;
    linker.func_wrap_async(streams, "[method]output-stream.blocking-flush", blocking_flush)?;
    linker.func_wrap(streams, "[method]output-stream.subscribe", subscribe_output)?;
    linker.func_wrap_async(streams, "[resource-drop]output-stream", let_go_output)?;
    linker.func_wrap(streams, "[method]input-stream.read", read)?;
    linker.func_wrap_async(streams, "[method]input-stream.blocking-read", blocking_read)?;
    linker.func_wrap(streams, "[method]input-stream.subscribe", subscribe_input)?;
    linker.func_wrap_async(streams, "[resource-drop]input-stream", let_go_input)?;

    let poll = &format!("wasi:io/poll@{version}");
    linker.func_wrap_async(poll, "poll", poll_list)?;
    linker.func_wrap_async(poll, "[method]pollable.ready", ready)?;
    linker.func_wrap_async(poll, "[method]pollable.block", block)?;
    linker.func_wrap(poll, "[resource-drop]pollable", let_go_pollable)?;

    let error = &format!("wasi:io/error@{version}");
    linker.func_wrap(error, "[method]error.to-debug-string", to_debug_string)?;
    linker.func_wrap(error, "[resource-drop]error", let_go::<IoError>)?;
    Ok(())
}

fn check_write(mut guest: Guest<'_>, stream: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let checked = host(&mut guest)?.table.check_write(lent(stream));
    let (mut view, host) = memory(&mut guest)?;
    match failed(host, checked)? {
        Ok(bytes) => {
            view.put_u64(result + 8, bytes)?;
            view.put(result, [0])
        }
        Err(failed) => put_failed(&mut view, result, result + 8, failed),
    }
}

fn write(mut guest: Guest<'_>, stream: u32, at: u32, length: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let (mut view, host) = memory(&mut guest)?;
    let bytes = Bytes::copy_from_slice(view.bytes(at, length)?);
    let written = host.table.get_mut(&lent::<DynOutputStream>(stream))?.write(bytes);
    done(&mut guest, result, written)
}

fn blocking_write_and_flush(
    mut guest: Guest<'_>,
    (stream, at, length, result): (u32, u32, u32, u32),
) -> Later<'_, ()> {
    later(async move {
        let result = At::new(result);
        if length > BLOCKING_WRITE_BYTES_MAX {
            return wrong("blocking-write-and-flush takes 4096 bytes at most");
        }
        let (mut view, host) = memory(&mut guest)?;
        let bytes = Bytes::copy_from_slice(view.bytes(at, length)?);
        let stream = host.table.get_mut(&lent::<DynOutputStream>(stream))?;
        let written = stream.blocking_write_and_flush(bytes).await;
        done(&mut guest, result, written)
    })
}

fn flush(mut guest: Guest<'_>, stream: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let flushed = host(&mut guest)?.table.flush(lent(stream));
    done(&mut guest, result, flushed)
}

fn blocking_flush(mut guest: Guest<'_>, (stream, result): (u32, u32)) -> Later<'_, ()> {
    later(async move {
        let result = At::new(result);
        let flushed = host(&mut guest)?.table.blocking_flush(lent(stream)).await;
        done(&mut guest, result, flushed)
    })
}

fn subscribe_output(mut guest: Guest<'_>, stream: u32) -> Result<u32> {
    let table = &mut host(&mut guest)?.table;
    Ok(handle(&wasmtime_wasi::p2::subscribe(table, lent::<DynOutputStream>(stream))?))
}

fn subscribe_input(mut guest: Guest<'_>, stream: u32) -> Result<u32> {
    let table = &mut host(&mut guest)?.table;
    Ok(handle(&wasmtime_wasi::p2::subscribe(table, lent::<DynInputStream>(stream))?))
}

fn let_go_output(mut guest: Guest<'_>, (stream,): (u32,)) -> Later<'_, ()> {
    later(async move {
        host(&mut guest)?.table.delete(own::<DynOutputStream>(stream))?.cancel().await;
        Ok(())
    })
}

fn let_go_input(mut guest: Guest<'_>, (stream,): (u32,)) -> Later<'_, ()> {
    later(async move {
        host(&mut guest)?.table.delete(own::<DynInputStream>(stream))?.cancel().await;
        Ok(())
    })
}

/// Writes `result<list<u8>, stream-error>`.
fn read(mut guest: Guest<'_>, stream: u32, most: u64, result: u32) -> Result<()> {
    let result = At::new(result);
    let stream = lent::<DynInputStream>(stream);
    let host = host(&mut guest)?;
    let came = host.table.get_mut(&stream)?.read(size(most));
    match failed(host, came)? {
        Ok(bytes) => {
            let list = give(&mut guest, &bytes)?;
            put_read(&mut guest, result, list)
        }
        Err(failed) => put_failed(&mut memory(&mut guest)?.0, result, result + 4, failed),
    }
}

fn blocking_read(mut guest: Guest<'_>, (stream, most, result): (u32, u64, u32)) -> Later<'_, ()> {
    later(async move {
        let result = At::new(result);
        let stream = lent::<DynInputStream>(stream);
        let host = host(&mut guest)?;
        let came = host.table.get_mut(&stream)?.blocking_read(size(most)).await;
        match failed(host, came)? {
            Ok(bytes) => {
                let list = give_later(&mut guest, &bytes).await?;
                put_read(&mut guest, result, list)
            }
            Err(failed) => put_failed(&mut memory(&mut guest)?.0, result, result + 4, failed),
        }
    })
}

fn put_read(guest: &mut Guest<'_>, result: At, list: (u32, u32)) -> Result<()> {
    let (mut view, _) = memory(guest)?;
    view.put_list(result + 4, list)?;
    view.put(result, [0])
}

fn poll_list(mut guest: Guest<'_>, (at, count, result): (u32, u32, u32)) -> Later<'_, ()> {
    later(async move {
        let result = At::new(result);
        if count > POLLABLES_MAX {
            return wrong("too many pollables in one list");
        }
        let (mut view, host) = memory(&mut guest)?;
        let pollables = view.numbers(at, count)?.into_iter().map(lent::<DynPollable>).collect();
        let ready = host.table.poll(pollables).await?;
        let list = give_numbers_later(&mut guest, &ready).await?;
        memory(&mut guest)?.0.put_list(result, list)
    })
}

fn ready(mut guest: Guest<'_>, (pollable,): (u32,)) -> Later<'_, u32> {
    later(async move { Ok(host(&mut guest)?.table.ready(lent(pollable)).await?.into()) })
}

fn block(mut guest: Guest<'_>, (pollable,): (u32,)) -> Later<'_, ()> {
    later(async move { host(&mut guest)?.table.block(lent(pollable)).await })
}

fn let_go_pollable(mut guest: Guest<'_>, pollable: u32) -> Result<()> {
    wasmtime_wasi::p2::bindings::io::poll::HostPollable::drop(
        &mut host(&mut guest)?.table,
        own(pollable),
    )
}

fn to_debug_string(mut guest: Guest<'_>, error: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let text = host(&mut guest)?.table.to_debug_string(lent(error))?;
    let list = give(&mut guest, text.as_bytes())?;
    memory(&mut guest)?.0.put_list(result, list)
}

/// Why a stream did not do it: an error to look at, or none when it is closed.
type Failed = Option<u32>;

fn failed<T>(host: &mut Host, result: StreamResult<T>) -> Result<Result<T, Failed>> {
    Ok(match result {
        Ok(value) => Ok(value),
        Err(StreamError::Closed) => Err(None),
        Err(StreamError::LastOperationFailed(error)) => {
            Err(Some(handle(&host.table.push::<IoError>(error)?)))
        }
        Err(StreamError::Trap(error)) => return Err(error),
    })
}

/// Writes `result<_, stream-error>`.
fn done(guest: &mut Guest<'_>, result: At, outcome: StreamResult<()>) -> Result<()> {
    let (mut view, host) = memory(guest)?;
    match failed(host, outcome)? {
        Ok(()) => view.put(result, [0]),
        Err(failed) => put_failed(&mut view, result, result + 4, failed),
    }
}

/// Writes a result's other case, with the `stream-error` at its place.
fn put_failed(view: &mut View<'_>, result: At, at: At, failed: Failed) -> Result<()> {
    view.put(result, [1])?;
    match failed {
        Some(error) => {
            view.put_u32(at + 4, error)?;
            view.put(at, [0])
        }
        None => view.put(at, [1]),
    }
}
