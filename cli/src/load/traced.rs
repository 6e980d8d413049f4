//! A trace as an app: each traced function is a function of its own that does what was traced.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nigh_model::spec::RegionPattern;
use nigh_model::{AppName, Digest, FunctionSpec};

use crate::load::trace::Trace;
use crate::package::Package;

/// The example component that waits and computes as its caller asks.
static WORK: &[u8] = include_bytes!("../../../examples/work/work.wasm");

/// Most computing of one call: a replay measures the platform, not this machine's arithmetic.
const COMPUTE_MAX: Duration = Duration::from_millis(2);
/// The share of its run time that a traced function computes; the rest of it waits. With it,
/// a few hundred calls a second leave a laptop with two cores most of them.
const COMPUTE_SHARE: f64 = 0.02;
/// Longest run of one replayed call: below the default time limit of a function.
const RUN_MAX: Duration = Duration::from_secs(10);

/// The app: a function for each one traced, with the regions where it may run.
pub(crate) fn package(
    app: AppName,
    trace: &Trace,
    regions: impl Fn(usize) -> Vec<RegionPattern>,
) -> Package {
    let mut package = Package::of_memory(app, ("work.wasm", Bytes::from_static(WORK)));
    for (index, function) in trace.functions.iter().enumerate() {
        let mut settings = FunctionSpec::new(Digest::from_bytes([0; 32]), 0);
        settings.placement.regions = regions(index);
        let spec = package.function_of_memory(settings);
        package.spec.functions.insert(function.name.clone(), spec);
    }
    package
}

/// Names of the functions as they are called: `app/function`.
pub(crate) fn names(app: &AppName, trace: &Trace) -> Vec<String> {
    trace.functions.iter().map(|function| format!("{app}/{}", function.name)).collect()
}

/// What a caller asks for so that a function runs this long.
pub(crate) fn path(app: &AppName, trace: &Trace, function: usize, runs: Duration) -> Arc<str> {
    let runs = runs.min(RUN_MAX);
    let compute = runs.mul_f64(COMPUTE_SHARE).min(COMPUTE_MAX);
    let wait = runs - compute;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let query = format!("?wait_ms={:.3}&compute_ms={:.3}", ms(wait), ms(compute));
    // An app of one function is called by its own name alone.
    let path = match trace.functions.len() {
        1 => format!("/{app}{query}"),
        _ => format!("/{app}/{}{query}", trace.functions[function].name),
    };
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(functions: usize) -> Trace {
        let mut invocations = "HashOwner,HashApp,HashFunction,Trigger,1\n".to_owned();
        let mut durations = String::new();
        for index in 0..functions {
            invocations.push_str(&format!("o,a,{index:08},http,1\n"));
            durations.push_str(&format!("o,a,{index:08},0,0,0,0,0,1,2,3,4,5,6\n"));
        }
        Trace::parse(&invocations, &durations).unwrap()
    }

    #[test]
    fn every_traced_function_is_a_function() {
        let app = AppName::new("trace").unwrap();
        let eu = RegionPattern::try_from("eu-west-1".to_owned()).unwrap();
        let only = |index| if index == 1 { vec![eu.clone()] } else { Vec::new() };
        let package = package(app, &trace(3), only);
        assert_eq!((package.spec.functions.len(), package.components.len()), (3, 1));
        assert!(package.spec.check().is_ok());
        let restricted = |spec: &FunctionSpec| !spec.placement.regions.is_empty();
        assert_eq!(package.spec.functions.values().filter(|spec| restricted(spec)).count(), 1);
    }

    #[test]
    fn a_call_asks_for_its_time_within_bounds() {
        let app = AppName::new("trace").unwrap();
        let path_of =
            |functions, ms| path(&app, &trace(functions), 0, Duration::from_millis(ms)).to_string();
        assert_eq!(path_of(2, 50), "/trace/http-00000000?wait_ms=49.000&compute_ms=1.000");
        assert_eq!(path_of(2, 500), "/trace/http-00000000?wait_ms=498.000&compute_ms=2.000");
        assert_eq!(path_of(1, 60_000), "/trace?wait_ms=9998.000&compute_ms=2.000");
    }
}
