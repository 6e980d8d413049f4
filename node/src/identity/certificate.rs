//! Reads the certificate of a node: whose it is and how long it holds.

use std::time::Duration;

use nigh_model::{ClusterId, NodeId};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::authority::BACKDATED;
use super::{ANY_NODE, IdentityError};

/// A node's certificate, read. What it says is true only if its chain was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The node.
    pub(crate) node: NodeId,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// When it was made, in ms since the Unix epoch: later than when it begins to hold.
    pub(crate) made_ms: u64,
    /// When it ends, in ms since the Unix epoch.
    pub(crate) expires_ms: u64,
}

impl Leaf {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is no certificate of a node.
    pub(crate) fn read(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| IdentityError::Invalid(format!("not a certificate: {error}")))?;
        let (node, cluster) = subject(&certificate)
            .ok_or_else(|| IdentityError::Invalid("a certificate that names no node".to_owned()))?;
        let validity = certificate.validity();
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
        let made_ms = ms(validity.not_before.timestamp()) + BACKDATED.as_millis() as u64;
        Ok(Self { node, cluster, made_ms, expires_ms: ms(validity.not_after.timestamp()) })
    }
}

/// The one name of its kind that is not everybody's.
fn subject(certificate: &X509Certificate<'_>) -> Option<(NodeId, ClusterId)> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::DNSName(name) = name else { return None };
        let (node, cluster) = name.strip_suffix(ANY_NODE)?.strip_suffix('.')?.split_once('.')?;
        let node = node.strip_prefix('n')?.parse().ok()?;
        Some((NodeId(node), ClusterId::new(cluster).ok()?))
    })
}

/// When a certificate that was made at `made_ms` is renewed: at two thirds of its life.
pub(super) fn renew_at_ms(made_ms: u64, expires_ms: u64) -> u64 {
    made_ms + expires_ms.saturating_sub(made_ms) / 3 * 2
}

/// From now until a time in ms since the Unix epoch.
pub(super) fn until(at_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Request, Signer, Subject};

    const NOW_MS: u64 = 1_800_000_000_000;

    fn cluster() -> ClusterId {
        ClusterId::new("0123456789abcdef0123456789abcdef").unwrap()
    }

    #[test]
    fn a_certificate_says_whose_it_is_whatever_was_asked_for() {
        let signer = Signer::new(&cluster(), NOW_MS).unwrap();
        let asked = Request::new().unwrap();
        let hosts = vec!["edge-1.example.com".to_owned(), format!("n1.{}.{ANY_NODE}", cluster())];
        let subject = Subject { node: NodeId(42), cluster: cluster(), hosts };
        let life = Duration::from_secs(3_600);
        let der = signer.sign(&asked.request, &subject, NOW_MS, life).unwrap();
        let leaf = Leaf::read(&der).unwrap();
        let expires_ms = NOW_MS + 3_600_000;
        let whole = Leaf { node: NodeId(42), cluster: cluster(), made_ms: NOW_MS, expires_ms };
        assert_eq!(leaf, whole);
    }

    #[test]
    fn what_is_no_certificate_of_a_node_is_refused() {
        let signer = Signer::new(&cluster(), NOW_MS).unwrap();
        assert!(Leaf::read(&signer.authority().certificate).is_err());
        assert!(Leaf::read(b"").is_err());
        assert!(Leaf::read(&[0x30; 400]).is_err());
    }

    #[test]
    fn a_request_without_its_key_is_refused() {
        let signer = Signer::new(&cluster(), NOW_MS).unwrap();
        let mut asked = Request::new().unwrap().request;
        let last = asked.len() - 1;
        asked[last] ^= 1;
        let subject = Subject { node: NodeId(2), cluster: cluster(), hosts: Vec::new() };
        assert!(signer.sign(&asked, &subject, NOW_MS, Duration::from_secs(60)).is_err());
    }

    #[test]
    fn it_is_renewed_at_two_thirds_of_its_life() {
        assert_eq!(renew_at_ms(1_000, 4_000), 3_000);
        assert_eq!(renew_at_ms(5_000, 4_000), 5_000);
    }
}
