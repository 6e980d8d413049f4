//! Whom the nodes of a cluster trust: the certificates of its authorities. Public halves only.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// An authority that signs the certificates of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its certificate, signed by itself, in DER (RFC 5280).
    #[serde(with = "base16")]
    pub certificate: Vec<u8>,
    /// The same name and key signed by the authority before it, so that those who know only
    /// that one can follow.
    #[serde(with = "base16::option", default)]
    pub cross: Option<Vec<u8>>,
    /// When the certificate ends, in ms since the Unix epoch.
    pub expires_ms: u64,
}

impl Authority {
    /// What it is known by: the digest of its certificate.
    pub fn id(&self) -> Digest {
        Digest::of(&self.certificate)
    }
}

/// The authorities of a cluster, the oldest first. Usually one; two while one takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Those whose certificates are accepted.
    pub authorities: Vec<Authority>,
    /// The one that signs.
    pub signing: Option<Digest>,
}

impl Trust {
    /// The authority of this id.
    pub fn authority(&self, id: Digest) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.id() == id)
    }

    /// The authority that signs.
    pub fn signer(&self) -> Option<&Authority> {
        self.authority(self.signing?)
    }
}

/// Bytes as text, as the state is hashed as JSON.
mod base16 {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(from)?).map_err(D::Error::custom)
    }

    pub(super) mod option {
        use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

        pub(in super::super) fn serialize<S: Serializer>(
            bytes: &Option<Vec<u8>>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match bytes {
                Some(bytes) => to.serialize_some(&hex::encode(bytes)),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'d, D: Deserializer<'d>>(
            from: D,
        ) -> Result<Option<Vec<u8>>, D::Error> {
            let digits = Option::<String>::deserialize(from)?;
            digits.map(|digits| hex::decode(digits).map_err(D::Error::custom)).transpose()
        }
    }
}
