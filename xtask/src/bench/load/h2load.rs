//! h2load: HTTP/2, gRPC and large bodies, a closed loop as fast as the server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Sample, THREADS, run};

/// What is sent, one call at a time on each connection.
#[derive(Clone, Debug)]
pub(in crate::bench) struct H2 {
    pub(in crate::bench) url: String,
    pub(in crate::bench) headers: &'static [&'static str],
    /// The file to POST; none: GET.
    pub(in crate::bench) body: Option<PathBuf>,
    pub(in crate::bench) over_http1: bool,
}

impl H2 {
    /// GET over HTTP/2.
    pub(in crate::bench) fn get(url: String) -> Self {
        Self { url, headers: &[], body: None, over_http1: false }
    }
}

/// Sends it; `folder` is for a log.
pub(super) fn send(
    call: &H2,
    folder: &Path,
    connections: usize,
    lasts: Duration,
) -> Result<Sample> {
    let log = folder.join("h2load.log");
    // It appends.
    if log.exists() {
        std::fs::remove_file(&log)?;
    }
    let (connections, lasts) = (connections.to_string(), lasts.as_secs().to_string());
    let log_argument = format!("--log-file={}", log.display());
    let mut args = vec!["-t", THREADS, "-c", &connections, "-m", "1", "-D", &lasts];
    args.push(&log_argument);
    let body = call.body.as_ref().map(|body| body.display().to_string());
    if let Some(body) = &body {
        args.extend(["-d", body]);
    }
    for header in call.headers {
        args.extend(["-H", header]);
    }
    if call.over_http1 {
        args.push("--h1");
    }
    args.push(&call.url);
    let text = run("h2load", &args)?;
    let requests = std::fs::read_to_string(&log).unwrap_or_default();
    sample(&text, &requests).with_context(|| format!("h2load at {}: {text}", call.url))
}

/// What h2load prints, and its log: a line a request with start, status and microseconds.
fn sample(text: &str, requests: &str) -> Result<Sample> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_prints_is_read_with_its_log() {
        let text = "finished in 1.00s, 3.00 req/s, 1.2KB/s\nrequests: 3 total, 3 started, 3 done, \
                    3 succeeded, 0 failed, 0 errored, 0 timeout\n";
        let log = "1\t200\t30\n2\t200\t10\n3\t200\t20\n";
        let read = sample(text, log).unwrap();
        let all = Sample { calls_per_s: 3.0, calls: 3.0, p50_us: 20.0, p99_us: 30.0 };
        assert_eq!(read, all);
        assert!(sample(&text.replace("0 failed", "1 failed"), log).is_err());
        assert!(sample(text, "1\t503\t30\n").is_err());
        assert!(sample(text, "").is_err());
    }
}
