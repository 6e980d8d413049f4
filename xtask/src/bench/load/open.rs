//! `nigh load`, where wrk is not installed: an open loop. It is sent more than any server here answers
//! and no more at once than wrk would; what does not fit is dropped by the client. Slower than wrk, so
//! that its ratios are nearer to one.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Sample, run};

/// Calls per second that are tried: more than the client itself can send.
const RATE: &str = "20000";

/// GET with so many at once.
pub(super) fn get(nigh: &Path, url: &str, at_once: usize, lasts: Duration) -> Result<Sample> {
    let (at_once, duration) = (at_once.to_string(), format!("{}s", lasts.as_secs()));
    let how = ["--rate", RATE, "--spread", "constant", "--timeout", "10s", "--seed", "1"];
    let what = ["--concurrency", &at_once, "--duration", &duration, "--output", "json"];
    let program = nigh.to_string_lossy();
    let text = run(&program, &[&["load", url], &how[..], &what[..]].concat())?;
    sample(&text, lasts).with_context(|| format!("nigh load at {url}: {text}"))
}

/// What it prints; every call that was sent must be answered well.
fn sample(text: &str, lasts: Duration) -> Result<Sample> {
    let said: Value = serde_json::from_str(text)?;
    let total = &said["total"];
    let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
    ensure!(empty(&total["errors"]), "some calls failed: {}", total["errors"]);
    let calls = total["answered"].as_f64().context("no count")?;
    let good = total["statuses"]["200"].as_f64().unwrap_or_default();
    ensure!(calls > 0.0 && good == calls, "some answers were errors: {}", total["statuses"]);
    let micros = |name: &str| total["latency_ms"][name].as_f64().map(|ms| ms * 1e3);
    Ok(Sample {
        calls_per_s: calls / lasts.as_secs_f64(),
        calls,
        p50_us: micros("p50").context("no p50")?,
        p99_us: micros("p99").context("no p99")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nigh_load_prints_is_read_and_what_it_dropped_is_no_call() {
        let text = r#"{"seed":1,"total":{"calls":9,"answered":4,"statuses":{"200":4},"errors":{},
            "dropped_by_client":5,"latency_ms":{"p50":1.5,"p99":2.0,"max":2.5}}}"#;
        let all = Sample { calls_per_s: 2.0, calls: 4.0, p50_us: 1_500.0, p99_us: 2_000.0 };
        assert_eq!(sample(text, Duration::from_secs(2)).unwrap(), all);
        for bad in [r#""200":4"#, r#""errors":{}"#] {
            let worse = bad.replace("200", "503").replace("{}", r#"{"TIME_LIMIT":1}"#);
            let text = text.replace(bad, &worse);
            assert!(sample(&text, Duration::from_secs(2)).is_err(), "{text}");
        }
        assert!(sample("", Duration::from_secs(2)).is_err());
    }
}
