//! `wasi:http/types`: `error-code`, as a guest reads and names it.

use wasmtime::{Result, bail};
use wasmtime_wasi_http::p2::bindings::http::types::{
    DnsErrorPayload, ErrorCode, FieldSizePayload, TlsAlertReceivedPayload,
};

use super::abi::{At, Guest, memory};

/// What follows a code.
enum Payload<'c> {
    Nothing,
    Number32(Option<u32>),
    Number64(Option<u64>),
    Text(&'c Option<String>),
    Dns(&'c DnsErrorPayload),
    Tls(&'c TlsAlertReceivedPayload),
    Field(&'c FieldSizePayload),
    MaybeField(&'c Option<FieldSizePayload>),
}

/// Writes an error code: 32 bytes aligned to 8, the case first, then from 8 on what follows it.
pub(super) fn put(guest: &mut Guest<'_>, at: At, code: &ErrorCode) -> Result<()> {
    let (case, payload) = parts(code);
    memory(guest)?.0.put(at, [case])?;
    let at = at + 8;
    match payload {
        Payload::Nothing => Ok(()),
        Payload::Number32(number) => number32(guest, at, number),
        Payload::Number64(number) => {
            let (mut view, _) = memory(guest)?;
            view.put_u64(at + 8, number.unwrap_or(0))?;
            view.put(at, [number.is_some().into()])
        }
        Payload::Text(text) => option(guest, at, text),
        Payload::Dns(DnsErrorPayload { rcode, info_code }) => {
            option(guest, at, rcode)?;
            let (mut view, _) = memory(guest)?;
            view.put(at + 14, info_code.unwrap_or(0).to_le_bytes())?;
            view.put(at + 12, [info_code.is_some().into()])
        }
        Payload::Tls(TlsAlertReceivedPayload { alert_id, alert_message }) => {
            memory(guest)?.0.put(at, [alert_id.is_some().into(), alert_id.unwrap_or(0)])?;
            option(guest, at + 4, alert_message)
        }
        Payload::Field(field) => field_size(guest, at, field),
        Payload::MaybeField(None) => memory(guest)?.0.put(at, [0]),
        Payload::MaybeField(Some(field)) => {
            memory(guest)?.0.put(at, [1])?;
            field_size(guest, at + 4, field)
        }
    }
}

fn field_size(guest: &mut Guest<'_>, at: At, field: &FieldSizePayload) -> Result<()> {
    option(guest, at, &field.field_name)?;
    number32(guest, at + 12, field.field_size)
}

fn number32(guest: &mut Guest<'_>, at: At, number: Option<u32>) -> Result<()> {
    let (mut view, _) = memory(guest)?;
    view.put_u32(at + 4, number.unwrap_or(0))?;
    view.put(at, [number.is_some().into()])
}

fn option(guest: &mut Guest<'_>, at: At, text: &Option<String>) -> Result<()> {
    super::request::option(guest, at, text.clone())
}

/// The case of a code, in the order of the interface.
fn parts(code: &ErrorCode) -> (u8, Payload<'_>) {
    use ErrorCode as C;
    use Payload::{Dns, Field, MaybeField, Nothing, Number32, Number64, Text, Tls};
    match code {
        C::DnsTimeout => (0, Nothing),
        C::DnsError(payload) => (1, Dns(payload)),
        C::DestinationNotFound => (2, Nothing),
        C::DestinationUnavailable => (3, Nothing),
        C::DestinationIpProhibited => (4, Nothing),
        C::DestinationIpUnroutable => (5, Nothing),
        C::ConnectionRefused => (6, Nothing),
        C::ConnectionTerminated => (7, Nothing),
        C::ConnectionTimeout => (8, Nothing),
        C::ConnectionReadTimeout => (9, Nothing),
        C::ConnectionWriteTimeout => (10, Nothing),
        C::ConnectionLimitReached => (11, Nothing),
        C::TlsProtocolError => (12, Nothing),
        C::TlsCertificateError => (13, Nothing),
        C::TlsAlertReceived(payload) => (14, Tls(payload)),
        C::HttpRequestDenied => (15, Nothing),
        C::HttpRequestLengthRequired => (16, Nothing),
        C::HttpRequestBodySize(size) => (17, Number64(*size)),
        C::HttpRequestMethodInvalid => (18, Nothing),
        C::HttpRequestUriInvalid => (19, Nothing),
        C::HttpRequestUriTooLong => (20, Nothing),
        C::HttpRequestHeaderSectionSize(size) => (21, Number32(*size)),
        C::HttpRequestHeaderSize(field) => (22, MaybeField(field)),
        C::HttpRequestTrailerSectionSize(size) => (23, Number32(*size)),
        C::HttpRequestTrailerSize(field) => (24, Field(field)),
        C::HttpResponseIncomplete => (25, Nothing),
        C::HttpResponseHeaderSectionSize(size) => (26, Number32(*size)),
        C::HttpResponseHeaderSize(field) => (27, Field(field)),
        C::HttpResponseBodySize(size) => (28, Number64(*size)),
        C::HttpResponseTrailerSectionSize(size) => (29, Number32(*size)),
        C::HttpResponseTrailerSize(field) => (30, Field(field)),
        C::HttpResponseTransferCoding(coding) => (31, Text(coding)),
        C::HttpResponseContentCoding(coding) => (32, Text(coding)),
        C::HttpResponseTimeout => (33, Nothing),
        C::HttpUpgradeFailed => (34, Nothing),
        C::HttpProtocolError => (35, Nothing),
        C::LoopDetected => (36, Nothing),
        C::ConfigurationError => (37, Nothing),
        C::InternalError(text) => (38, Text(text)),
    }
}

/// The code of a case. Of what follows it, an optional number or text is read: those are its three
/// first flat values.
pub(super) fn named(
    guest: &mut Guest<'_>,
    case: u32,
    (present, wide, next): (u32, u64, u32),
) -> Result<ErrorCode> {
    let number32 = || (present == 1).then_some(wide as u32);
    let number64 = || (present == 1).then_some(wide);
    let mut text = || {
        let text = (present == 1).then(|| memory(guest)?.0.text(wide as u32, next));
        text.transpose()
    };
    let field = || FieldSizePayload { field_name: None, field_size: None };
    use ErrorCode as C;
    Ok(match case {
        0 => C::DnsTimeout,
        1 => C::DnsError(DnsErrorPayload { rcode: None, info_code: None }),
        2 => C::DestinationNotFound,
        3 => C::DestinationUnavailable,
        4 => C::DestinationIpProhibited,
        5 => C::DestinationIpUnroutable,
        6 => C::ConnectionRefused,
        7 => C::ConnectionTerminated,
        8 => C::ConnectionTimeout,
        9 => C::ConnectionReadTimeout,
        10 => C::ConnectionWriteTimeout,
        11 => C::ConnectionLimitReached,
        12 => C::TlsProtocolError,
        13 => C::TlsCertificateError,
        14 => C::TlsAlertReceived(TlsAlertReceivedPayload { alert_id: None, alert_message: None }),
        15 => C::HttpRequestDenied,
        16 => C::HttpRequestLengthRequired,
        17 => C::HttpRequestBodySize(number64()),
        18 => C::HttpRequestMethodInvalid,
        19 => C::HttpRequestUriInvalid,
        20 => C::HttpRequestUriTooLong,
        21 => C::HttpRequestHeaderSectionSize(number32()),
        22 => C::HttpRequestHeaderSize(None),
        23 => C::HttpRequestTrailerSectionSize(number32()),
        24 => C::HttpRequestTrailerSize(field()),
        25 => C::HttpResponseIncomplete,
        26 => C::HttpResponseHeaderSectionSize(number32()),
        27 => C::HttpResponseHeaderSize(field()),
        28 => C::HttpResponseBodySize(number64()),
        29 => C::HttpResponseTrailerSectionSize(number32()),
        30 => C::HttpResponseTrailerSize(field()),
        31 => C::HttpResponseTransferCoding(text()?),
        32 => C::HttpResponseContentCoding(text()?),
        33 => C::HttpResponseTimeout,
        34 => C::HttpUpgradeFailed,
        35 => C::HttpProtocolError,
        36 => C::LoopDetected,
        37 => C::ConfigurationError,
        38 => C::InternalError(text()?),
        case => bail!("error code {case} is none"),
    })
}
