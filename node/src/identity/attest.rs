//! What a node puts its name to: that it compiled a component to these bytes.
//!
//! The node signs with the key of its certificate; whoever gets the bytes, from whichever node,
//! checks who signed before a byte of them is run. Whether the signer may be believed beyond that
//! is not decided here: members trust each other.

use std::sync::Arc;
use std::time::Duration;

use nigh_model::{ClusterId, Digest, NodeId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, SignatureScheme};

use super::tls::provider;
use super::{IdentityError, Leaf, Material, Own};

/// What is signed begins so: no signature for another purpose is one for this.
const PURPOSE: &[u8] = b"nigh: compiled artifact 1";
/// What nodes sign with, as their certificates are.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// That a component was compiled to these bytes, for this engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    /// The component.
    pub(crate) component: Digest,
    /// The key of the engine.
    pub(crate) engine: &'a str,
    /// The digest of what came of it.
    pub(crate) content: Digest,
    /// How many bytes that has.
    pub(crate) bytes: u64,
}

/// Who says it: a node's certificate, and the signature by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attestation {
    /// The certificate, in DER.
    pub(crate) certificate: Vec<u8>,
    /// The signature, in DER.
    pub(crate) signature: Vec<u8>,
}

/// Why an attestation is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    /// It holds no certificate of a node.
    #[error("it names no node that compiled it")]
    Malformed,
    /// No authority that this node trusts signed the certificate, or it is of another cluster.
    #[error("who compiled it is not of this cluster")]
    Stranger,
    /// The node was removed.
    #[error("the node that compiled it was removed")]
    Removed,
    /// The signature is not by that node, or for something else.
    #[error("the signature is not that of the node that is named")]
    Forged,
}

impl Statement<'_> {
    /// What is signed. Every part has a fixed length or its length before it.
    fn message(&self, cluster: &ClusterId) -> Vec<u8> {
        let mut message = Vec::with_capacity(256);
        for part in [PURPOSE, cluster.as_str().as_bytes(), self.engine.as_bytes()] {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        message.extend_from_slice(self.component.as_bytes());
        message.extend_from_slice(self.content.as_bytes());
        message.extend_from_slice(&self.bytes.to_le_bytes());
        message
    }
}

impl Own {
    /// Signs a statement as this node.
    ///
    /// # Errors
    /// The key is not one that nodes sign with.
    pub(crate) fn attest(&self, statement: &Statement<'_>) -> Result<Attestation, IdentityError> {
        let Material { certificate, key, .. } = self.material();
        let bad = |why: &str| IdentityError::Invalid(format!("this node's key: {why}"));
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_slice()));
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&der);
        let key = key.map_err(|error| bad(&error.to_string()))?;
        let signer = key.choose_scheme(&[SCHEME]).ok_or_else(|| bad("not of P-256"))?;
        let signature = signer.sign(&statement.message(self.tls.cluster()));
        let signature = signature.map_err(|error| bad(&error.to_string()))?;
        Ok(Attestation { certificate, signature })
    }

    /// Whether an attestation was made with the certificate that this node has now.
    pub(crate) fn is_current(&self, attestation: &Attestation) -> bool {
        attestation.certificate == self.material().certificate
    }

    /// Whether this node made it, with whichever certificate it had then.
    pub(crate) fn made(&self, attestation: &Attestation) -> bool {
        Leaf::read(&attestation.certificate).is_ok_and(|leaf| leaf.node == self.tls.now().leaf.node)
    }

    /// Checks who says a thing: a node of this cluster that was not removed, by `is_member`.
    ///
    /// The certificate may have ended since: it says who compiled something then, not who speaks
    /// now. Nobody is let in by it who could not sign the same anew: whoever hands the bytes over
    /// has shown a certificate that has not ended.
    ///
    /// # Errors
    /// It is not believed.
    pub(crate) fn check(
        &self,
        statement: &Statement<'_>,
        attestation: &Attestation,
        is_member: impl FnOnce(NodeId) -> bool,
    ) -> Result<NodeId, Unproven> {
        let Attestation { certificate, signature } = attestation;
        let leaf = Leaf::read(certificate).map_err(|_| Unproven::Malformed)?;
        let cluster = self.tls.cluster();
        if leaf.cluster != *cluster || !is_signed(certificate, &leaf, &self.material()) {
            return Err(Unproven::Stranger);
        }
        if !is_member(leaf.node) {
            return Err(Unproven::Removed);
        }
        let algorithms = provider().signature_verification_algorithms.mapping;
        let ours = algorithms.iter().find(|(scheme, _)| *scheme == SCHEME);
        let ours = ours.and_then(|(_, algorithms)| algorithms.first());
        let (_, read) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| Unproven::Malformed)?;
        let key = &read.public_key().subject_public_key.data;
        let message = statement.message(cluster);
        let fits = ours.is_some_and(|ours| ours.verify_signature(key, &message, signature).is_ok());
        if fits { Ok(leaf.node) } else { Err(Unproven::Forged) }
    }
}

/// Whether one of the trusted authorities signed the certificate.
fn is_signed(certificate: &[u8], leaf: &Leaf, material: &Material) -> bool {
    let mut roots = RootCertStore::empty();
    let authorities = material.trust.authorities.iter();
    let added = authorities.map(|known| CertificateDer::from(known.certificate.clone()));
    // One that is none is trusted by nobody.
    let _ = roots.add_parsable_certificates(added);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let Ok(verifier) = verifier else { return false };
    let then = UnixTime::since_unix_epoch(Duration::from_millis(leaf.made_ms));
    verifier.verify_client_cert(&CertificateDer::from(certificate), &[], then).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::identity::testing::{Authority, YEAR_MS, cluster};

    const ENGINE: &str = "wasmtime-1-x86_64-0";

    fn statement() -> Statement<'static> {
        let (component, content) = (Digest::of(b"component"), Digest::of(b"machine code"));
        Statement { component, engine: ENGINE, content, bytes: 12 }
    }

    #[test]
    fn a_member_is_believed_also_when_its_certificate_has_ended() {
        let authority = Authority::new();
        let (one, two) = (authority.own(1), authority.own(2));
        let said = one.attest(&statement()).unwrap();
        assert!(one.made(&said) && one.is_current(&said) && !two.made(&said));
        assert_eq!(two.check(&statement(), &said, |_| true), Ok(NodeId(1)));
        // It lived for a second, some years ago.
        let then_ms = clock::now_ms() - 2 * YEAR_MS;
        let old = authority.own_at(3, then_ms, Duration::from_secs(1));
        let said = old.attest(&statement()).unwrap();
        assert_eq!(two.check(&statement(), &said, |_| true), Ok(NodeId(3)));
        assert!(!one.is_current(&said));
    }

    #[test]
    fn nothing_else_is_said_by_it() {
        let authority = Authority::new();
        let (one, two) = (authority.own(1), authority.own(2));
        let said = one.attest(&statement()).unwrap();
        for other in [
            Statement { component: Digest::of(b"other"), ..statement() },
            Statement { content: Digest::of(b"other"), ..statement() },
            Statement { engine: "wasmtime-1-x86_64-1", ..statement() },
            Statement { bytes: 13, ..statement() },
        ] {
            assert_eq!(two.check(&other, &said, |_| true), Err(Unproven::Forged));
        }
        for at in 0..said.signature.len() {
            let mut said = said.clone();
            said.signature[at] ^= 1;
            assert_eq!(two.check(&statement(), &said, |_| true), Err(Unproven::Forged));
        }
        // The signature of one under the name of the other.
        let theirs = two.attest(&statement()).unwrap();
        let mixed = Attestation { certificate: theirs.certificate, ..said };
        assert_eq!(two.check(&statement(), &mixed, |_| true), Err(Unproven::Forged));
    }

    #[test]
    fn strangers_and_removed_nodes_are_not_believed() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let own = authority.own(1);
        let said = stranger.own(2).attest(&statement()).unwrap();
        assert_eq!(own.check(&statement(), &said, |_| true), Err(Unproven::Stranger));
        let said = authority.own(2).attest(&statement()).unwrap();
        let without_two = |id| id != NodeId(2);
        assert_eq!(own.check(&statement(), &said, without_two), Err(Unproven::Removed));
        // An authority's own certificate names no node.
        let certificate = authority.certificate();
        let said = Attestation { certificate, ..said };
        assert_eq!(own.check(&statement(), &said, |_| true), Err(Unproven::Malformed));
        let said = Attestation { certificate: b"noise".to_vec(), signature: Vec::new() };
        assert_eq!(own.check(&statement(), &said, |_| true), Err(Unproven::Malformed));
        let elsewhere = ClusterId::new("f".repeat(32)).unwrap();
        assert_ne!(statement().message(&cluster()), statement().message(&elsewhere));
    }
}
