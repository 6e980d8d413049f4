//! Signs: the authority of a cluster with its key, and what a node asks it to sign.

use std::net::IpAddr;
use std::time::Duration;

use nigh_model::trust::Authority;
use nigh_model::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{ANY_NODE, IdentityError, name_of};
use crate::clock;

/// Certificates begin this long before they are made: clocks differ.
pub(super) const BACKDATED: Duration = Duration::from_secs(2 * 3600);
/// An authority lives this long.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Of the authority's path: one below it may sign, the one that takes over.
const PATH_LENGTH: u8 = 1;
/// Most hosts in one certificate.
const HOSTS_MAX: usize = 16;

/// An authority with its key: it can sign.
pub(crate) struct Signer {
    certificate: CertificateDer<'static>,
    cross: Option<Vec<u8>>,
    key: KeyPair,
    expires_ms: u64,
}

/// Whom a certificate is for. The signer says so, not the one that asks.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The node.
    pub(crate) node: NodeId,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// Hosts by which it is registered, besides this machine's own names.
    pub(crate) hosts: Vec<String>,
}

/// A new key and the request to sign it.
pub(crate) struct Request {
    /// The private key, PKCS #8 in DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// The request, PKCS #10 in DER: its signature shows that the key is held.
    pub(crate) request: Vec<u8>,
}

impl Request {
    /// Draws a key (ECDSA on P-256) and asks for a certificate.
    ///
    /// # Errors
    /// No key can be made.
    pub(crate) fn new() -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(|error| invalid("no key can be made", error))?;
        let params = CertificateParams::default();
        let request = params
            .serialize_request(&key)
            .map_err(|error| invalid("no certificate can be asked for", error))?;
        Ok(Self { key: Zeroizing::new(key.serialize_der()), request: request.der().to_vec() })
    }
}

impl Signer {
    /// Makes an authority.
    ///
    /// # Errors
    /// No key can be made.
    pub(crate) fn new(cluster: &ClusterId, now_ms: u64) -> Result<Self, IdentityError> {
        Self::after(None, cluster, now_ms)
    }

    /// Makes the authority that takes over from this one, which signs it too: who knows only
    /// this one can follow.
    ///
    /// # Errors
    /// No key can be made.
    pub(crate) fn next(&self, cluster: &ClusterId, now_ms: u64) -> Result<Self, IdentityError> {
        Self::after(Some(self), cluster, now_ms)
    }

    fn after(
        before: Option<&Self>,
        cluster: &ClusterId,
        now_ms: u64,
    ) -> Result<Self, IdentityError> {
        let bad = |error| invalid("an authority", error);
        let key = KeyPair::generate().map_err(bad)?;
        let (mut params, expires_ms) = authority_params(cluster, now_ms)?;
        let certificate = params.self_signed(&key).map_err(bad)?.der().clone();
        let cross = match before {
            None => None,
            Some(before) => {
                params.use_authority_key_identifier_extension = true;
                let cross = params.signed_by(&key, &before.issuer()?).map_err(bad)?;
                Some(cross.der().to_vec())
            }
        };
        Ok(Self { certificate, cross, key, expires_ms })
    }

    /// An authority whose key was kept.
    ///
    /// # Errors
    /// The key is none, or not that of the certificate.
    pub(crate) fn from_parts(authority: &Authority, key: &[u8]) -> Result<Self, IdentityError> {
        let key = KeyPair::try_from(key).map_err(|error| invalid("the authority's key", error))?;
        let (_, read) = x509_parser::parse_x509_certificate(&authority.certificate)
            .map_err(|error| invalid("the authority's certificate", error))?;
        if read.public_key().raw != key.subject_public_key_info() {
            return Err(IdentityError::Invalid(
                "the authority's key does not fit its certificate".to_owned(),
            ));
        }
        let certificate = CertificateDer::from(authority.certificate.clone());
        let cross = authority.cross.clone();
        Ok(Self { certificate, cross, key, expires_ms: authority.expires_ms })
    }

    /// What others are told of it.
    pub(crate) fn authority(&self) -> Authority {
        let (certificate, cross) = (self.certificate.to_vec(), self.cross.clone());
        Authority { certificate, cross, expires_ms: self.expires_ms }
    }

    /// Its private key, PKCS #8 in DER.
    pub(crate) fn key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.serialize_der())
    }

    /// Signs what a node asked for; the names are the subject's, whatever was asked.
    ///
    /// # Errors
    /// What was asked is no request, or its signature is wrong.
    pub(crate) fn sign(
        &self,
        request: &[u8],
        subject: &Subject,
        now_ms: u64,
        life: Duration,
    ) -> Result<Vec<u8>, IdentityError> {
        let bad = |error| invalid("the request for a certificate", error);
        let request = CertificateSigningRequestDer::from(request);
        let asked = CertificateSigningRequestParams::from_der(&request).map_err(bad)?;
        let params = node_params(subject, now_ms, life)?;
        let signed = params.signed_by(&asked.public_key, &self.issuer()?).map_err(bad)?;
        Ok(signed.der().to_vec())
    }

    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, IdentityError> {
        Issuer::from_ca_cert_der(&self.certificate, &self.key)
            .map_err(|error| invalid("the authority's certificate", error))
    }
}

fn authority_params(
    cluster: &ClusterId,
    now_ms: u64,
) -> Result<(CertificateParams, u64), IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Two authorities of a cluster differ in name, so that a chain leads to the right one.
    let nth = hex::encode(clock::random_bytes::<4>());
    params.distinguished_name.push(DnType::CommonName, format!("nigh {cluster} {nth}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(PATH_LENGTH));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let expires_ms = validity(&mut params, now_ms, AUTHORITY_LIFE)?;
    Ok((params, expires_ms))
}

fn node_params(
    subject: &Subject,
    now_ms: u64,
    life: Duration,
) -> Result<CertificateParams, IdentityError> {
    let own = name_of(subject.node, &subject.cluster);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("nigh node {}", subject.node));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![name(&own)?, name(ANY_NODE)?];
    let local = ["localhost", "127.0.0.1", "::1"];
    let hosts = subject.hosts.iter().map(String::as_str).take(HOSTS_MAX);
    for host in local.into_iter().chain(hosts) {
        // Nobody gets a name by which another node is known.
        if host.ends_with(ANY_NODE) {
            continue;
        }
        let name = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => continue,
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => match name(host) {
                Ok(name) => name,
                Err(_) => continue,
            },
        };
        if !params.subject_alt_names.contains(&name) {
            params.subject_alt_names.push(name);
        }
    }
    validity(&mut params, now_ms, life)?;
    Ok(params)
}

fn name(host: &str) -> Result<SanType, IdentityError> {
    let name = host.try_into().map_err(|error| invalid("a host name", error))?;
    Ok(SanType::DnsName(name))
}

/// Sets from when to when it holds; when it ends, in ms since the Unix epoch.
fn validity(
    params: &mut CertificateParams,
    now_ms: u64,
    life: Duration,
) -> Result<u64, IdentityError> {
    let now = now_ms / 1_000;
    let at = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|error| IdentityError::Invalid(format!("the clock is wrong: {error}")))
    };
    let end = now.saturating_add(life.as_secs().max(1));
    params.not_before = at(now.saturating_sub(BACKDATED.as_secs()))?;
    params.not_after = at(end)?;
    let mut serial = clock::random_bytes::<16>();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(end * 1_000)
}

fn invalid(what: &str, error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Invalid(format!("{what}: {error}"))
}
