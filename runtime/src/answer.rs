//! How a guest answers: `wasi:http`'s outgoing responses and bodies, in place of wasmtime's own,
//! which make two channels and several boxes for each.

use http::{Response, StatusCode, header};
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::DynOutputStream;
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;

use crate::host::Host;
use crate::pipe::{Direction, Reader, Writer, pipe};

/// The interface that is replaced in part.
const TYPES: &str = "wasi:http/types@0.2.12";

/// What a guest answers: a head, and a body of which more may come; or why it does not.
pub(crate) type Answer = Result<Response<Reader>, ErrorCode>;

/// Where the answer goes; once.
pub(crate) struct Outparam(pub(crate) oneshot::Sender<Answer>);

/// An answer that a guest makes.
struct Outgoing {
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
    types.func_wrap("[constructor]outgoing-response", begin)?;
    types.func_wrap("[method]outgoing-response.status-code", status)?;
    types.func_wrap("[method]outgoing-response.set-status-code", set_status)?;
    types.func_wrap("[method]outgoing-response.headers", headers)?;
    types.func_wrap("[method]outgoing-response.body", answer_body)?;
    types.func_wrap("[method]outgoing-request.body", request_body)?;
    types.func_wrap("[method]outgoing-body.write", write)?;
    types.func_wrap("[static]outgoing-body.finish", finish)?;
    types.func_wrap("[static]response-outparam.set", set)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn drop_of<T: Send + 'static>(mut guest: Guest<'_>, rep: u32) -> wasmtime::Result<()> {
    guest.data_mut().table.delete(Resource::<T>::new_own(rep))?;
    Ok(())
}

fn begin(mut guest: Guest<'_>, (headers,): (Resource<FieldMap>,)) -> Done<Resource<Outgoing>> {
    let table = &mut guest.data_mut().table;
    let mut headers = table.delete(headers)?;
    headers.set_immutable();
    Ok((table.push(Outgoing { status: StatusCode::OK, headers, body: None })?,))
}

fn status(guest: Guest<'_>, (answer,): (Resource<Outgoing>,)) -> Done<u16> {
    Ok((guest.data().table.get(&answer)?.status.as_u16(),))
}

fn set_status(
    mut guest: Guest<'_>,
    (answer, status): (Resource<Outgoing>, u16),
) -> Done<Result<(), ()>> {
    let answer = guest.data_mut().table.get_mut(&answer)?;
    let known = StatusCode::from_u16(status).map_err(|_| ());
    Ok((known.map(|status| answer.status = status),))
}

fn headers(mut guest: Guest<'_>, (answer,): (Resource<Outgoing>,)) -> Done<Resource<FieldMap>> {
    let table = &mut guest.data_mut().table;
    let headers = table.get(&answer)?.headers.clone();
    Ok((table.push(headers)?,))
}

fn answer_body(
    mut guest: Guest<'_>,
    (answer,): (Resource<Outgoing>,),
) -> Done<Result<Resource<Writer>, ()>> {
    let table = &mut guest.data_mut().table;
    let answer = table.get_mut(&answer)?;
    let Ok(declared) = declared(&answer.headers) else { return Ok((Err(()),)) };
    if answer.body.is_some() {
        return Ok((Err(()),));
    }
    let (writer, reader) = pipe(Direction::Answer, declared);
    answer.body = Some(reader);
    Ok((Ok(table.push(writer)?),))
}

fn request_body(
    mut guest: Guest<'_>,
    (request,): (Resource<HostOutgoingRequest>,),
) -> Done<Result<Resource<Writer>, ()>> {
    let table = &mut guest.data_mut().table;
    let request = table.get_mut(&request)?;
    let Ok(declared) = declared(&request.headers) else { return Ok((Err(()),)) };
    if request.body.is_some() {
        return Ok((Err(()),));
    }
    let (writer, reader) = pipe(Direction::Request, declared);
    request.body = Some(http_body_util::BodyExt::boxed_unsync(reader));
    Ok((Ok(table.push(writer)?),))
}

fn write(
    mut guest: Guest<'_>,
    (body,): (Resource<Writer>,),
) -> Done<Result<Resource<DynOutputStream>, ()>> {
    let table = &mut guest.data_mut().table;
    let Some(stream) = table.get_mut(&body)?.stream() else { return Ok((Err(()),)) };
    let stream: DynOutputStream = Box::new(stream);
    Ok((Ok(table.push_child(stream, &body)?),))
}

fn finish(
    mut guest: Guest<'_>,
    (body, trailers): (Resource<Writer>, Option<Resource<FieldMap>>),
) -> Done<Result<(), ErrorCode>> {
    let table = &mut guest.data_mut().table;
    let body = table.delete(body)?;
    let trailers = trailers.map(|trailers| table.delete(trailers)).transpose()?;
    Ok((body.finish(trailers.map(Into::into)),))
}

fn set(
    mut guest: Guest<'_>,
    (out, answer): (Resource<Outparam>, Result<Resource<Outgoing>, ErrorCode>),
) -> wasmtime::Result<()> {
    let table = &mut guest.data_mut().table;
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

/// The length that a head declares: digits alone (RFC 9110 §8.6), and once.
fn declared(headers: &FieldMap) -> Result<Option<u64>, ()> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.as_bytes();
    if values.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(());
    }
    let digits = value.to_str().map_err(|_| ())?;
    digits.parse().map(Some).map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declares(values: &[&'static str]) -> Result<Option<u64>, ()> {
        let mut headers = http::HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_LENGTH, http::HeaderValue::from_static(value));
        }
        let mut outbound = crate::outbound::tests::nothing_allowed();
        declared(&FieldMap::new_immutable(&mut outbound, headers))
    }

    #[test]
    fn a_length_is_digits_and_said_once() {
        assert_eq!(declares(&[]), Ok(None));
        assert_eq!(declares(&["12"]), Ok(Some(12)));
        for wrong in [&["+1"][..], &["1", "1"], &[""], &["1 "], &["99999999999999999999"]] {
            assert_eq!(declares(wrong), Err(()), "{wrong:?}");
        }
    }
}
