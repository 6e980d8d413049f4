//! The replicated state: what is decided. Equal applied index means equal state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{Token, TokenId};
use crate::audit::AuditEntry;
use crate::command::Outcome;
use crate::digest::Digest;
use crate::gossip::GossipKeys;
use crate::ids::{
    AppName, ClusterId, FunctionRef, NodeId, NodeName, Region, RequestId, RevisionId, Zone,
};
use crate::spec::{AppSpec, FunctionSpec};
use crate::trust::Trust;

/// An ordered map whose copies share what they have in common, so that readers keep theirs.
pub type Map<K, V> = imbl::OrdMap<K, V>;

/// The format of this struct on disk and in snapshots; a node reads its own and the one before.
pub const FORMAT: u32 = 1;

/// All that the cluster has decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The log index of the last entry applied.
    pub applied: u64,
    /// Drawn at bootstrap; none before.
    pub cluster: Option<ClusterId>,
    /// Registered nodes.
    pub nodes: Map<NodeId, Arc<Node>>,
    /// Deployed apps.
    pub apps: Map<AppName, Arc<App>>,
    /// On which nodes each function should be, and how.
    pub assignments: Map<FunctionRef, Arc<Assignment>>,
    /// The log index of the last change that a plan depends on; older plans are refused.
    pub plan_basis: u64,
    /// Which keys seal gossip; their ids alone.
    #[serde(default)]
    pub gossip: GossipKeys,
    /// Answers to recent request ids.
    pub replies: Map<RequestId, Arc<Outcome>>,
    /// The request ids of `replies` by the log index that answered them, oldest first.
    pub replies_by_index: Map<u64, RequestId>,
    /// Whose certificates the nodes accept.
    #[serde(default)]
    pub trust: Arc<Trust>,
    /// The tokens by which people, scripts and new nodes are known.
    #[serde(default)]
    pub tokens: Map<TokenId, Arc<Token>>,
    /// The last changes that somebody asked for, by log index.
    #[serde(default)]
    pub audit: Map<u64, Arc<AuditEntry>>,
    /// The last changes that the cluster made by itself: apart, since they are many and would push
    /// the others out.
    #[serde(default)]
    pub upkeep: Map<u64, Arc<AuditEntry>>,
    /// Commands up to this level may be proposed; 0 until it is raised, which is level 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub feature_level: u32,
    /// Added to a log index where it becomes a revision's id: the greatest id that was restored.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub revision_offset: u64,
}

/// A point on the earth, in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// Where a node is reached, each as `host:port`.
///
/// A node that stands in several networks has a host in each; its ports are the same in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// HTTP ingress.
    pub http: String,
    /// gRPC API.
    pub api: String,
    /// Other nodes.
    pub peer: String,
    /// Gossip datagrams.
    pub gossip: String,
    /// Other hosts that lead to the same node, without ports: one for each further network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
}

impl Addresses {
    /// Where other nodes may reach it: the main address, then one per further network.
    pub fn peers(&self) -> Vec<String> {
        self.all(&self.peer)
    }

    /// Where gossip datagrams may reach it, in the same order.
    pub fn gossips(&self) -> Vec<String> {
        self.all(&self.gossip)
    }

    fn all(&self, main: &str) -> Vec<String> {
        let port = main.rsplit_once(':').map_or("", |(_, port)| port);
        let others = self.also.iter().map(|host| join(host, port));
        std::iter::once(main.to_owned()).chain(others).collect()
    }
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub fn join(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id, never used again.
    pub id: NodeId,
    /// Its name, unique among the registered nodes.
    pub name: NodeName,
    /// Its region.
    pub region: Region,
    /// Its zone, if it has one.
    pub zone: Option<Zone>,
    /// Where it stands, if that is known.
    pub location: Option<Location>,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The version of its build.
    pub version: String,
    /// The newest feature level that its build supports.
    pub feature_level: u32,
    /// It is to give up its work, its vote and leadership, until it is removed or this is undone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
}

/// What was not yet said by older builds is not said either where it says nothing.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A deployed app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// The revision that answers calls; none until the first one is ready.
    pub active: Option<RevisionId>,
    /// The revision being rolled out, to be activated when it is ready where it should be.
    pub rollout: Option<RevisionId>,
    /// The active one, the one being rolled out and the last few before.
    pub revisions: BTreeMap<RevisionId, Arc<Revision>>,
    /// The log index of its last change.
    pub changed: u64,
}

/// An app's immutable content at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its id.
    pub id: RevisionId,
    /// What it is made of.
    pub spec: AppSpec,
    /// The digest of `spec`.
    pub digest: Digest,
    /// When it was proposed, in ms since the Unix epoch by the proposer's clock.
    pub created_ms: u64,
}

/// How a function should be present on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Its compiled artifact is on disk.
    Ready,
    /// It is loaded too: the next call waits for no load.
    Warm,
}

/// The nodes on which a function should be present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// How, by node.
    pub nodes: BTreeMap<NodeId, Tier>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

impl State {
    /// Commands up to this level may be proposed.
    pub const fn level(&self) -> u32 {
        if self.feature_level == 0 { 1 } else { self.feature_level }
    }

    /// The level that every registered node supports.
    pub fn supported_level(&self) -> u32 {
        self.nodes.values().map(|node| node.feature_level).min().unwrap_or(1)
    }

    /// The digest of the whole state: equal on all nodes at the same applied index.
    pub fn digest(&self) -> Digest {
        let bytes = serde_json::to_vec(self).expect("a state is maps, strings and numbers");
        Digest::of(&bytes)
    }

    /// The registered node of this name.
    pub fn node_named(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.values().find(|node| node.name.as_str() == name)
    }

    /// Whether this node is to give up its work.
    pub fn is_draining(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.draining)
    }

    /// The app and revision that a revision id belongs to.
    pub fn revision(&self, id: RevisionId) -> Option<(&Arc<App>, &Arc<Revision>)> {
        self.apps.values().find_map(|app| app.revisions.get(&id).map(|revision| (app, revision)))
    }

    /// Every revision that should be present on nodes: the active ones and those rolled out.
    pub fn wanted_revisions(&self) -> impl Iterator<Item = (&Arc<App>, &Arc<Revision>)> {
        self.apps.values().flat_map(|app| {
            let ids = [app.active, app.rollout];
            ids.into_iter().flatten().filter_map(move |id| Some((app, app.revisions.get(&id)?)))
        })
    }

    /// The components that some revision is made of.
    pub fn components(&self) -> std::collections::BTreeSet<Digest> {
        let revisions = self.apps.values().flat_map(|app| app.revisions.values());
        revisions.flat_map(|revision| revision.spec.components()).collect()
    }
}

impl App {
    /// Whether a revision of it reuses instances, which not every build knows.
    pub fn reuses_instances(&self) -> bool {
        self.revisions.values().any(|revision| revision.spec.reuses_instances())
    }

    /// The revision that answers calls.
    pub fn active_revision(&self) -> Option<&Arc<Revision>> {
        self.revisions.get(&self.active?)
    }

    /// The revision that a new one is compared with: the newest that is active or coming.
    pub fn newest(&self) -> Option<&Arc<Revision>> {
        self.revisions.get(&self.rollout.or(self.active)?)
    }
}

impl Revision {
    /// Its functions with the references by which they are placed.
    pub fn functions(&self) -> impl Iterator<Item = (FunctionRef, &FunctionSpec)> {
        self.spec
            .functions
            .iter()
            .map(|(name, spec)| (FunctionRef { revision: self.id, function: name.clone() }, spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_reached_by_each_of_its_hosts_at_the_same_ports() {
        let addresses = Addresses {
            peer: "10.0.0.1:7401".into(),
            gossip: "10.0.0.1:7402".into(),
            also: vec!["node-1.example".into(), "fd00::1".into()],
            ..Addresses::default()
        };
        assert_eq!(addresses.peers(), ["10.0.0.1:7401", "node-1.example:7401", "[fd00::1]:7401"]);
        assert_eq!(addresses.gossips()[2], "[fd00::1]:7402");
        assert_eq!(Addresses { also: Vec::new(), ..addresses }.peers(), ["10.0.0.1:7401"]);
    }

    #[test]
    fn addresses_of_before_are_read_and_written_as_they_were() {
        let before = r#"{"http":"a:1","api":"a:2","peer":"a:3","gossip":"a:4"}"#;
        let addresses: Addresses = serde_json::from_str(before).unwrap();
        assert!(addresses.also.is_empty());
        assert_eq!(serde_json::to_string(&addresses).unwrap(), before);
    }
}
