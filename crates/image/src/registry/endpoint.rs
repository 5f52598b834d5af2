//! Where a registry's content is had: the registry itself, or a mirror of it.
//!
//! A pull asks the mirrors in the order they are set, and the registry last; whatever a mirror cannot give, the next one
//! is asked for. Content counts by its digest alone, whoever it came from. Pushes go to the registry.

use std::fmt;

use hull_oci::{DEFAULT_REGISTRY, Reference};
use serde::Deserialize;

use super::settings::{Registries, RegistryName};

/// Where docker.io's API is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A mirror as it is set: `HOST[:PORT]` or an address, which may have a path that comes before the repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mirror {
    name: RegistryName,
    /// Whether the address says `http://`.
    is_plain: bool,
    prefix: String,
}

/// A text that is no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a mirror (HOST[:PORT], or an address that begins with https:// or http://)")]
pub struct MirrorError(String);

impl TryFrom<String> for Mirror {
    type Error = MirrorError;

    fn try_from(text: String) -> Result<Self, MirrorError> {
        let (is_plain, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (false, text.as_str()),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let fits = Reference::parse(&format!("{host}/{prefix}a")).is_ok();
        match RegistryName::parse(host) {
            Ok(name) if fits => Ok(Self { name, is_plain, prefix }),
            _ => Err(MirrorError(text)),
        }
    }
}

/// A place to be asked.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Under which name settings and credentials for it are found.
    pub registry: String,
    /// `HOST[:PORT]` of its API.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// Whether it is to be spoken to in the clear.
    pub is_plain: bool,
}

impl Endpoint {
    /// The registry of a reference.
    pub fn registry_of(reference: &Reference) -> Self {
        let host = match reference.registry.as_str() {
            DEFAULT_REGISTRY => DOCKER_HUB_HOST,
            other => other,
        };
        let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
        Self { registry, host: host.to_owned(), repository, is_plain: false }
    }

    /// All places that have a reference's content, best first: mirrors, then the registry.
    pub fn all_of(reference: &Reference, registries: &Registries) -> Vec<Self> {
        let mirrors = registries.get(reference.registry.as_str()).map(|settings| settings.mirrors.as_slice());
        let mirrors = mirrors.unwrap_or_default().iter().map(|Mirror { name, is_plain, prefix }| Self {
            registry: name.to_string(),
            host: name.to_string(),
            repository: format!("{prefix}{}", reference.repository),
            is_plain: *is_plain,
        });
        mirrors.chain([Self::registry_of(reference)]).collect()
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        Reference::parse(&format!("{}/a", self.host)).is_ok_and(|reference| reference.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistrySettings;

    #[test]
    fn mirrors_come_before_the_registry() {
        let mirrors =
            ["http://m.example:5000/hub", "n.example"].map(|text| Mirror::try_from(text.to_owned()).expect(text));
        let settings = RegistrySettings { mirrors: mirrors.into(), ..RegistrySettings::default() };
        let registries = [(RegistryName::parse("docker.io").expect("name"), settings)].into();
        let reference = Reference::parse("debian").expect("reference");
        let all: Vec<_> = Endpoint::all_of(&reference, &registries)
            .into_iter()
            .map(|endpoint| (endpoint.host, endpoint.repository, endpoint.is_plain))
            .collect();
        let expected = [
            ("m.example:5000", "hub/library/debian", true),
            ("n.example", "library/debian", false),
            (DOCKER_HUB_HOST, "library/debian", false),
        ];
        assert_eq!(all, expected.map(|(host, repository, plain)| (host.to_owned(), repository.to_owned(), plain)));
        let other = Reference::parse("r.example/x").expect("reference");
        assert_eq!(Endpoint::all_of(&other, &registries).len(), 1);
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for text in ["", "ftp://a.example", "m.example/Upper", "a b.example", "word"] {
            assert!(Mirror::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
