//! `nigh operator`: looking after the cluster itself.

mod audit;
mod backup;
mod health;
mod token;

use std::path::PathBuf;

use clap::Subcommand;
use nigh_proto::v1::{
    GetRaftRequest, Raft, RaftMember, RotateAuthorityRequest, RotateGossipKeysRequest,
    TransferLeaderRequest,
};
use serde::Serialize;

use crate::api::{Api, timed};
use crate::args::{Before, Cluster};
use crate::failure::Result;
use crate::output::{self, Format};
use crate::table::Rows;

mod recover;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh operator raft
  nigh operator transfer-leader us-east-1-a
  nigh operator rotate-authority
  nigh operator gossip rotate
  nigh operator backup monday.nighbak
  nigh operator health
  nigh operator token create --role deployer > ci.toml
  nigh operator audit -n 20
  nigh operator recover --data /var/lib/nigh")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the Raft group as its leader sees it
    #[command(after_help = "Example:\n  nigh operator raft -o json")]
    Raft {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Replace the authority that signs the nodes' certificates by a new one
    #[command(after_help = "Example:\n  nigh operator rotate-authority")]
    RotateAuthority {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Write all that is deployed to a file: apps, revisions, components
    #[command(after_help = "Example:\n  nigh operator backup monday.nighbak")]
    Backup {
        /// The file, which must not exist yet
        file: PathBuf,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Take in all that a backup holds, into a cluster without these apps
    #[command(after_help = "Example:\n  nigh operator restore monday.nighbak")]
    Restore {
        /// The file that `nigh operator backup` wrote
        file: PathBuf,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Hand leadership to another voter
    #[command(after_help = "Example:\n  nigh operator transfer-leader us-east-1-a")]
    TransferLeader {
        /// The node that shall lead
        node: String,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Say who may ask the API and which nodes may join
    #[command(after_help = "Example:\n  nigh operator token create --role viewer")]
    Token {
        #[command(subcommand)]
        verb: token::Verb,
    },
    /// Show who changed what, oldest first
    #[command(after_help = "Example:\n  nigh operator audit -n 20 -o json")]
    Audit {
        /// At most this many of the newest [default: all that are kept]
        #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Make one survivor's data the whole cluster after most voters are lost for ever
    Recover(recover::Args),
    /// Look after what seals gossip
    #[command(after_help = "Example:\n  nigh operator gossip rotate")]
    Gossip {
        #[command(subcommand)]
        verb: GossipVerb,
    },
    /// Say by exit status whether the node of this machine takes calls
    Health(health::Args),
}

#[derive(Debug, Subcommand)]
enum GossipVerb {
    /// Replace the keys that seal gossip
    #[command(after_help = "Example:\n  nigh operator gossip rotate")]
    Rotate {
        #[command(flatten)]
        cluster: Cluster,
    },
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    match args.verb {
        Verb::Raft { cluster } => {
            raft(&Api::connect(&cluster.access(before)?).await?, format).await
        }
        Verb::RotateAuthority { cluster } => {
            rotate_authority(&Api::connect(&cluster.access(before)?).await?, format).await
        }
        Verb::Backup { file, cluster } => {
            let api = Api::connect(&cluster.access(before)?).await?;
            Box::pin(backup::backup(&api, &file, format)).await
        }
        Verb::Restore { file, cluster } => {
            let api = Api::connect(&cluster.access(before)?).await?;
            Box::pin(backup::restore(&api, &file, format)).await
        }
        Verb::TransferLeader { node, cluster } => {
            transfer_leader(&Api::connect(&cluster.access(before)?).await?, node, format).await
        }
        Verb::Token { verb } => Box::pin(token::run(verb, before, format)).await,
        Verb::Audit { limit, cluster } => {
            let api = Api::connect(&cluster.access(before)?).await?;
            audit::run(&api, limit.unwrap_or_default(), format).await
        }
        Verb::Gossip { verb: GossipVerb::Rotate { cluster } } => {
            rotate_gossip_keys(&Api::connect(&cluster.access(before)?).await?, format).await
        }
        Verb::Health(args) => health::run(args, before.api(), format).await,
        Verb::Recover(args) => Box::pin(recover::run(args, format)).await,
    }
}

async fn raft(api: &Api, format: Format) -> Result {
    let answer = api.cluster().get_raft(timed(GetRaftRequest {})).await;
    let raft = answer.map_err(|status| api.failure(&status))?.into_inner();
    match format {
        Format::Json => output::json(&Group::from(raft)),
        Format::Table => output::line(text_of(&raft)),
    }
}

async fn rotate_authority(api: &Api, format: Format) -> Result {
    let answer = api.cluster().rotate_authority(timed(RotateAuthorityRequest {})).await;
    let authority = answer.map_err(|status| api.failure(&status))?.into_inner().authority;
    match format {
        Format::Json => output::json(&serde_json::json!({ "authority": authority })),
        Format::Table => output::line(format!(
            "{authority} takes over: nodes get its certificates now, and the old one is trusted \
             until all have"
        )),
    }
}

async fn transfer_leader(api: &Api, node: String, format: Format) -> Result {
    let request = TransferLeaderRequest { node: node.clone() };
    let answer = match api.cluster().transfer_leader(timed(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(api.failure_about_node(&status, &node).await),
    };
    match format {
        Format::Json => {
            output::json(&serde_json::json!({ "leader": answer.leader, "term": answer.term }))
        }
        Format::Table => output::line(format!("{} leads in term {}", answer.leader, answer.term)),
    }
}

async fn rotate_gossip_keys(api: &Api, format: Format) -> Result {
    let answer = api.cluster().rotate_gossip_keys(timed(RotateGossipKeysRequest::default())).await;
    let key = answer.map_err(|status| api.failure(&status))?.into_inner().key_id;
    match format {
        Format::Json => output::json(&serde_json::json!({ "key": key })),
        Format::Table => output::line(format!("gossip is sealed with key {key}")),
    }
}

/// The group as JSON.
#[derive(Debug, Serialize)]
struct Group {
    leader: Option<String>,
    term: u64,
    committed_index: u64,
    voters: Vec<Member>,
    learners: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    node: String,
    id: u64,
    region: String,
    role: String,
    matched_index: u64,
    applied_index: Option<u64>,
    lag: u64,
}

impl From<Raft> for Group {
    fn from(raft: Raft) -> Self {
        let (learners, voters): (Vec<_>, Vec<_>) =
            raft.members.into_iter().partition(|member| member.role == "learner");
        Self {
            leader: Some(raft.leader).filter(|leader| !leader.is_empty()),
            term: raft.term,
            committed_index: raft.committed_index,
            voters: voters.into_iter().map(Member::from).collect(),
            learners: learners.into_iter().map(Member::from).collect(),
        }
    }
}

impl From<RaftMember> for Member {
    fn from(member: RaftMember) -> Self {
        Self {
            node: member.node,
            id: member.id,
            region: member.region,
            role: member.role,
            matched_index: member.matched_index,
            applied_index: member.applied_index,
            lag: member.lag,
        }
    }
}

fn text_of(raft: &Raft) -> String {
    let leader = match raft.leader.as_str() {
        "" => "nobody leads",
        leader => &format!("{leader} leads"),
    };
    let mut rows = Rows::new(["NODE", ">ID", "REGION", "ROLE", ">MATCHED", ">APPLIED", ">LAG"]);
    for member in &raft.members {
        rows.push([
            member.node.clone(),
            member.id.to_string(),
            member.region.clone(),
            member.role.clone(),
            member.matched_index.to_string(),
            member.applied_index.map_or_else(|| "-".to_owned(), |index| index.to_string()),
            member.lag.to_string(),
        ]);
    }
    format!(
        "{leader} in term {}, committed up to index {}\n\n{}",
        raft.term,
        raft.committed_index,
        rows.text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raft() -> Raft {
        let member = |node: &str, role: &str, applied_index| RaftMember {
            node: node.into(),
            role: role.into(),
            applied_index,
            ..RaftMember::default()
        };
        let members = vec![
            member("a", "leader", Some(9)),
            member("b", "voter", None),
            member("c", "learner", None),
        ];
        Raft { leader: "a".into(), term: 3, members, committed_index: 9 }
    }

    #[test]
    fn voters_and_learners_are_told_apart() {
        let json = serde_json::to_value(Group::from(raft())).unwrap();
        assert_eq!(json["leader"], "a");
        assert_eq!(json["voters"].as_array().unwrap().len(), 2);
        assert_eq!(json["learners"][0]["node"], "c");
        assert_eq!(json["voters"][0]["applied_index"], 9);
    }

    #[test]
    fn the_text_names_the_leader() {
        assert!(text_of(&raft()).starts_with("a leads in term 3, committed up to index 9"));
        assert!(text_of(&Raft::default()).starts_with("nobody leads"));
    }
}
