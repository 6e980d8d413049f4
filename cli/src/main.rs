//! The `nigh` command.

mod api;
mod args;
mod credentials;
mod demo;
mod failure;
mod load;
mod local;
mod logging;
mod manifest;
mod notify;
mod output;
mod package;
mod progress;
mod rollout;
mod rtt;
mod section;
mod table;
mod time;
mod tls;
mod units;
mod verb;
mod version;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}

fn run(cli: args::Cli) -> failure::Result {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::Failure::internal(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(verb::run(cli));
    // A read of standard input that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    result
}
