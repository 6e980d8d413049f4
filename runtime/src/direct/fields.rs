//! `wasi:http/types`: `fields`.

use wasmtime::{Linker, Result};
use wasmtime_wasi_http::p2::HeaderResult;
use wasmtime_wasi_http::p2::bindings::http::types::{HeaderError, HostFields as _};
use wasmtime_wasi_http::{FieldMap, WasiHttpView as _};

use super::abi::{self, At, Guest, give_rows, handle, host, lent, memory};
use crate::host::Host;

pub(super) fn link(linker: &mut Linker<Host>, types: &str) -> Result<()> {
    linker.func_wrap(types, "[constructor]fields", new)?;
    linker.func_wrap(types, "[static]fields.from-list", from_list)?;
    linker.func_wrap(types, "[method]fields.get", get)?;
    linker.func_wrap(types, "[method]fields.has", has)?;
    linker.func_wrap(types, "[method]fields.set", set)?;
    linker.func_wrap(types, "[method]fields.delete", delete)?;
    linker.func_wrap(types, "[method]fields.append", append)?;
    linker.func_wrap(types, "[method]fields.entries", entries)?;
    linker.func_wrap(types, "[method]fields.clone", clone)?;
    linker.func_wrap(types, "[resource-drop]fields", super::let_go::<FieldMap>)?;
    Ok(())
}

fn new(mut guest: Guest<'_>) -> Result<u32> {
    Ok(handle(&host(&mut guest)?.http().new()?))
}

fn from_list(mut guest: Guest<'_>, at: u32, count: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let (mut view, host) = memory(&mut guest)?;
    let mut entries = Vec::new();
    for [name, value] in view.rows::<2>(at, count)? {
        entries.push((String::from_utf8(name)?, value));
    }
    match refused(host.http().from_list(entries))? {
        Ok(fields) => {
            view.put_u32(result + 4, handle(&fields))?;
            view.put(result, [0])
        }
        Err(why) => {
            view.put(result + 4, [why])?;
            view.put(result, [1])
        }
    }
}

fn get(mut guest: Guest<'_>, fields: u32, at: u32, length: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let (mut view, host) = memory(&mut guest)?;
    let name = view.text(at, length)?;
    let values = host.http().get(lent(fields), name)?;
    let rows: Vec<[&[u8]; 1]> = values.iter().map(|value| [&value[..]]).collect();
    let list = give_rows(&mut guest, &rows)?;
    memory(&mut guest)?.0.put_list(result, list)
}

fn has(mut guest: Guest<'_>, fields: u32, at: u32, length: u32) -> Result<u32> {
    let (mut view, host) = memory(&mut guest)?;
    let name = view.text(at, length)?;
    Ok(host.http().has(lent(fields), name)?.into())
}

fn set(
    mut guest: Guest<'_>,
    fields: u32,
    at: u32,
    length: u32,
    values_at: u32,
    values: u32,
    result: u32,
) -> Result<()> {
    let result = At::new(result);
    let (mut view, host) = memory(&mut guest)?;
    let name = view.text(at, length)?;
    let rows = view.rows::<1>(values_at, values)?;
    let values = rows.into_iter().map(|[value]| value).collect();
    done(&mut view, result, refused(host.http().set(lent(fields), name, values))?)
}

fn delete(mut guest: Guest<'_>, fields: u32, at: u32, length: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let (mut view, host) = memory(&mut guest)?;
    let name = view.text(at, length)?;
    done(&mut view, result, refused(host.http().delete(lent(fields), name))?)
}

fn append(
    mut guest: Guest<'_>,
    fields: u32,
    at: u32,
    length: u32,
    value_at: u32,
    value: u32,
    result: u32,
) -> Result<()> {
    let result = At::new(result);
    let (mut view, host) = memory(&mut guest)?;
    let name = view.text(at, length)?;
    let value = view.bytes(value_at, value)?.to_vec();
    done(&mut view, result, refused(host.http().append(lent(fields), name, value))?)
}

fn entries(mut guest: Guest<'_>, fields: u32, result: u32) -> Result<()> {
    let result = At::new(result);
    let fields: FieldMap = host(&mut guest)?.table.get(&lent::<FieldMap>(fields))?.clone();
    let rows: Vec<[&[u8]; 2]> =
        fields.iter().map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]).collect();
    let list = give_rows(&mut guest, &rows)?;
    memory(&mut guest)?.0.put_list(result, list)
}

fn clone(mut guest: Guest<'_>, fields: u32) -> Result<u32> {
    Ok(handle(&host(&mut guest)?.http().clone(lent(fields))?))
}

/// An error that the guest is told, as its case.
fn refused<T>(result: HeaderResult<T>) -> Result<Result<T, u8>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Ok(Err(match error.downcast()? {
            HeaderError::InvalidSyntax => 0,
            HeaderError::Forbidden => 1,
            HeaderError::Immutable => 2,
        })),
    }
}

/// Writes `result<_, header-error>`.
fn done(view: &mut abi::View<'_>, at: At, result: Result<(), u8>) -> Result<()> {
    match result {
        Ok(()) => view.put(at, [0]),
        Err(why) => view.put(at, [1, why]),
    }
}
