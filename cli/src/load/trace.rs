//! Traces of the Azure Functions kind: calls per function and minute, run times per function.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nigh_model::FunctionName;
use nigh_model::limits::FUNCTIONS_PER_APP_MAX;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::failure::{Failure, Result};

/// Columns before the first minute.
const COLUMNS_BEFORE_MINUTES: usize = 4;
/// Longest trace that is read, in bytes: the 250-function sample a hundred times over.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Quantiles of the columns `percentile_Average_*`, from 0 to 1.
const QUANTILES: [f64; 7] = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0];

/// A trace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace {
    /// How many minutes it has.
    pub(crate) minutes: usize,
    /// Its functions in the order of the file.
    pub(crate) functions: Vec<Function>,
}

/// A function of a trace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    /// Its trigger and the beginning of its hash: valid as a function's name here.
    pub(crate) name: FunctionName,
    /// Calls in each minute.
    pub(crate) per_minute: Vec<u32>,
    /// Its run time at each of `QUANTILES`, in ms, rising.
    run_time_ms: [f64; QUANTILES.len()],
}

/// A call of a trace, in the time of its replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TracedCall {
    /// From the start of the replay.
    pub(crate) at: Duration,
    /// Which function.
    pub(crate) function: usize,
    /// How long it ran, divided by the speed-up.
    pub(crate) runs: Duration,
}

impl Function {
    /// A run time with this share of all below it, in ms: between two known percentiles, as
    /// far along as the share is.
    fn run_time_ms(&self, share: f64) -> f64 {
        let above = QUANTILES.iter().position(|quantile| share <= *quantile).unwrap_or(0).max(1);
        let (low, high) = (QUANTILES[above - 1], QUANTILES[above]);
        let along = (share - low) / (high - low);
        self.run_time_ms[above - 1] * (1.0 - along) + self.run_time_ms[above] * along
    }

    /// All its calls.
    pub(crate) fn calls(&self) -> u64 {
        self.per_minute.iter().map(|calls| u64::from(*calls)).sum()
    }
}

impl Trace {
    /// Reads a file of calls per minute, and the file of run times beside it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let durations = durations_beside(path)?;
        Self::parse(&read_text(path)?, &read_text(&durations)?)
            .map_err(|why| Failure::invalid(format!("cannot read {}", path.display())).why(why))
    }

    /// Reads both tables.
    ///
    /// # Errors
    /// The first line that is not as it should be.
    pub(crate) fn parse(invocations: &str, durations: &str) -> std::result::Result<Self, String> {
        let mut lines = invocations.lines();
        let header = lines.next().unwrap_or_default();
        let columns: Vec<&str> = header.split(',').collect();
        if !header.starts_with("HashOwner,HashApp,HashFunction,Trigger,") {
            return Err("its first line is not HashOwner,HashApp,HashFunction,Trigger and minutes"
                .to_owned());
        }
        let minutes = columns.len() - COLUMNS_BEFORE_MINUTES;
        let mut functions: Vec<Function> = Vec::new();
        for (at, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
            let at = at + 2;
            let cells: Vec<&str> = line.split(',').collect();
            if cells.len() != columns.len() {
                return Err(format!(
                    "line {at} has {} cells, the first {}",
                    cells.len(),
                    columns.len()
                ));
            }
            let per_minute = cells[COLUMNS_BEFORE_MINUTES..]
                .iter()
                .map(|cell| if cell.is_empty() { Ok(0) } else { cell.parse() })
                .collect::<std::result::Result<Vec<u32>, _>>()
                .map_err(|error| format!("line {at}: a number of calls is not one: {error}"))?;
            let name = name_of(cells[3], cells[2], functions.len(), &functions)
                .ok_or_else(|| format!("line {at}: the function has no usable name"))?;
            let run_time_ms = run_times(durations, cells[2])
                .ok_or_else(|| format!("line {at}: no run times for {}", cells[2]))?;
            functions.push(Function { name, per_minute, run_time_ms });
        }
        if functions.is_empty() || functions.len() > FUNCTIONS_PER_APP_MAX {
            return Err(format!(
                "it has {} functions; 1 to {FUNCTIONS_PER_APP_MAX} can be deployed as one app",
                functions.len()
            ));
        }
        Ok(Self { minutes, functions })
    }

    /// All calls of all functions.
    pub(crate) fn calls(&self) -> u64 {
        self.functions.iter().map(Function::calls).sum()
    }

    /// How long a replay takes.
    pub(crate) fn replay_time(&self, speed: f64) -> Duration {
        Duration::from_secs_f64(self.minutes as f64 * 60.0 / speed)
    }

    /// All calls of a replay in the order of their starts. The trace says only how many calls
    /// fall into a minute: where in it is drawn, as independent callers do.
    pub(crate) fn replay(&self, speed: f64, seed: u64) -> Vec<TracedCall> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut calls = Vec::new();
        for (index, function) in self.functions.iter().enumerate() {
            for (minute, count) in function.per_minute.iter().enumerate() {
                for _ in 0..*count {
                    let at = (minute as f64 + random.random::<f64>()) * 60.0 / speed;
                    let runs = function.run_time_ms(random.random()) / 1e3 / speed;
                    calls.push(TracedCall {
                        at: Duration::from_secs_f64(at),
                        function: index,
                        runs: Duration::from_secs_f64(runs),
                    });
                }
            }
        }
        calls.sort_by_key(|call| call.at);
        calls
    }
}

/// `100_invocations.csv` has its run times in `100_durations.csv`.
fn durations_beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains("invocations") {
        return Err(Failure::usage(format!("{} is no trace that nigh can read", path.display()))
            .why("the file's name must hold `invocations`, the one beside it `durations`"));
    }
    Ok(path.with_file_name(name.replace("invocations", "durations")))
}

fn read_text(path: &Path) -> Result<String> {
    let fail = |why: String| {
        Failure::new(nigh_model::Kind::NotFound, format!("cannot read {}", path.display()))
            .why(why)
            .hint("a trace is two files: NAME_invocations.csv and NAME_durations.csv")
    };
    let bytes = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(Failure::invalid(format!("{} is too large", path.display()))
            .why(format!("at most {} MiB are read", FILE_BYTES_MAX >> 20)));
    }
    std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))
}

fn name_of(trigger: &str, hash: &str, index: usize, before: &[Function]) -> Option<FunctionName> {
    let name = format!("{trigger}-{}", hash.get(..8)?);
    let is_free = |name: &str| before.iter().all(|function| function.name.as_str() != name);
    let name = if is_free(&name) { name } else { format!("{name}-{index}") };
    FunctionName::new(name).ok()
}

/// The percentiles of a function's run time, in ms.
fn run_times(durations: &str, hash: &str) -> Option<[f64; QUANTILES.len()]> {
    let line = durations.lines().find(|line| line.split(',').nth(2) == Some(hash))?;
    let cells: Vec<&str> = line.split(',').collect();
    let percentiles = cells.get(7..7 + QUANTILES.len())?;
    let mut times = [0.0_f64; QUANTILES.len()];
    let mut longest = 0.0_f64;
    for (time, cell) in times.iter_mut().zip(percentiles) {
        let ms: f64 = cell.parse().ok()?;
        longest = longest.max(if ms.is_finite() { ms } else { return None });
        *time = longest;
    }
    Some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVOCATIONS: &str = "HashOwner,HashApp,HashFunction,Trigger,480,481\n\
                               o,a,0123456789,http,3,0\no,a,aaaabbbbcc,timer,,1\n";
    const DURATIONS: &str = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,\
        p0,p1,p25,p50,p75,p99,p100\n\
        o,a,0123456789,5,9,0.0,100.0,0,1,10,20,30,90,100\n\
        o,a,aaaabbbbcc,5,9,0.0,100.0,5,5,5,5,5,5,5\n";

    fn trace() -> Trace {
        Trace::parse(INVOCATIONS, DURATIONS).unwrap()
    }

    #[test]
    fn counts_names_and_run_times_are_read() {
        let trace = trace();
        assert_eq!((trace.minutes, trace.calls()), (2, 4));
        assert_eq!(trace.functions[0].name.as_str(), "http-01234567");
        assert_eq!(trace.functions[1].per_minute, [0, 1]);
        let function = &trace.functions[0];
        assert_eq!(function.run_time_ms(0.0), 0.0);
        assert_eq!(function.run_time_ms(0.5), 20.0);
        assert_eq!(function.run_time_ms(0.625), 25.0);
        assert_eq!(function.run_time_ms(1.0), 100.0);
    }

    #[test]
    fn a_replay_keeps_minutes_and_divides_times() {
        let calls = trace().replay(60.0, 1);
        assert_eq!(calls.len(), 4);
        assert!(calls.is_sorted_by_key(|call| call.at));
        assert!(calls[..3].iter().all(|call| call.at < Duration::from_secs(1)));
        assert!((1.0..2.0).contains(&calls[3].at.as_secs_f64()));
        assert!((calls[3].runs.as_secs_f64() - 0.005 / 60.0).abs() < 1e-6);
        assert_eq!(trace().replay(60.0, 1), trace().replay(60.0, 1));
        assert_eq!(trace().replay_time(60.0), Duration::from_secs(2));
    }

    #[test]
    fn a_bad_trace_is_refused_with_its_line() {
        let refused = |invocations: &str| Trace::parse(invocations, DURATIONS).unwrap_err();
        assert!(refused("").contains("first line"));
        assert!(refused(&INVOCATIONS.replace(",3,0", ",3")).contains("line 2"));
        assert!(refused(&INVOCATIONS.replace(",3,0", ",x,0")).contains("line 2"));
        assert!(refused(&INVOCATIONS.replace("aaaabbbbcc", "cccc")).contains("line 3"));
        assert!(refused(INVOCATIONS.lines().next().unwrap()).contains("0 functions"));
    }
}
