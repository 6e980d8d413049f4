//! The target of a request, split into path and query.

use std::time::Duration;

use wasip2::http::types::IncomingRequest;

/// A request target: the path as sent, the query pairs decoded.
pub struct Target {
    pub path: String,
    query: Vec<(String, String)>,
}

impl Target {
    /// The target of `request`; no target is `/`.
    pub fn of(request: &IncomingRequest) -> Self {
        Self::parse(&request.path_with_query().unwrap_or_else(|| "/".into()))
    }

    fn parse(text: &str) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self { path: path.into(), query: query.collect() }
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The first value of `key` as a whole number, at most `max`.
    ///
    /// # Errors
    /// A value that is no number, in words for the caller.
    pub fn count(&self, key: &str, default: u64, max: u64) -> Result<u64, String> {
        let Some(text) = self.get(key) else { return Ok(default) };
        let value: u64 =
            text.parse().map_err(|_| format!("{key} is not a whole number: {text}"))?;
        Ok(value.min(max))
    }

    /// The first value of `key`, in milliseconds with fractions, between nothing and `max`.
    ///
    /// # Errors
    /// A value that is no number, in words for the caller.
    pub fn millis(&self, key: &str, default: Duration, max: Duration) -> Result<Duration, String> {
        let Some(text) = self.get(key) else { return Ok(default) };
        match text.parse::<f64>() {
            Ok(ms) if ms >= 0.0 => {
                Ok(Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(max).min(max))
            }
            _ => Err(format!("{key} is not a number of milliseconds: {text}")),
        }
    }
}

/// Undoes `%41` and `+`. What does not decode stays as it was sent.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = hex.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_are_split_and_decoded() {
        let target = Target::parse("/a/b?x=1&msg=hi+there%21&flag");
        assert_eq!(target.path, "/a/b");
        assert_eq!(target.get("msg"), Some("hi there!"));
        assert_eq!(target.get("flag"), Some(""));
        assert_eq!(target.get("none"), None);
    }

    #[test]
    fn a_broken_escape_stays_as_sent() {
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz"), "%zz");
    }

    #[test]
    fn numbers_are_bounded_and_nonsense_is_refused() {
        let target = Target::parse("/?n=7&ms=0.5&bad=x&huge=1e300&less=-1");
        let second = Duration::from_secs(1);
        assert_eq!(target.count("n", 1, 5), Ok(5));
        assert_eq!(target.count("none", 1, 5), Ok(1));
        assert!(target.count("bad", 1, 5).is_err());
        assert_eq!(target.millis("ms", second, second), Ok(Duration::from_micros(500)));
        assert_eq!(target.millis("huge", second, second), Ok(second));
        assert!(target.millis("less", second, second).is_err());
    }
}
