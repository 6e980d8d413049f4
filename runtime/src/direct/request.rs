//! `wasi:http/types`: the request that came in, its body and its trailers.

use wasmtime::{Linker, Result};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{
    HostFutureTrailers as _, HostIncomingBody as _, HostIncomingRequest as _, Method as AsGiven,
    Scheme,
};
use wasmtime_wasi_http::p2::body::{HostFutureTrailers, HostIncomingBody};
use wasmtime_wasi_http::p2::types::HostIncomingRequest;

use super::abi::{At, Guest, give, handle, host, lent, memory, own, put_handle};
use super::errors;
use crate::host::Host;

pub(super) fn link(linker: &mut Linker<Host>, types: &str) -> Result<()> {
    linker.func_wrap(types, "[method]incoming-request.method", method)?;
    linker.func_wrap(types, "[method]incoming-request.path-with-query", path)?;
    linker.func_wrap(types, "[method]incoming-request.scheme", scheme)?;
    linker.func_wrap(types, "[method]incoming-request.authority", authority)?;
    linker.func_wrap(types, "[method]incoming-request.headers", headers)?;
    linker.func_wrap(types, "[method]incoming-request.consume", consume)?;
    linker.func_wrap(
        types,
        "[resource-drop]incoming-request",
        super::let_go::<HostIncomingRequest>,
    )?;
    linker.func_wrap(types, "[method]incoming-body.stream", stream)?;
    linker.func_wrap(types, "[static]incoming-body.finish", finish)?;
    linker.func_wrap(types, "[resource-drop]incoming-body", super::let_go::<HostIncomingBody>)?;
    linker.func_wrap(types, "[method]future-trailers.subscribe", subscribe)?;
    linker.func_wrap(types, "[method]future-trailers.get", trailers)?;
    linker.func_wrap(
        types,
        "[resource-drop]future-trailers",
        super::let_go::<HostFutureTrailers>,
    )?;
    Ok(())
}

fn method(mut guest: Guest<'_>, request: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let (case, text) = match host(&mut guest)?.http().method(lent(request))? {
        AsGiven::Get => (0, None),
        AsGiven::Head => (1, None),
        AsGiven::Post => (2, None),
        AsGiven::Put => (3, None),
        AsGiven::Delete => (4, None),
        AsGiven::Connect => (5, None),
        AsGiven::Options => (6, None),
        AsGiven::Trace => (7, None),
        AsGiven::Patch => (8, None),
        AsGiven::Other(text) => (9, Some(text)),
    };
    variant(&mut guest, result, case, text)
}

fn path(mut guest: Guest<'_>, request: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let path = host(&mut guest)?.http().path_with_query(lent(request))?;
    option(&mut guest, result, path)
}

fn scheme(mut guest: Guest<'_>, request: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let Some(scheme) = host(&mut guest)?.http().scheme(lent(request))? else {
        return memory(&mut guest)?.0.put(result, [0]);
    };
    memory(&mut guest)?.0.put(result, [1])?;
    let (case, text) = match scheme {
        Scheme::Http => (0, None),
        Scheme::Https => (1, None),
        Scheme::Other(text) => (2, Some(text)),
    };
    variant(&mut guest, result + 4, case, text)
}

fn authority(mut guest: Guest<'_>, request: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let authority = host(&mut guest)?.http().authority(lent(request))?;
    option(&mut guest, result, authority)
}

fn headers(mut guest: Guest<'_>, request: u32) -> Result<u32> {
    Ok(handle(&host(&mut guest)?.request_headers(lent(request))?))
}

fn consume(mut guest: Guest<'_>, request: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let body = host(&mut guest)?.http().consume(lent::<HostIncomingRequest>(request))?;
    put_handle(&mut guest, result, body)
}

fn stream(mut guest: Guest<'_>, body: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let stream = host(&mut guest)?.http().stream(lent(body))?;
    put_handle(&mut guest, result, stream)
}

fn finish(mut guest: Guest<'_>, body: u32) -> Result<u32> {
    Ok(handle(&host(&mut guest)?.http().finish(own(body))?))
}

fn subscribe(mut guest: Guest<'_>, trailers: u32) -> Result<u32> {
    Ok(handle(&host(&mut guest)?.http().subscribe(lent(trailers))?))
}

/// Writes `option<result<result<option<trailers>, error-code>>>`; an error code is aligned to 8.
fn trailers(mut guest: Guest<'_>, trailers: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let got = host(&mut guest)?.http().get(lent::<HostFutureTrailers>(trailers))?;
    let (mut view, _) = memory(&mut guest)?;
    let Some(got) = got else { return view.put(result, [0]) };
    view.put(result, [1])?;
    let Ok(got) = got else { return view.put(result + 8, [1]) };
    view.put(result + 8, [0])?;
    match got {
        Ok(None) => {
            view.put(result + 24, [0])?;
            view.put(result + 16, [0])
        }
        Ok(Some(fields)) => {
            view.put_u32(result + 28, handle(&fields))?;
            view.put(result + 24, [1])?;
            view.put(result + 16, [0])
        }
        Err(code) => {
            view.put(result + 16, [1])?;
            errors::put(&mut guest, result + 24, &code)
        }
    }
}

/// Writes a variant whose last case alone has a text.
fn variant(guest: &mut Guest<'_>, at: At, case: u8, text: Option<String>) -> Result<()> {
    if let Some(text) = text {
        let list = give(guest, text.as_bytes())?;
        memory(guest)?.0.put_list(at + 4, list)?;
    }
    memory(guest)?.0.put(at, [case])
}

/// Writes `option<string>`.
pub(super) fn option(guest: &mut Guest<'_>, at: At, text: Option<String>) -> Result<()> {
    let is_some = text.is_some();
    variant(guest, at, is_some.into(), text)
}
