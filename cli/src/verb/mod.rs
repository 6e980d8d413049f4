//! What the command does: one file per verb.

pub(crate) mod apps;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod deploy;
pub(crate) mod drain;
pub(crate) mod invoke;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod operator;
pub(crate) mod remove;
pub(crate) mod up;

use crate::args::{Cli, Command};
use crate::failure::Result;

/// Carries out a command line.
pub(crate) async fn run(cli: Cli) -> Result {
    let Cli { api, output, command } = cli;
    match command {
        Command::Up(args) => Box::pin(up::run(args, output)).await,
        Command::Node(args) => Box::pin(node::run(args)).await,
        Command::Deploy(args) => Box::pin(deploy::run(args, api, output)).await,
        Command::Apps(args) => apps::run(args, api, output).await,
        Command::Delete(args) => delete::run(args, api, output).await,
        Command::Invoke(args) => Box::pin(invoke::run(args, api, output)).await,
        Command::Load(args) => Box::pin(load::run(*args, api, output)).await,
        Command::Logs(args) => logs::run(args, api, output).await,
        Command::Nodes(args) => nodes::run(args, api, output).await,
        Command::Drain(args) => Box::pin(drain::run(args, api, output)).await,
        Command::Remove(args) => remove::run(args, api, output).await,
        Command::Operator(args) => operator::run(args, api, output).await,
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}
