//! Keeps this node's identity up to date: trusts whom the cluster trusts, renews its certificate
//! in time, holds the authority's key while it votes and forgets it when it no longer does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nigh_model::trust::{Authority, Trust};
use nigh_model::{Digest, NodeId};
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::peer::v1::{AuthorityKeyRequest, SignRequest};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::certificate::{renew_at_ms, until};
use super::{IdentityError, IdentityFolder, Leaf, Material, Request, Signer, Subject, Tls};
use crate::clock;
use crate::control::Control;
use crate::peer::Lane;

/// Looks at what is to be done at least this often.
const INTERVAL: Duration = Duration::from_secs(1);
/// A voter that is asked for a key or a signature answers by then.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// What fails for this long is said: a vote that is not committed yet, or a leader that is just
/// being elected, are over by then.
const FAILING_MAX: Duration = Duration::from_secs(10);
/// A node that has not voted for this long forgets the authority's key: votes move when nodes
/// restart, and come back. So does any node with the key of an authority that has not been
/// trusted for this long.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// This node's identity as its parts use it.
#[derive(Clone)]
pub(crate) struct Own {
    /// What connections are configured with.
    pub(crate) tls: Arc<Tls>,
    /// How long the certificates live that this node signs.
    pub(crate) life: Duration,
    folder: IdentityFolder,
    held: Arc<Mutex<Material>>,
}

impl Own {
    /// The identity of this material.
    ///
    /// # Errors
    /// Certificate and key do not fit.
    pub(crate) fn new(
        folder: IdentityFolder,
        material: Material,
        life: Duration,
    ) -> Result<Self, IdentityError> {
        let tls = Tls::new(&material)?;
        Ok(Self { tls, life, folder, held: Arc::new(Mutex::new(material)) })
    }

    /// Whether the key of the authority that signs is here.
    pub(crate) fn can_sign(&self, trust: &Trust) -> bool {
        trust.signing.is_some_and(|id| self.folder.holds(id))
    }

    /// Whether the key of this authority is here.
    pub(crate) fn holds(&self, id: Digest) -> bool {
        self.folder.holds(id)
    }

    /// Signs a certificate for a node, if the key of the authority that signs is here.
    ///
    /// # Errors
    /// What was asked is no request, or the disk does not give the key.
    pub(crate) async fn sign(
        &self,
        trust: &Trust,
        request: &[u8],
        subject: &Subject,
    ) -> Result<Option<(Vec<u8>, Digest)>, IdentityError> {
        let Some(authority) = trust.signer() else { return Ok(None) };
        let Some(signer) = self.signer(authority).await? else { return Ok(None) };
        let signed = signer.sign(request, subject, clock::now_ms(), self.life)?;
        Ok(Some((signed, authority.id())))
    }

    /// The authority with its key, if it is here.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) async fn signer(
        &self,
        authority: &Authority,
    ) -> Result<Option<Signer>, IdentityError> {
        let authority = authority.clone();
        self.on_disk(move |folder| folder.signer(&authority)).await
    }

    /// Keeps the key of an authority.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) async fn keep_signer(&self, signer: Signer) -> Result<(), IdentityError> {
        self.on_disk(move |folder| folder.keep_signer(&signer)).await
    }

    /// Trusts these authorities from now on; whether that is a change.
    async fn adopt(&self, trust: &Trust) -> Result<bool, IdentityError> {
        let material = {
            let held = self.held();
            if trust.authorities.is_empty() || held.trust == *trust {
                return Ok(false);
            }
            Material { trust: trust.clone(), ..held.clone() }
        };
        let trust = trust.clone();
        self.on_disk(move |folder| folder.keep_trust(&trust)).await?;
        self.tls.renew(&material)?;
        *self.held() = material;
        Ok(true)
    }

    /// Uses this certificate from now on.
    async fn replace(&self, material: Material) -> Result<(), IdentityError> {
        let kept = material.clone();
        self.on_disk(move |folder| folder.keep(&kept)).await?;
        self.tls.renew(&material)?;
        *self.held() = material;
        Ok(())
    }

    /// The certificate, its key and whom to trust, as they are now.
    pub(super) fn material(&self) -> Material {
        self.held().clone()
    }

    fn held(&self) -> MutexGuard<'_, Material> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what may wait for the disk where waiting holds nobody up.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&IdentityFolder) -> Result<T, IdentityError> + Send + 'static,
    ) -> Result<T, IdentityError> {
        let folder = self.folder.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.unwrap_or_else(|error| Err(IdentityError::Invalid(error.to_string())))
    }

    /// When the certificate is to be renewed.
    fn renew_at_ms(&self, trust: &Trust) -> u64 {
        let now = self.tls.now();
        // Another authority signs now: the sooner the old one can go, the better.
        if trust.signing.is_some_and(|signing| signing != now.issuer) {
            return 0;
        }
        renew_at_ms(now.leaf.made_ms, now.leaf.expires_ms)
    }

    /// What others are told of it: when it ends, who signed it, whom it trusts last.
    pub(crate) fn summary(&self) -> Summary {
        let now = self.tls.now();
        let newest = self.held().trust.authorities.last().map(Authority::id);
        Summary { expires_ms: now.leaf.expires_ms, issuer: now.issuer, newest }
    }
}

/// The identity of a node in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// When its certificate ends, in ms since the Unix epoch.
    pub(crate) expires_ms: u64,
    /// The authority that signed it.
    pub(crate) issuer: Digest,
    /// The authority that it came to trust last.
    pub(crate) newest: Option<Digest>,
}

/// The loop that keeps an identity up to date.
pub(crate) struct Keeper {
    /// The identity.
    pub(crate) own: Own,
    /// Who votes, whom to ask, what is trusted.
    pub(crate) control: Control,
}

impl Keeper {
    /// Until cancelled. What fails is tried again.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        let mut changes = self.control.decided.changes();
        let mut last_voted = Instant::now();
        let mut strays = BTreeMap::new();
        let mut failing_since: Option<Instant> = None;
        let mut said = false;
        loop {
            changes.borrow_and_update();
            let done = self.step(&mut last_voted, &mut strays).await;
            match &done {
                Ok(()) => (failing_since, said) = (None, false),
                Err(error) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    tracing::debug!(%error, "this node's identity is not up to date yet");
                    if since.elapsed() > FAILING_MAX && !said {
                        tracing::warn!(%error, "this node's identity is not up to date");
                        said = true;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
                changed = changes.changed(), if failing_since.is_none() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn step(
        &self,
        last_voted: &mut Instant,
        strays: &mut BTreeMap<Digest, Instant>,
    ) -> Result<(), IdentityError> {
        let state = self.control.decided.state();
        let trust = state.trust.as_ref();
        if trust.authorities.is_empty() {
            return Ok(());
        }
        if self.own.adopt(trust).await? {
            tracing::info!(
                authorities = trust.authorities.len(),
                "the trusted authorities changed"
            );
        }
        let voters = self.control.health.now().voters;
        if voters.contains(&self.control.own) {
            *last_voted = Instant::now();
            for authority in &trust.authorities {
                if !self.own.holds(authority.id()) {
                    self.fetch_key(authority, &voters).await?;
                }
            }
        }
        let votes_no_more = !voters.is_empty() && last_voted.elapsed() > FORGET_AFTER;
        let held = self.own.folder.signers();
        strays.retain(|id, _| held.contains(id) && trust.authority(*id).is_none());
        for id in held {
            // A new authority's key is here a moment before anybody trusts it.
            let stray = trust.authority(id).is_none()
                && strays.entry(id).or_insert_with(Instant::now).elapsed() > FORGET_AFTER;
            if votes_no_more || stray {
                self.own.on_disk(move |folder| folder.forget_signer(id)).await?;
                tracing::info!(authority = %id, "forgot the key of an authority");
            }
        }
        let now_ms = clock::now_ms();
        if until(self.own.renew_at_ms(trust), now_ms).is_zero() {
            self.renew(trust, &voters).await?;
        }
        Ok(())
    }

    async fn fetch_key(
        &self,
        authority: &Authority,
        voters: &[NodeId],
    ) -> Result<(), IdentityError> {
        let id = authority.id();
        let mut last = "no other voter is known".to_owned();
        for voter in voters.iter().filter(|voter| **voter != self.control.own) {
            let Some(channel) = self.control.peers.channel(*voter, Lane::Control) else { continue };
            let request = AuthorityKeyRequest { authority: id.as_bytes().to_vec().into() };
            let mut client = ControlClient::new(channel);
            match timeout(ASK_TIMEOUT, client.authority_key(request)).await {
                Ok(Ok(answer)) => {
                    let key = zeroize::Zeroizing::new(answer.into_inner().key.to_vec());
                    self.own.keep_signer(Signer::from_parts(authority, &key)?).await?;
                    tracing::info!(authority = %id, from = %voter, "holds the key of the authority");
                    return Ok(());
                }
                Ok(Err(status)) => last = format!("node {voter}: {}", status.message()),
                Err(_) => last = format!("node {voter}: no answer"),
            }
        }
        Err(IdentityError::Invalid(format!("no voter gave the authority's key: {last}")))
    }

    async fn renew(&self, trust: &Trust, voters: &[NodeId]) -> Result<(), IdentityError> {
        let asked = Request::new()?;
        let (certificate, issuer) = match self.sign_here(trust, &asked.request).await? {
            Some(signed) => signed,
            None => self.sign_there(&asked.request, voters).await?,
        };
        let leaf = Leaf::read(&certificate)?;
        if leaf.node != self.control.own || leaf.cluster != self.control.cluster {
            let why = format!("a certificate for node {} of {}", leaf.node, leaf.cluster);
            return Err(IdentityError::Invalid(format!("this node was given {why}")));
        }
        let trust = trust.clone();
        self.own.replace(Material { certificate, issuer, key: asked.key, trust }).await?;
        tracing::info!(authority = %issuer, "the certificate was renewed");
        Ok(())
    }

    async fn sign_here(
        &self,
        trust: &Trust,
        request: &[u8],
    ) -> Result<Option<(Vec<u8>, Digest)>, IdentityError> {
        let Some(subject) = subject(&self.control, self.control.own) else { return Ok(None) };
        self.own.sign(trust, request, &subject).await
    }

    async fn sign_there(
        &self,
        request: &[u8],
        voters: &[NodeId],
    ) -> Result<(Vec<u8>, Digest), IdentityError> {
        let mut last = "no voter is known".to_owned();
        for voter in voters.iter().filter(|voter| **voter != self.control.own) {
            let Some(channel) = self.control.peers.channel(*voter, Lane::Control) else { continue };
            let message = SignRequest { certificate_request: request.to_vec().into() };
            let answer = timeout(ASK_TIMEOUT, ControlClient::new(channel).sign(message)).await;
            match answer {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    let authority = answer.authority.as_ref().try_into().map_err(|_| {
                        IdentityError::Invalid(format!("node {voter} named no authority"))
                    })?;
                    return Ok((answer.certificate.to_vec(), Digest::from_bytes(authority)));
                }
                Ok(Err(status)) => last = format!("node {voter}: {}", status.message()),
                Err(_) => last = format!("node {voter}: no answer"),
            }
        }
        Err(IdentityError::Invalid(format!("no voter signed a certificate: {last}")))
    }
}

/// Whom a certificate of this node is for: as it is registered.
pub(crate) fn subject(control: &Control, node: NodeId) -> Option<Subject> {
    let state = control.decided.state();
    let known = state.nodes.get(&node)?;
    Some(Subject { node, cluster: control.cluster.clone(), hosts: hosts(&known.addresses) })
}

/// The hosts of a node's addresses.
pub(crate) fn hosts(addresses: &nigh_model::Addresses) -> Vec<String> {
    let nigh_model::Addresses { http, api, peer, gossip: _, also } = addresses;
    let mut hosts: Vec<String> = [http, api, peer]
        .into_iter()
        .filter_map(|address| Some(address.rsplit_once(':')?.0.to_owned()))
        .chain(also.iter().cloned())
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
