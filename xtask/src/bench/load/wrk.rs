//! wrk: HTTP/1.1, a closed loop as fast as the server.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Sample, THREADS, run};

/// GET on so many kept connections at once.
pub(super) fn get(url: &str, connections: usize, lasts: Duration) -> Result<Sample> {
    let (connections, lasts) = (connections.to_string(), format!("{}s", lasts.as_secs()));
    let args = ["-t", THREADS, "-c", &connections, "-d", &lasts, "--latency", url];
    let text = run("wrk", &args)?;
    sample(&text).with_context(|| format!("wrk at {url}: {text}"))
}

/// What wrk prints; every answer must be a good one.
fn sample(text: &str) -> Result<Sample> {
    ensure!(!text.contains("Non-2xx or 3xx"), "some answers were errors");
    ensure!(!text.contains("Socket errors"), "some connections failed");
    let percentile = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        micros(line.context("no percentile")?.trim())
    };
    let after = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name));
    let calls_per_s = after("Requests/sec:").context("no rate")?.trim().parse()?;
    let counted = text.lines().find(|line| line.contains(" requests in "));
    let calls = counted.and_then(|line| line.split_whitespace().next()).context("no count")?;
    Ok(Sample {
        calls_per_s,
        calls: calls.parse()?,
        p50_us: percentile("50%")?,
        p99_us: percentile("99%")?,
    })
}

/// `1.25ms` and the like, in microseconds.
fn micros(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("`{text}` is no duration")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 5s test @ http://127.0.0.1:1/hello
  2 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   100.00us   50.00us   2.00ms   90.00%
  Latency Distribution
     50%   96.00us
     75%  120.00us
     90%  150.00us
     99%    1.25ms
  500000 requests in 5.10s, 60.00MB read
Requests/sec:  98039.21
Transfer/sec:     11.76MB
";

    #[test]
    fn what_wrk_prints_is_read_and_errors_are_not_counted_as_calls() {
        let read = sample(WRK).unwrap();
        let all =
            Sample { calls_per_s: 98_039.21, calls: 500_000.0, p50_us: 96.0, p99_us: 1_250.0 };
        assert_eq!(read, all);
        assert!(sample(&format!("{WRK}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(sample("").is_err());
    }
}
