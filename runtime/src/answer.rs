//! How a guest answers: `wasi:http`'s outgoing responses and bodies, in place of wasmtime's own,
//! which make two channels and several boxes for each.

use http::{Response, StatusCode};
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable, ResourceType};
use wasmtime_wasi::p2::DynOutputStream;
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;

use crate::headers::declared_length;
use crate::host::Host;
use crate::pipe::{Direction, Reader, Writer, pipe};

/// The interface that is replaced in part.
const TYPES: &str = "wasi:http/types@0.2.12";

/// What a guest answers: a head, and a body of which more may come; or why it does not.
pub(crate) type Answer = Result<Response<Reader>, ErrorCode>;

/// Where the answer goes; once.
pub(crate) struct Outparam(pub(crate) oneshot::Sender<Answer>);

/// An answer that a guest makes.
pub(crate) struct Outgoing {
    status: StatusCode,
    headers: FieldMap,
    body: Option<Reader>,
}

type Guest<'a> = StoreContextMut<'a, Host>;
type Done<T> = wasmtime::Result<(T,)>;

/// Puts these in place of what the linker holds.
pub(crate) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.resource("outgoing-response", ResourceType::host::<Outgoing>(), drop_of::<Outgoing>)?;
    types.resource("outgoing-body", ResourceType::host::<Writer>(), drop_of::<Writer>)?;
    types.resource("response-outparam", ResourceType::host::<Outparam>(), drop_of::<Outparam>)?;
    types.func_wrap("[constructor]outgoing-response", |mut guest: Guest<'_>, (headers,)| {
        one(begin(&mut guest.data_mut().table, headers))
    })?;
    types.func_wrap("[method]outgoing-response.status-code", |guest: Guest<'_>, (answer,)| {
        one(status(&guest.data().table, &answer))
    })?;
    types.func_wrap(
        "[method]outgoing-response.set-status-code",
        |mut guest: Guest<'_>, (answer, status)| {
            one(set_status(&mut guest.data_mut().table, &answer, status))
        },
    )?;
    types.func_wrap("[method]outgoing-response.headers", |mut guest: Guest<'_>, (answer,)| {
        one(headers(&mut guest.data_mut().table, &answer))
    })?;
    types.func_wrap("[method]outgoing-response.body", |mut guest: Guest<'_>, (answer,)| {
        one(answer_body(&mut guest.data_mut().table, &answer))
    })?;
    types.func_wrap("[method]outgoing-request.body", |mut guest: Guest<'_>, (request,)| {
        one(request_body(&mut guest.data_mut().table, &request))
    })?;
    types.func_wrap("[method]outgoing-body.write", |mut guest: Guest<'_>, (body,)| {
        one(write(&mut guest.data_mut().table, &body))
    })?;
    types.func_wrap("[static]outgoing-body.finish", |mut guest: Guest<'_>, (body, trailers)| {
        one(finish(&mut guest.data_mut().table, body, trailers))
    })?;
    types.func_wrap("[static]response-outparam.set", |mut guest: Guest<'_>, (out, answer)| {
        set(&mut guest.data_mut().table, out, answer)
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The results of a function: one.
fn one<T>(result: wasmtime::Result<T>) -> Done<T> {
    result.map(|value| (value,))
}

fn drop_of<T: Send + 'static>(mut guest: Guest<'_>, rep: u32) -> wasmtime::Result<()> {
    guest.data_mut().table.delete(Resource::<T>::new_own(rep))?;
    Ok(())
}

/// Begins an answer.
pub(crate) fn begin(
    table: &mut ResourceTable,
    headers: Resource<FieldMap>,
) -> wasmtime::Result<Resource<Outgoing>> {
    let mut headers = table.delete(headers)?;
    headers.set_immutable();
    Ok(table.push(Outgoing { status: StatusCode::OK, headers, body: None })?)
}

/// The status of an answer.
pub(crate) fn status(table: &ResourceTable, answer: &Resource<Outgoing>) -> wasmtime::Result<u16> {
    Ok(table.get(answer)?.status.as_u16())
}

/// Gives an answer its status, if that is one.
pub(crate) fn set_status(
    table: &mut ResourceTable,
    answer: &Resource<Outgoing>,
    status: u16,
) -> wasmtime::Result<Result<(), ()>> {
    let answer = table.get_mut(answer)?;
    let known = StatusCode::from_u16(status).map_err(|_| ());
    Ok(known.map(|status| answer.status = status))
}

/// The headers of an answer.
pub(crate) fn headers(
    table: &mut ResourceTable,
    answer: &Resource<Outgoing>,
) -> wasmtime::Result<Resource<FieldMap>> {
    let headers = table.get(answer)?.headers.clone();
    Ok(table.push(headers)?)
}

/// The body of an answer; once.
pub(crate) fn answer_body(
    table: &mut ResourceTable,
    answer: &Resource<Outgoing>,
) -> wasmtime::Result<Result<Resource<Writer>, ()>> {
    let answer = table.get_mut(answer)?;
    let (Ok(declared), None) = (declared_length(&answer.headers), &answer.body) else {
        return Ok(Err(()));
    };
    let (writer, reader) = pipe(Direction::Answer, declared);
    answer.body = Some(reader);
    Ok(Ok(table.push(writer)?))
}

fn request_body(
    table: &mut ResourceTable,
    request: &Resource<HostOutgoingRequest>,
) -> wasmtime::Result<Result<Resource<Writer>, ()>> {
    let request = table.get_mut(request)?;
    let (Ok(declared), None) = (declared_length(&request.headers), &request.body) else {
        return Ok(Err(()));
    };
    let (writer, reader) = pipe(Direction::Request, declared);
    request.body = Some(http_body_util::BodyExt::boxed_unsync(reader));
    Ok(Ok(table.push(writer)?))
}

/// The stream that a body is written to; once.
pub(crate) fn write(
    table: &mut ResourceTable,
    body: &Resource<Writer>,
) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
    let Some(stream) = table.get_mut(body)?.stream() else { return Ok(Err(())) };
    let stream: DynOutputStream = Box::new(stream);
    Ok(Ok(table.push_child(stream, body)?))
}

/// Ends a body.
pub(crate) fn finish(
    table: &mut ResourceTable,
    body: Resource<Writer>,
    trailers: Option<Resource<FieldMap>>,
) -> wasmtime::Result<Result<(), ErrorCode>> {
    let body = table.delete(body)?;
    let trailers = trailers.map(|trailers| table.delete(trailers)).transpose()?;
    Ok(body.finish(trailers.map(Into::into)))
}

/// Gives an answer to the caller.
pub(crate) fn set(
    table: &mut ResourceTable,
    out: Resource<Outparam>,
    answer: Result<Resource<Outgoing>, ErrorCode>,
) -> wasmtime::Result<()> {
    let answer = match answer {
        Ok(answer) => Ok(table.delete(answer)?.finished()),
        Err(code) => Err(code),
    };
    let Outparam(caller) = table.delete(out)?;
    // Nobody takes it when the caller is gone.
    let _ = caller.send(answer);
    Ok(())
}

impl Outgoing {
    fn finished(self) -> Response<Reader> {
        let body = self.body.unwrap_or_else(|| {
            let (writer, reader) = pipe(Direction::Answer, None);
            // An empty one of no declared length fits.
            let _ = writer.finish(None);
            reader
        });
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.into();
        response
    }
}
