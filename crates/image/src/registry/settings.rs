//! What a user sets for a registry: how its host is trusted and reached.
//!
//! A section of the configuration file, `[registries."HOST[:PORT]"]`. Without one, a registry is reached over TLS with
//! the usual authorities, and plain HTTP is spoken on loopback alone.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use hull_oci::{Reference, ReferenceError};
use serde::Deserialize;

use super::endpoint::Mirror;

/// The settings of every registry that has some.
pub type Registries = BTreeMap<RegistryName, RegistrySettings>;

/// A registry as references name it: `HOST[:PORT]`, docker's own being `docker.io`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryName(String);

/// A text that names no registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a registry (HOST or HOST:PORT, as in the names of images)")]
pub struct RegistryNameError(String);

impl RegistryName {
    /// Reads a registry's name; docker's old name for its own is read as `docker.io`.
    ///
    /// # Errors
    /// [`RegistryNameError`] when no image's name could begin with it.
    pub fn parse(text: &str) -> Result<Self, RegistryNameError> {
        let reference = |text: &str| -> Result<Reference, ReferenceError> { Reference::parse(&format!("{text}/a/b")) };
        match reference(text) {
            Ok(reference) if reference.repository == "a/b" => Ok(Self(reference.registry)),
            _ => Err(RegistryNameError(text.to_owned())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RegistryName {
    type Error = RegistryNameError;
    fn try_from(text: String) -> Result<Self, RegistryNameError> {
        Self::parse(&text)
    }
}

impl std::borrow::Borrow<str> for RegistryName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How one registry is reached, and who else has its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// Who is asked before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
    /// A file of certificates (PEM) whose authorities are trusted besides the usual ones.
    pub ca: Option<PathBuf>,
    /// TLS certificates of the registry's host are not verified, and plain HTTP is spoken when it has no TLS.
    pub insecure: bool,
    /// Nothing but plain HTTP is spoken.
    pub plain_http: bool,
    /// What this machine shows to a registry that asks for a certificate.
    pub client_certificate: Option<ClientCertificate>,
}

/// A certificate and the key to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClientCertificate {
    /// File of the certificate and those between it and its authority (PEM).
    pub file: PathBuf,
    /// File of the key (PEM).
    pub key: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_as_in_references() {
        for (text, name) in [
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("localhost", "localhost"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            assert_eq!(RegistryName::parse(text).expect(text).as_str(), name);
        }
        for text in ["", "a", "https://r.example", "r.example/x", "r.example:x", "r example.com"] {
            assert!(RegistryName::parse(text).is_err(), "{text}");
        }
    }
}
