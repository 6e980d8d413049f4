//! `nigh delete`.

use nigh_proto::v1::DeleteAppRequest;

use crate::api::{Api, timed};
use crate::args::{Before, Cluster};
use crate::failure::Result;
use crate::output::{self, Format};
use crate::rollout::request_id;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  nigh delete hello

There is no way back: all revisions of the app go.")]
pub(crate) struct Args {
    /// The app
    app: String,
    #[command(flatten)]
    cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let api = Api::connect(&args.cluster.access(before)?).await?;
    let request = DeleteAppRequest { app: args.app.clone(), request_id: request_id() };
    if let Err(status) = api.apps().delete(timed(request)).await {
        return Err(api.failure_about(&status, &args.app).await);
    }
    match format {
        Format::Json => output::json(&serde_json::json!({ "app": args.app, "deleted": true })),
        Format::Table => output::line(format!("deleted {}", args.app)),
    }
}
