//! Which certificates outbound TLS trusts: those that the machine does, else the bundled ones.

use std::sync::{Arc, LazyLock};

use rustls::client::WebPkiServerVerifier;
use rustls::{ClientConfig, RootCertStore};

/// What every outbound TLS connection of this process is made with. Read once: certificates that
/// the machine gets later are trusted after a restart.
static CONFIG: LazyLock<Option<Arc<ClientConfig>>> = LazyLock::new(|| client_config(roots()));

/// How to speak TLS, and whom to trust; none when no certificate is trusted at all.
pub(crate) fn config() -> Option<Arc<ClientConfig>> {
    CONFIG.clone()
}

/// TLS 1.2 and 1.3, the certificate of the other side checked against these roots.
pub(crate) fn client_config(roots: RootCertStore) -> Option<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let verifier =
        verifier.inspect_err(|error| tracing::warn!(%error, "no certificate is trusted"));
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.ok()?.with_webpki_verifier(verifier.ok()?).with_no_client_auth();
    Some(Arc::new(config))
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` if they are set, else where systems keep them; Mozilla's
/// list, as it was when this was built, where there are none.
fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::debug!(%error, "a trusted certificate cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (trusted, unusable) = roots.add_parsable_certificates(found.certs);
    if trusted == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let from = if trusted == 0 { "bundled" } else { "machine" };
    tracing::info!(trusted = roots.len(), unusable, from, "certificates for outbound TLS");
    roots
}
