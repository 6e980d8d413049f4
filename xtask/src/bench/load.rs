//! Load by wrk (HTTP/1.1) and h2load (HTTP/2, gRPC, large bodies): closed loops that are as fast as the
//! server. Their threads are fixed: with another number of them every ratio is another.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Threads of the client.
const THREADS: &str = "2";

/// The programs that send load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tools;

/// What came of one run of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Calls answered as they should be, in a second.
    pub(super) calls_per_s: f64,
    /// All of them.
    pub(super) calls: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Tools {
    /// Both must be there.
    ///
    /// # Errors
    /// Which is missing.
    pub(super) fn find() -> Result<Self> {
        for (program, package) in [("wrk", "wrk"), ("h2load", "nghttp2-client")] {
            if super::said(program, &["--version"]).is_none() {
                bail!("{program} sends the load and is not installed (Debian: {package})");
            }
        }
        Ok(Self)
    }

    /// What they are, for the page.
    pub(super) fn versions(self) -> String {
        let first =
            |text: Option<String>| text.unwrap_or_default().lines().next().map(str::to_owned);
        let wrk = first(super::said("wrk", &["--version"])).unwrap_or_default();
        let h2load = first(super::said("h2load", &["--version"])).unwrap_or_default();
        format!("{}, {h2load}, {THREADS} threads each", wrk.split(" [").next().unwrap_or(&wrk))
    }

    /// GET over HTTP/1.1, on so many kept connections at once.
    ///
    /// # Errors
    /// It does not run, or a call failed.
    pub(super) fn get(self, url: &str, connections: usize, lasts: Duration) -> Result<Sample> {
        let (connections, lasts) = (connections.to_string(), format!("{}s", lasts.as_secs()));
        let args = ["-t", THREADS, "-c", &connections, "-d", &lasts, "--latency", url];
        let text = run("wrk", &args)?;
        of_wrk(&text).with_context(|| format!("wrk at {url}: {text}"))
    }

    /// The same over HTTP/2, one call at a time on each connection, or a POST of a file's bytes.
    ///
    /// # Errors
    /// It does not run, or a call failed.
    pub(super) fn h2(self, post: &Post<'_>, connections: usize, lasts: Duration) -> Result<Sample> {
        let log = post.folder.join("h2load.log");
        // It appends.
        if log.exists() {
            std::fs::remove_file(&log)?;
        }
        let (connections, lasts) = (connections.to_string(), lasts.as_secs().to_string());
        let log_argument = format!("--log-file={}", log.display());
        let mut args = vec!["-t", THREADS, "-c", &connections, "-m", "1", "-D", &lasts];
        args.push(&log_argument);
        let body = post.body.as_ref().map(|body| body.display().to_string());
        if let Some(body) = &body {
            args.extend(["-d", body]);
        }
        for header in post.headers {
            args.extend(["-H", header]);
        }
        if post.over_http1 {
            args.push("--h1");
        }
        args.push(post.url);
        let text = run("h2load", &args)?;
        let requests = std::fs::read_to_string(&log).unwrap_or_default();
        of_h2load(&text, &requests).with_context(|| format!("h2load at {}: {text}", post.url))
    }
}

/// What h2load sends.
pub(super) struct Post<'a> {
    pub(super) url: &'a str,
    pub(super) headers: &'a [&'a str],
    /// The file to send; none: GET.
    pub(super) body: Option<PathBuf>,
    pub(super) over_http1: bool,
    /// For its log.
    pub(super) folder: &'a Path,
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {text}{said}", output.status);
    Ok(text)
}

/// What wrk prints; every answer must be a good one.
fn of_wrk(text: &str) -> Result<Sample> {
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

/// What h2load prints, and its log: a line a request with start, status and microseconds.
fn of_h2load(text: &str, requests: &str) -> Result<Sample> {
    let counts = text.lines().find(|line| line.starts_with("requests: ")).context("no counts")?;
    let count = |what: &str| -> Result<f64> {
        let words: Vec<&str> = counts.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| *word == what).context("a count is missing")?;
        Ok(words[at - 1].parse()?)
    };
    ensure!(count("failed")? + count("errored")? == 0.0, "some calls failed: {counts}");
    let rate = text.lines().find(|line| line.starts_with("finished in ")).context("no rate")?;
    let rate = rate.split(", ").find_map(|part| part.strip_suffix(" req/s")).context("no rate")?;
    let mut took = Vec::new();
    for line in requests.lines() {
        let mut fields = line.split('\t').skip(1);
        let (status, micros) = (fields.next(), fields.next());
        ensure!(status == Some("200"), "an answer had another status: {line}");
        took.push(micros.context("a line of the log is short")?.parse::<f64>()?);
    }
    took.sort_by(f64::total_cmp);
    let at = |hundredths: usize| took.get((took.len() * hundredths / 100).min(took.len() - 1));
    ensure!(!took.is_empty(), "no call was answered");
    Ok(Sample {
        calls_per_s: rate.parse()?,
        calls: count("succeeded")?,
        p50_us: at(50).copied().unwrap_or_default(),
        p99_us: at(99).copied().unwrap_or_default(),
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
        let sample = of_wrk(WRK).unwrap();
        let all =
            Sample { calls_per_s: 98_039.21, calls: 500_000.0, p50_us: 96.0, p99_us: 1_250.0 };
        assert_eq!(sample, all);
        assert!(of_wrk(&format!("{WRK}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(of_wrk("").is_err());
    }

    #[test]
    fn what_h2load_prints_is_read_with_its_log() {
        let text = "finished in 1.00s, 3.00 req/s, 1.2KB/s\nrequests: 3 total, 3 started, 3 done, \
                    3 succeeded, 0 failed, 0 errored, 0 timeout\n";
        let log = "1\t200\t30\n2\t200\t10\n3\t200\t20\n";
        let sample = of_h2load(text, log).unwrap();
        let all = Sample { calls_per_s: 3.0, calls: 3.0, p50_us: 20.0, p99_us: 30.0 };
        assert_eq!(sample, all);
        assert!(of_h2load(&text.replace("0 failed", "1 failed"), log).is_err());
        assert!(of_h2load(text, "1\t503\t30\n").is_err());
        assert!(of_h2load(text, "").is_err());
    }
}
