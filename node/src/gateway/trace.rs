//! What a call is known by: its request id and its trace context (W3C).

use http::{HeaderMap, HeaderName, HeaderValue};
use nigh_model::RequestId;

use crate::clock;

/// The request id.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Length of a trace context of version 00, in bytes.
const TRACEPARENT_BYTES: usize = 55;
/// Longest trace context of a later version that is passed on, in bytes.
const TRACEPARENT_BYTES_MAX: usize = 256;

/// A call's request id and trace context: the caller's own where they are valid.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// The request id.
    pub(crate) request_id: RequestId,
    /// The request id as a header, so that it is checked once.
    pub(crate) request_id_value: HeaderValue,
    /// The trace context.
    pub(crate) traceparent: HeaderValue,
}

impl Trace {
    /// Takes what the caller gave, and makes what it did not.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let request_id =
            given.and_then(|text| RequestId::new(text).ok()).unwrap_or_else(clock::request_id);
        let request_id_value = HeaderValue::from_str(request_id.as_str())
            .unwrap_or_else(|_| HeaderValue::from_static("-"));
        let mut contexts = headers.get_all(&TRACEPARENT).iter();
        let given = contexts.next().filter(|value| is_traceparent(value.as_bytes()));
        let traceparent = match (given, contexts.next()) {
            (Some(one), None) => one.clone(),
            _ => made(clock::random_bytes()),
        };
        Self { request_id, request_id_value, traceparent }
    }

    /// Sets both headers.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(X_REQUEST_ID, self.request_id_value.clone());
        headers.insert(TRACEPARENT, self.traceparent.clone());
    }
}

/// A new context, not sampled: nobody has asked for a record of it.
fn made(mut random: [u8; 24]) -> HeaderValue {
    // An id of zeros is not valid.
    random[15] |= 1;
    random[23] |= 1;
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    // Each fits its place.
    let _ = hex::encode_to_slice(&random[..16], &mut text[3..35]);
    let _ = hex::encode_to_slice(&random[16..], &mut text[36..52]);
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Whether this is a trace context, of version 00 or one that begins like it.
fn is_traceparent(text: &[u8]) -> bool {
    if text.len() < TRACEPARENT_BYTES || text.len() > TRACEPARENT_BYTES_MAX {
        return false;
    }
    let (version, trace, parent, flags) = (&text[..2], &text[3..35], &text[36..52], &text[53..55]);
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    let ends_well = match text.get(TRACEPARENT_BYTES) {
        None => true,
        Some(next) => version != b"00" && *next == b'-',
    };
    [text[2], text[35], text[52]] == *b"---"
        && [version, trace, parent, flags].into_iter().all(hex)
        && version != b"ff"
        && !zero(trace)
        && !zero(parent)
        && ends_well
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn trace(headers: &[(&'static str, &str)]) -> Trace {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Trace::of(&map)
    }

    #[test]
    fn valid_ids_are_passed_on() {
        let trace = trace(&[("x-request-id", "abc/1"), ("traceparent", GOOD)]);
        assert_eq!(trace.request_id.as_str(), "abc/1");
        assert_eq!(trace.traceparent, GOOD);
    }

    #[test]
    fn invalid_or_missing_ids_are_made() {
        for bad in ["", "a b", &"x".repeat(129)] {
            assert_eq!(trace(&[("x-request-id", bad)]).request_id.as_str().len(), 32, "{bad}");
        }
        let doubled = trace(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_ne!(doubled.traceparent, GOOD);
        assert!(is_traceparent(doubled.traceparent.as_bytes()));
        assert_ne!(trace(&[]).request_id, trace(&[]).request_id);
        assert!(is_traceparent(made([0; 24]).as_bytes()));
    }

    #[test]
    fn a_context_follows_the_rules_of_the_w3c() {
        assert!(is_traceparent(GOOD.as_bytes()));
        assert!(is_traceparent(format!("cc{}-later", &GOOD[2..]).as_bytes()));
        for bad in [
            "",
            &GOOD[1..],
            &format!("{GOOD}-more"),
            &GOOD.to_uppercase(),
            &format!("ff{}", &GOOD[2..]),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }
}
