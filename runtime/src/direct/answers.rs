//! `wasi:http/types`: the answer, its body and where it goes.

use wasmtime::{Linker, Result};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use super::abi::{At, Guest, handle, host, lent, memory, own, put_handle, wrong};
use super::{errors, let_go};
use crate::answer::{self, Outgoing, Outparam};
use crate::host::Host;
use crate::pipe::Writer;

pub(super) fn link(linker: &mut Linker<Host>, types: &str) -> Result<()> {
    linker.func_wrap(types, "[constructor]outgoing-response", begin)?;
    linker.func_wrap(types, "[method]outgoing-response.status-code", status)?;
    linker.func_wrap(types, "[method]outgoing-response.set-status-code", set_status)?;
    linker.func_wrap(types, "[method]outgoing-response.headers", headers)?;
    linker.func_wrap(types, "[method]outgoing-response.body", body)?;
    linker.func_wrap(types, "[resource-drop]outgoing-response", let_go::<Outgoing>)?;
    linker.func_wrap(types, "[method]outgoing-body.write", write)?;
    linker.func_wrap(types, "[static]outgoing-body.finish", finish)?;
    linker.func_wrap(types, "[resource-drop]outgoing-body", let_go::<Writer>)?;
    linker.func_wrap(types, "[static]response-outparam.set", set)?;
    linker.func_wrap(types, "[resource-drop]response-outparam", let_go::<Outparam>)?;
    Ok(())
}

fn begin(mut guest: Guest<'_>, headers: u32) -> Result<u32> {
    Ok(handle(&answer::begin(&mut host(&mut guest)?.table, own(headers))?))
}

fn status(mut guest: Guest<'_>, answer: u32) -> Result<u32> {
    Ok(answer::status(&host(&mut guest)?.table, &lent(answer))?.into())
}

fn set_status(mut guest: Guest<'_>, answer: u32, status: u32) -> Result<u32> {
    // What is above a `u16` is cut off.
    let set = answer::set_status(&mut host(&mut guest)?.table, &lent(answer), status as u16)?;
    Ok(set.is_err().into())
}

fn headers(mut guest: Guest<'_>, answer: u32) -> Result<u32> {
    Ok(handle(&answer::headers(&mut host(&mut guest)?.table, &lent(answer))?))
}

fn body(mut guest: Guest<'_>, answer: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let body = answer::answer_body(&mut host(&mut guest)?.table, &lent(answer))?;
    put_handle(&mut guest, result, body)
}

fn write(mut guest: Guest<'_>, body: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let stream = answer::write(&mut host(&mut guest)?.table, &lent(body))?;
    put_handle(&mut guest, result, stream)
}

/// Writes `result<_, error-code>`; an error code is aligned to 8.
fn finish(
    mut guest: Guest<'_>,
    body: u32,
    has_trailers: u32,
    trailers: u32,
    result: u32,
) -> Result<()> {
    let result = At::new(result);
    let trailers = match has_trailers {
        0 => None,
        1 => Some(own(trailers)),
        _ => return wrong("an option has two cases"),
    };
    let finished = answer::finish(&mut host(&mut guest)?.table, own(body), trailers)?;
    memory(&mut guest)?.0.put(result, [finished.is_err().into()])?;
    match finished {
        Ok(()) => Ok(()),
        Err(code) => errors::put(&mut guest, result + 8, &code),
    }
}

/// Takes `result<outgoing-response, error-code>`, flat: the code's case is where the response's
/// handle is, and what follows the code is behind it.
#[allow(clippy::too_many_arguments, reason = "the canonical ABI's")]
fn set(
    mut guest: Guest<'_>,
    out: u32,
    failed: u32,
    answer_or_case: u32,
    present: u32,
    wide: u64,
    next: u32,
    _: u32,
    _: u32,
    _: u32,
) -> Result<()> {
    let answer: std::result::Result<_, ErrorCode> = match failed {
        0 => Ok(own(answer_or_case)),
        1 => Err(errors::named(&mut guest, answer_or_case, (present, wide, next))?),
        _ => return wrong("a result has two cases"),
    };
    answer::set(&mut host(&mut guest)?.table, own(out), answer)
}
