//! An open loop that keeps its schedule whatever comes back: `node/examples/openloop.rs`.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What is asked for.
pub(in crate::bench) struct Load<'a> {
    pub(in crate::bench) address: SocketAddr,
    pub(in crate::bench) path: &'a str,
    /// Each serves a call before, which is not counted.
    pub(in crate::bench) used: bool,
    /// Open before the first call; so many calls wait at once at most.
    pub(in crate::bench) connections: usize,
    /// So many calls a second for so long, one after the other.
    pub(in crate::bench) phases: &'a [(f64, Duration)],
}

/// What came of a phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::bench) struct Phase {
    pub(in crate::bench) seconds: f64,
    /// Calls that the schedule asks for.
    pub(in crate::bench) calls: f64,
    /// Those answered with 200 …
    pub(in crate::bench) good: f64,
    /// … and with 429 or 503.
    pub(in crate::bench) refused: f64,
    /// Those that failed, or that no connection was free for; and why the first of them did.
    pub(in crate::bench) lost: f64,
    pub(in crate::bench) why: Option<String>,
    /// Of the good ones; NaN when there were none.
    pub(in crate::bench) p50_ms: f64,
    pub(in crate::bench) p99_ms: f64,
    /// Of the refused ones; NaN when there were none.
    pub(in crate::bench) refused_p99_ms: f64,
    /// How far behind its schedule the client sent.
    pub(in crate::bench) lag_p99_ms: f64,
    /// CPU time of the client.
    pub(in crate::bench) cpu_s: f64,
    /// The good ones' median by when they were sent, in windows as long as `window_s`; none: there were
    /// none.
    pub(in crate::bench) windows_p50_ms: Vec<Option<f64>>,
    pub(in crate::bench) window_s: f64,
}

impl Phase {
    /// Good answers in a second.
    pub(in crate::bench) fn goodput(&self) -> f64 {
        self.good / self.seconds
    }

    /// What was lost, in words; nothing if nothing was.
    pub(in crate::bench) fn losses(&self) -> String {
        match (self.lost, &self.why) {
            (0.0, _) => String::new(),
            (lost, None) => format!("; {lost} not sent"),
            (lost, Some(why)) => format!("; {lost} failed or not sent: {why}"),
        }
    }

    /// Part of a core that the client took.
    pub(in crate::bench) fn client_cores(&self) -> f64 {
        self.cpu_s / self.seconds
    }

    /// When it is back at this median, in seconds since its begin: two windows in a row are, as one may
    /// be by chance. None: it never is.
    pub(in crate::bench) fn back_at(&self, p50_ms_max: f64) -> Option<f64> {
        let is_back = |window: &Option<f64>| window.is_some_and(|p50_ms| p50_ms <= p50_ms_max);
        let at = self.windows_p50_ms.windows(2).position(|both| both.iter().all(is_back))?;
        Some(at as f64 * self.window_s)
    }
}

/// A load on its way. It ends with its value.
pub(in crate::bench) struct Offering(Child);

impl Offering {
    /// Begins to send.
    ///
    /// # Errors
    /// The client does not start.
    pub(in crate::bench) fn begin(mut client: Command, load: &Load<'_>) -> Result<Self> {
        let how = if load.used { "probe" } else { "send" };
        client.args([how, &load.address.to_string(), load.path, &load.connections.to_string()]);
        for (rate, lasts) in load.phases {
            client.arg(format!("{rate}:{}", lasts.as_secs_f64()));
        }
        client.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(client.spawn().with_context(|| format!("cannot start {client:?}"))?))
    }

    /// What came of its phases, when the last answer is there.
    ///
    /// # Errors
    /// The client failed.
    pub(in crate::bench) fn end(mut self) -> Result<Vec<Phase>> {
        let mut text = String::new();
        self.0.stdout.take().context("its output is taken once")?.read_to_string(&mut text)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "the client ended with {status}");
        phases(&text).with_context(|| format!("open loop: {text:.2000}"))
    }
}

impl Drop for Offering {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it prints.
fn phases(text: &str) -> Result<Vec<Phase>> {
    let said: Value = serde_json::from_str(text)?;
    said.as_array().context("no phases")?.iter().map(phase).collect()
}

fn phase(said: &Value) -> Result<Phase> {
    let number = |name: &str| said[name].as_f64().with_context(|| format!("{name} is missing"));
    let percentile = |name: &str| said[name].as_f64().unwrap_or(f64::NAN);
    let windows = said["windows_p50_ms"].as_array().context("no windows")?;
    Ok(Phase {
        seconds: number("seconds")?,
        calls: number("calls")?,
        good: number("good")?,
        refused: number("refused")?,
        lost: number("failed")? + number("unsent")?,
        why: said["why"].as_str().map(ToOwned::to_owned),
        p50_ms: percentile("p50_ms"),
        p99_ms: percentile("p99_ms"),
        refused_p99_ms: percentile("refused_p99_ms"),
        lag_p99_ms: percentile("lag_p99_ms"),
        cpu_s: number("cpu_s")?,
        windows_p50_ms: windows.iter().map(Value::as_f64).collect(),
        window_s: number("window_s")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"[{"calls":10,"seconds":2.0,"good":6,"refused":4,"failed":0,"why":null,
        "unsent":0,"p50_ms":1.5,"p99_ms":2.5,"refused_p99_ms":null,"lag_p99_ms":1.0,"cpu_s":0.5,
        "window_s":0.25,"windows_p50_ms":[null,1.0,9.0,1.5,1.4]}]"#;

    #[test]
    fn what_the_open_loop_prints_is_read_and_what_is_lost_is_said() {
        let read = &phases(SAID).unwrap()[0];
        assert_eq!((read.goodput(), read.client_cores(), read.p99_ms), (3.0, 0.25, 2.5));
        assert!(read.refused_p99_ms.is_nan());
        assert_eq!((read.lost, read.losses().as_str()), (0.0, ""));
        let bad = SAID.replace(r#""failed":0,"why":null"#, r#""failed":1,"why":"reset""#);
        assert_eq!(phases(&bad).unwrap()[0].losses(), "; 1 failed or not sent: reset");
        let bad = SAID.replace(r#""unsent":0"#, r#""unsent":2"#);
        assert_eq!(phases(&bad).unwrap()[0].losses(), "; 2 not sent");
        assert!(phases("{}").is_err());
    }

    #[test]
    fn one_good_window_is_not_back_to_normal() {
        let read = &phases(SAID).unwrap()[0];
        assert_eq!(read.back_at(1.5), Some(0.75));
        assert_eq!(read.back_at(9.0), Some(0.25));
        assert_eq!(read.back_at(1.4), None);
    }
}
