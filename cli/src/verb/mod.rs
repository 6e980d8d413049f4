//! What the command does: one file per verb.

pub(crate) mod apps;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod deploy;
pub(crate) mod drain;
pub(crate) mod invoke;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod operator;
pub(crate) mod remove;
pub(crate) mod status;
pub(crate) mod up;

use crate::args::{Cli, Command};
use crate::failure::Result;

/// Carries out a command line.
pub(crate) async fn run(cli: Cli) -> Result {
    let Cli { before, output, command } = cli;
    match command {
        Command::Up(args) => Box::pin(up::run(args, output)).await,
        Command::Node(args) => Box::pin(node::run(*args)).await,
        Command::Deploy(args) => Box::pin(deploy::run(args, before, output)).await,
        Command::Apps(args) => apps::run(args, before, output).await,
        Command::Delete(args) => delete::run(args, before, output).await,
        Command::Invoke(args) => Box::pin(invoke::run(args, before, output)).await,
        Command::Load(args) => Box::pin(load::run(*args, before, output)).await,
        Command::Logs(args) => logs::run(args, before, output).await,
        Command::Nodes(args) => nodes::run(args, before, output).await,
        Command::Status(args) => status::run(args, before, output).await,
        Command::Drain(args) => Box::pin(drain::run(args, before, output)).await,
        Command::Remove(args) => remove::run(args, before, output).await,
        Command::Login(args) => login::run(&args, output),
        Command::Operator(args) => operator::run(args, before, output).await,
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}
