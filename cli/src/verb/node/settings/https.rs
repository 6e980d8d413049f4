//! How a node serves HTTPS, from several settings that belong together.

use std::path::{Path, PathBuf};

use nigh_node::Https;

use super::values::address;
use crate::failure::{Failure, Result};

/// Where HTTPS is served when nothing else is said.
const HTTPS_PORT: u16 = 8443;
/// The node's own certificate, in its data folder.
const HTTPS_FOLDER: &str = "https";

/// The settings of HTTPS.
pub(super) struct HttpsFlags {
    pub(super) listen: Option<String>,
    pub(super) certificates: Option<PathBuf>,
    pub(super) self_signed: bool,
    pub(super) redirect: Option<String>,
}

impl HttpsFlags {
    /// Nothing unless there is a certificate to show.
    pub(super) fn validate(self, data: &Path) -> Result<Option<Https>> {
        let redirect = self.redirect.as_deref().unwrap_or("false");
        let (certificates, self_made) = match (self.certificates, self.self_signed) {
            (Some(_), true) => {
                return Err(Failure::usage(
                    "--https-certificates and --https-self-signed are two ways",
                )
                .why("a node shows the certificates of a folder, or the one that it signs itself")
                .hint("leave one of them out"));
            }
            (Some(folder), false) => (folder, false),
            (None, true) => (data.join(HTTPS_FOLDER), true),
            (None, false) if self.listen.is_none() && redirect == "false" => return Ok(None),
            (None, false) => {
                return Err(Failure::usage("HTTPS takes a certificate")
                    .why("--https or --https-redirect was given without one")
                    .hint("name a folder of them with --https-certificates DIR, or let the node sign its own with --https-self-signed"));
            }
        };
        let listen = address("https", self.listen, HTTPS_PORT)?;
        let redirect = match redirect {
            "false" => None,
            "true" => Some(listen.port()),
            port => Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                Failure::usage(format!("--https-redirect: `{port}` is no port"))
                    .why("it is the port by which callers reach HTTPS, when that is not the one of --https")
                    .hint("such as --https-redirect=443")
            })?),
        };
        Ok(Some(Https { listen, certificates, self_made, redirect }))
    }
}
