//! What long work shows of itself, on stderr and only where somebody watches.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// How often a line that only waits is drawn anew.
const TICK: Duration = Duration::from_millis(120);

/// Bars and lines that go away when the work is done.
pub(crate) struct Progress {
    lines: MultiProgress,
    regions: BTreeMap<String, ProgressBar>,
}

impl Progress {
    /// Draws when stderr is a terminal, else nothing.
    pub(crate) fn new() -> Self {
        if output::is_watched() { Self::with(ProgressDrawTarget::stderr()) } else { Self::silent() }
    }

    /// Draws nothing.
    pub(crate) fn silent() -> Self {
        Self::with(ProgressDrawTarget::hidden())
    }

    fn with(target: ProgressDrawTarget) -> Self {
        Self { lines: MultiProgress::with_draw_target(target), regions: BTreeMap::new() }
    }

    /// A bar for bytes on their way.
    pub(crate) fn upload(&self, name: &str, bytes: u64) -> ProgressBar {
        let bar = self.lines.add(ProgressBar::new(bytes));
        bar.set_style(style("  {msg:24!} {bar:30} {binary_bytes} of {binary_total_bytes}"));
        bar.set_message(name.to_owned());
        bar
    }

    /// A bar for work whose length is known.
    pub(crate) fn bar(&self, length: u64) -> ProgressBar {
        let bar = self.lines.add(ProgressBar::new(length));
        bar.set_style(style("  {bar:40} {percent:>3} %  {msg}"));
        bar
    }

    /// A line for work whose length is not known.
    pub(crate) fn waiting(&self, what: impl Into<String>) -> ProgressBar {
        let line = self.lines.add(ProgressBar::no_length());
        line.set_style(style("  {spinner} {msg}"));
        line.set_message(what.into());
        line.enable_steady_tick(TICK);
        line
    }

    /// How far a rollout is in a region.
    pub(crate) fn region(&mut self, region: &str, ready: usize, nodes: usize) {
        let line = self.regions.entry(region.to_owned()).or_insert_with(|| {
            let line = self.lines.add(ProgressBar::new(nodes as u64));
            line.set_style(style("  {msg:24!} {bar:30} {pos} of {len} nodes ready"));
            line.set_message(region.to_owned());
            line
        });
        line.set_length(nodes as u64);
        line.set_position(ready as u64);
    }

    /// Removes everything that was drawn.
    pub(crate) fn clear(&mut self) {
        for line in std::mem::take(&mut self.regions).into_values() {
            line.finish_and_clear();
        }
        let _ = self.lines.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is constant and read by a test")
        .progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        let mut progress = Progress::silent();
        progress.upload("a.wasm", 10).inc(5);
        progress.bar(10).inc(1);
        progress.waiting("for it").finish();
        progress.region("eu-west-1", 1, 2);
        progress.clear();
    }
}
