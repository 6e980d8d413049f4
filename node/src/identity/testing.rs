//! Identities for the tests of other parts.

use std::time::Duration;

use nigh_model::trust::Trust;
use nigh_model::{ClusterId, NodeId};
use nigh_storage::DataDir;

use super::{IdentityFolder, Material, Own, Request, Signer, Subject};
use crate::clock;

/// A year, in ms.
pub(crate) const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;

/// The cluster of all of them.
pub(crate) fn cluster() -> ClusterId {
    ClusterId::new("0".repeat(32)).unwrap()
}

/// An authority that signs certificates of any node.
pub(crate) struct Authority {
    signer: Signer,
}

impl Authority {
    /// Another than any before, some years old: what it signed may have ended.
    pub(crate) fn new() -> Self {
        Self { signer: Signer::new(&cluster(), clock::now_ms() - 5 * YEAR_MS).unwrap() }
    }

    /// Its certificate, in DER.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.signer.authority().certificate
    }

    /// The identity of a node.
    pub(crate) fn own(&self, id: u64) -> Own {
        self.own_at(id, clock::now_ms(), Duration::from_secs(3_600))
    }

    /// The same with a certificate that was made then.
    pub(crate) fn own_at(&self, id: u64, made_ms: u64, life: Duration) -> Own {
        let asked = Request::new().unwrap();
        let subject = Subject { node: NodeId(id), cluster: cluster(), hosts: Vec::new() };
        let certificate = self.signer.sign(&asked.request, &subject, made_ms, life).unwrap();
        let authority = self.signer.authority();
        let issuer = authority.id();
        let trust = Trust { authorities: vec![authority], signing: Some(issuer) };
        let material = Material { certificate, issuer, key: asked.key, trust };
        // Nothing is written: the folder may go.
        let place = tempfile::tempdir().unwrap();
        let data = DataDir::open(place.path()).unwrap();
        Own::new(IdentityFolder::open(&data, None).unwrap(), material, life).unwrap()
    }
}
