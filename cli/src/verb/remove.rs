//! `nigh remove`.

use nigh_proto::v1::RemoveRequest;

use crate::api::Api;
use crate::args::{Before, Cluster};
use crate::failure::Result;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh drain us-east-1-a --wait && nigh remove us-east-1-a
  nigh remove us-east-1-a --force

Refused while the node is alive and not drained, while nothing could be decided without its vote,
and while it holds the only copy of a component. --force gives up what is lost by it, and says
what that was; the quorum is never broken. A removed node stops by itself, and joins again only
with an empty data folder.")]
pub(crate) struct Args {
    /// The node
    node: String,
    /// Remove it although something is lost by it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let api = Api::connect(&args.cluster.clone().access(before)?).await?;
    let request = RemoveRequest { node: args.node.clone(), force: args.force };
    let answer = match api.cluster().remove(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let failure = api.failure_about_node(&status, &args.node).await;
            return Err(match nigh_proto::status::reason(&status).as_deref() {
                Some("NODE_NOT_DRAINED") => {
                    failure.hint(format!("nigh drain {} --wait", args.node))
                }
                Some("ONLY_COPY") => failure.hint("--force gives it up"),
                _ => failure,
            });
        }
    };
    match format {
        Format::Json => {
            output::json(&serde_json::json!({ "node": answer.node, "lost": answer.lost }))
        }
        Format::Table => {
            for lost in &answer.lost {
                output::note(format!("lost: {lost}"));
            }
            output::line(format!("{} is removed", answer.node))
        }
    }
}
