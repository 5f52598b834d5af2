//! Image references as a user writes them: `[registry/]repository[:tag][@digest]`, read as docker reads them.
//!
//! The first part is a registry when it has a `.` or a `:`, is `localhost`, or has an upper-case letter; otherwise the
//! registry is docker.io, and a repository of one word there lives under `library/`. Without a tag and a digest the tag
//! is `latest`. The grammar is that of the distribution project's reference documentation; a [`Reference`] that exists
//! obeys it, so its parts are safe in a URL. Nothing here talks to a registry.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

/// Registry that is meant when none is written.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Tag that is meant when neither a tag nor a digest is written.
pub const DEFAULT_TAG: &str = "latest";
/// Old name of [`DEFAULT_REGISTRY`], read as the same.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Longest repository name, as the distribution project limits it.
const REPOSITORY_LENGTH_MAX: usize = 255;
/// Longest tag.
const TAG_LENGTH_MAX: usize = 128;

/// A fully qualified image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    /// Registry host with optional port, such as `docker.io` or `127.0.0.1:5000`.
    pub registry: String,
    /// Repository path, such as `library/debian`.
    pub repository: String,
    /// Tag; `latest` when nothing was written, absent when only a digest was.
    pub tag: Option<String>,
    /// Manifest digest.
    pub digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is empty.
    #[error("invalid reference format: it is empty")]
    Empty,
    /// There is no repository before the tag or digest, or after the registry.
    #[error("invalid reference format: \"{text}\" has no repository name")]
    NoRepository {
        /// The text as given.
        text: String,
    },
    /// 64 hexadecimal digits would be an image id, not a name.
    #[error("invalid repository name \"{text}\": 64 hexadecimal digits are an image id, not a name")]
    LooksLikeId {
        /// The text as given.
        text: String,
    },
    /// Repository names are lower-case.
    #[error("invalid reference format: repository name \"{repository}\" must be lowercase")]
    Uppercase {
        /// The repository part.
        repository: String,
    },
    /// The registry is not `host[:port]`.
    #[error("invalid reference format: \"{registry}\" is not a registry host[:port]")]
    Registry {
        /// The registry part.
        registry: String,
    },
    /// A path component breaks the grammar.
    #[error(
        "invalid reference format: repository name component \"{component}\" in \"{text}\" must be letters and digits \
         joined by single '.', one or two '_', or '-'"
    )]
    Component {
        /// The text as given.
        text: String,
        /// The component at fault.
        component: String,
    },
    /// The repository name is too long.
    #[error("invalid reference format: repository name must not be more than 255 characters, it has {length}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The tag breaks the grammar.
    #[error(
        "invalid reference format: tag \"{tag}\" must be 1 to 128 letters, digits, '_', '.' and '-', not beginning \
         with '.' or '-'"
    )]
    Tag {
        /// The tag.
        tag: String,
    },
    /// The part after `@` is not a digest.
    #[error("invalid reference format: {0}")]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Reads a reference and completes it: `debian` is `docker.io/library/debian:latest`.
    ///
    /// # Errors
    /// [`ReferenceError`] says which part breaks which rule.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId { text: text.to_owned() });
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (registry, path) = split_registry(name);
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(checked_tag(tag)?)),
            None => (path, None),
        };
        if path.is_empty() {
            return Err(ReferenceError::NoRepository { text: text.to_owned() });
        }
        check_registry(registry)?;
        check_repository(text, path)?;
        let repository = match registry == DEFAULT_REGISTRY && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Docker's short form: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        self.familiar_name() + &self.suffix()
    }

    /// Docker's short form of the name alone, as the REPOSITORY column shows it.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The same name with another tag and no digest.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`] when the tag breaks the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        let tag = checked_tag(tag)?.to_owned();
        Ok(Self { tag: Some(tag), digest: None, ..self.clone() })
    }

    /// The same name, by digest alone.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// What a registry is asked for: the digest when there is one, else the tag.
    pub fn target(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// Whether the registry is on this machine (`localhost`, 127.0.0.0/8, `::1`), where plain HTTP is acceptable.
    pub fn is_loopback(&self) -> bool {
        let (host, _) = split_port(&self.registry);
        match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

/// Registry and the rest of a name.
fn split_registry(name: &str) -> (&str, &str) {
    let Some((first, rest)) = name.split_once('/') else {
        return (DEFAULT_REGISTRY, name);
    };
    if first == LEGACY_REGISTRY {
        return (DEFAULT_REGISTRY, rest);
    }
    let is_registry =
        first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_registry { (first, rest) } else { (DEFAULT_REGISTRY, name) }
}

/// Host and port of a registry; a bracketed IPv6 address keeps its brackets.
fn split_port(registry: &str) -> (&str, Option<&str>) {
    let after_address = registry.rfind(']').map_or(0, |end| end + 1);
    match registry[after_address..].find(':') {
        Some(at) => (&registry[..after_address + at], Some(&registry[after_address + at + 1..])),
        None => (registry, None),
    }
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let (host, port) = split_port(registry);
    let port_is_good = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let host_is_good = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':'),
        None => host.split('.').all(is_domain_component),
    };
    match host_is_good && port_is_good {
        true => Ok(()),
        false => Err(ReferenceError::Registry { registry: registry.to_owned() }),
    }
}

fn is_domain_component(component: &str) -> bool {
    !component.is_empty()
        && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !component.starts_with('-')
        && !component.ends_with('-')
}

fn check_repository(text: &str, repository: &str) -> Result<(), ReferenceError> {
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase { repository: repository.to_owned() });
    }
    if repository.len() > REPOSITORY_LENGTH_MAX {
        return Err(ReferenceError::TooLong { length: repository.len() });
    }
    match repository.split('/').find(|component| !is_path_component(component)) {
        Some(component) => Err(ReferenceError::Component { text: text.to_owned(), component: component.to_owned() }),
        None => Ok(()),
    }
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_alphanumeric = |byte: char| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_well = component.starts_with(is_alphanumeric) && component.ends_with(is_alphanumeric);
    ends_well
        && component
            .split(is_alphanumeric)
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-'))
}

fn checked_tag(tag: &str) -> Result<&str, ReferenceError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_good = (1..=TAG_LENGTH_MAX).contains(&tag.len()) && tag.bytes().all(allowed) && !tag.starts_with(['.', '-']);
    if is_good { Ok(tag) } else { Err(ReferenceError::Tag { tag: tag.to_owned() }) }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}
