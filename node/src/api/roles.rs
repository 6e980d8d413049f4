//! Who may ask what: the one table of the API port.
//!
//! A role may what the roles below it may: viewers look, deployers change apps, admins change the
//! cluster and who may do what. A path that does not stand here is refused, whoever asks.

use nigh_model::access::Role;

/// What it takes to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: it neither changes nor reveals anything, or something else decides.
    Nothing,
    /// A token of this role, or of one above it.
    Role(Role),
}

const OPEN: Need = Need::Nothing;
const VIEWER: Need = Need::Role(Role::Viewer);
const DEPLOYER: Need = Need::Role(Role::Deployer);
const ADMIN: Need = Need::Role(Role::Admin);

/// The path of what tells what the node counts; it has a listener of its own as well.
pub(crate) const METRICS: &str = "/metrics";

const TABLE: &[(&str, Need)] = &[
    // Probes have no credentials, and learn whether the node serves.
    ("/healthz", OPEN),
    ("/readyz", OPEN),
    ("/grpc.health.v1.Health/Check", OPEN),
    ("/grpc.health.v1.Health/List", OPEN),
    ("/grpc.health.v1.Health/Watch", OPEN),
    (METRICS, VIEWER),
    // Tells no more than the protos that everybody has; but what needs no door has none.
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VIEWER),
    // Open or closed by app: the gateway decides.
    ("/nigh.v1.Invoker/Invoke", OPEN),
    ("/nigh.v1.Invoker/InvokeStream", OPEN),
    ("/nigh.v1.Apps/Get", VIEWER),
    ("/nigh.v1.Apps/List", VIEWER),
    ("/nigh.v1.Apps/ListRevisions", VIEWER),
    ("/nigh.v1.Apps/WatchRollout", VIEWER),
    ("/nigh.v1.Apps/Deploy", DEPLOYER),
    ("/nigh.v1.Apps/Activate", DEPLOYER),
    ("/nigh.v1.Apps/Delete", DEPLOYER),
    ("/nigh.v1.Artifacts/Stat", VIEWER),
    ("/nigh.v1.Artifacts/Upload", DEPLOYER),
    ("/nigh.v1.Cluster/Status", VIEWER),
    ("/nigh.v1.Cluster/ListNodes", VIEWER),
    ("/nigh.v1.Cluster/GetRaft", VIEWER),
    ("/nigh.v1.Cluster/TransferLeader", ADMIN),
    ("/nigh.v1.Cluster/Drain", ADMIN),
    ("/nigh.v1.Cluster/Remove", ADMIN),
    ("/nigh.v1.Cluster/RotateAuthority", ADMIN),
    ("/nigh.v1.Cluster/RotateGossipKeys", ADMIN),
    ("/nigh.v1.Cluster/Backup", ADMIN),
    ("/nigh.v1.Cluster/Restore", ADMIN),
    ("/nigh.v1.Logs/Tail", VIEWER),
    ("/nigh.v1.Access/CreateToken", ADMIN),
    ("/nigh.v1.Access/ListTokens", ADMIN),
    ("/nigh.v1.Access/RevokeToken", ADMIN),
    ("/nigh.v1.Access/ListAudit", ADMIN),
];

/// What it takes to ask for this path; none: nobody may.
pub(crate) fn need(path: &str) -> Option<Need> {
    TABLE.iter().find(|(known, _)| *known == path).map(|(_, need)| *need)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::server::SERVICES;
    use prost::Message as _;

    /// The paths of all RPCs of the public services, as the protos have them.
    fn described() -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(nigh_proto::DESCRIPTORS).unwrap();
        let files = set.file.iter().filter(|file| file.package() == "nigh.v1");
        let services = files.flat_map(|file| &file.service);
        let paths = services.flat_map(|service| {
            let path = |rpc: &str| format!("/nigh.v1.{}/{rpc}", service.name());
            service.method.iter().map(move |rpc| path(rpc.name())).collect::<Vec<_>>()
        });
        paths.collect()
    }

    #[test]
    fn every_rpc_stands_in_the_table_and_nothing_else_does() {
        let tabled: BTreeSet<String> = TABLE
            .iter()
            .map(|(path, _)| (*path).to_owned())
            .filter(|path| path.starts_with("/nigh."))
            .collect();
        assert_eq!(tabled, described());
        let services: BTreeSet<&str> =
            tabled.iter().map(|path| path[1..].split_once('/').unwrap().0).collect();
        assert_eq!(services, BTreeSet::from(SERVICES), "what is served and known to reflection");
        let unique: BTreeSet<&str> = TABLE.iter().map(|(path, _)| *path).collect();
        assert_eq!(unique.len(), TABLE.len(), "a path stands twice");
    }

    #[test]
    fn nothing_that_changes_or_reveals_is_open() {
        let open = TABLE.iter().filter(|(_, need)| *need == OPEN).map(|(path, _)| *path);
        let open: Vec<&str> = open.collect();
        assert!(
            open.iter().all(|path| path.starts_with("/nigh.v1.Invoker/")
                || path.starts_with("/grpc.health.")
                || ["/healthz", "/readyz"].contains(path)),
            "{open:?}"
        );
    }

    #[test]
    fn what_is_not_in_the_table_is_for_nobody() {
        for path in ["", "/", "/nigh.v1.Apps", "/nigh.v1.Apps/deploy", "//metrics", "/metrics/"] {
            assert_eq!(need(path), None, "{path}");
        }
    }
}
