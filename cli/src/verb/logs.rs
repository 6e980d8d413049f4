//! `nigh logs`.

use nigh_proto::v1::{LogLine, TailRequest};
use serde::Serialize;

use crate::api::Api;
use crate::args::{Before, Cluster};
use crate::failure::Result;
use crate::output::{self, Format};
use crate::time::rfc3339;

/// Lines that each node keeps, of all its functions together; asking for more brings no more.
const LINES_MAX: u32 = nigh_model::limits::LOG_LINES_KEPT as u32;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh logs hello
  nigh logs shop/checkout -f -o json

With -o json each line is a JSON object of its own: at, node, app, function, revision,
request_id, stream, line.")]
pub(crate) struct Args {
    /// The app, or one of its functions
    #[arg(value_name = "APP[/FUNCTION]")]
    function: String,
    /// Go on with new lines until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// At most this many lines of before
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(LINES_MAX)))]
    lines: u32,
    #[command(flatten)]
    cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let api = Api::connect(&args.cluster.access(before)?).await?;
    let (app, function) = args.function.split_once('/').unwrap_or((&args.function, ""));
    let request = TailRequest {
        app: app.to_owned(),
        function: function.to_owned(),
        follow: args.follow,
        lines: args.lines,
    };
    let mut lines = match api.logs().tail(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(api.failure_about(&status, &args.function).await),
    };
    loop {
        match lines.message().await {
            Ok(Some(line)) => print(line, format)?,
            Ok(None) => return Ok(()),
            Err(status) => return Err(api.failure_about(&status, &args.function).await),
        }
    }
}

/// A line as JSON.
#[derive(Debug, Serialize)]
struct Line {
    at: String,
    node: String,
    app: String,
    function: String,
    revision: String,
    request_id: String,
    stream: String,
    line: String,
}

fn print(line: LogLine, format: Format) -> Result {
    let at = line.at.map_or_else(String::new, |at| rfc3339(at.seconds, at.nanos));
    match format {
        Format::Json => output::json_line(&Line {
            at,
            node: line.node,
            app: line.app,
            function: line.function,
            revision: line.revision,
            request_id: line.request_id,
            stream: line.stream,
            line: line.line,
        }),
        Format::Table => output::line(format!(
            "{at} {} {}/{} {} {}: {}",
            line.node,
            line.app,
            line.function,
            line.request_id,
            line.stream,
            output::printable(&line.line)
        )),
    }
}
