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
        // The completed name, which has to be read back.
        if repository.len() > REPOSITORY_LENGTH_MAX {
            return Err(ReferenceError::TooLong { length: repository.len() });
        }
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
            // A first component that looks like a registry would be read back as one.
            _ if split_registry(&self.repository).1 != self.repository => self.name(),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn completes_names_as_docker_does() {
        let at = format!("@sha256:{HEX}");
        let table = [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("library/user/app", "docker.io/library/user/app:latest", "library/user/app:latest"),
            ("a/b/c/d", "docker.io/a/b/c/d:latest", "a/b/c/d:latest"),
            ("quay.io/a/b:v1", "quay.io/a/b:v1", "quay.io/a/b:v1"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("127.0.0.1:5000/debian", "127.0.0.1:5000/debian:latest", "127.0.0.1:5000/debian:latest"),
            ("host:5000/a:5000", "host:5000/a:5000", "host:5000/a:5000"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("[2001:db8::1]/app:x", "[2001:db8::1]/app:x", "[2001:db8::1]/app:x"),
            ("Foo/bar", "Foo/bar:latest", "Foo/bar:latest"),
            ("a__b/c.d-e--f_g", "docker.io/a__b/c.d-e--f_g:latest", "a__b/c.d-e--f_g:latest"),
            ("app:Tag_1.2-3", "docker.io/library/app:Tag_1.2-3", "app:Tag_1.2-3"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("xn--n3h.com/app", "xn--n3h.com/app:latest", "xn--n3h.com/app:latest"),
        ];
        for (text, canonical, familiar) in table {
            let reference = Reference::parse(text).expect(text);
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
        }
        let pinned = Reference::parse(&format!("debian{at}")).expect("valid");
        assert_eq!((pinned.tag.as_deref(), pinned.to_string()), (None, format!("docker.io/library/debian{at}")));
        let both = Reference::parse(&format!("host:1/debian:12{at}")).expect("valid");
        assert_eq!((both.tag.as_deref(), both.familiar()), (Some("12"), format!("host:1/debian:12{at}")));
        assert_eq!(both.target(), &at[1..]);
    }

    #[test]
    fn refuses_with_the_reason() {
        let long = "a/".repeat(128) + "b";
        // As long as a name may be, before `library/` is put in front of it.
        let completed = "a".repeat(250);
        let long_tag = format!("a:{}", "t".repeat(129));
        let table = [
            ("", "it is empty"),
            (HEX, "image id"),
            ("Debian", "\"Debian\" must be lowercase"),
            ("docker.io/Debian", "must be lowercase"),
            ("localhost/App", "must be lowercase"),
            ("user/App:x", "\"user/App\" must be lowercase"),
            (":tag", "no repository name"),
            ("host:5000/", "no repository name"),
            ("@sha256:00", "digits"),
            ("debian:", "tag \"\""),
            ("debian:.x", "tag \".x\""),
            ("debian:a b", "tag \"a b\""),
            ("debian:a:b", "tag \"a:b\""),
            (&long_tag, "1 to 128"),
            ("debian@", "expected algorithm:hex"),
            ("debian@latest", "expected algorithm:hex"),
            ("debian@sha256:abc", "64 digits, found 3"),
            ("debian@md5:abc", "unsupported algorithm \"md5\""),
            ("/debian", "component \"\""),
            ("a//b", "component \"\""),
            ("a/b/", "component \"\""),
            ("-debian", "component \"-debian\""),
            ("debian_", "component \"debian_\""),
            ("a..b", "component \"a..b\""),
            ("a___b", "component \"a___b\""),
            ("a._b", "component \"a._b\""),
            ("a b", "component \"a b\""),
            ("../etc/passwd", "not a registry"),
            ("x/../y", "component \"..\""),
            ("host:port/app", "\"host:port\" is not a registry"),
            ("-host.com/app", "not a registry"),
            ("ho_st.com/app", "not a registry"),
            ("[::1/app", "not a registry"),
            ("http://host/app", "not a registry"),
            (&long, "more than 255"),
            (&completed, "more than 255"),
            ("d\u{e9}bian", "component"),
        ];
        for (text, reason) in table {
            let error = Reference::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn knows_the_loopback() {
        for (text, expected) in [
            ("localhost/a", true),
            ("localhost:5000/a", true),
            ("127.0.0.1:5000/a", true),
            ("127.8.9.1/a", true),
            ("[::1]:5000/a", true),
            ("debian", false),
            ("localhost.example.com/a", false),
            ("10.0.0.1:5000/a", false),
            ("[2001:db8::1]/a", false),
        ] {
            assert_eq!(Reference::parse(text).expect(text).is_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn changes_tag_and_digest() {
        let reference = Reference::parse("host/a:1").expect("valid");
        assert_eq!(reference.with_tag("2").expect("valid").to_string(), "docker.io/host/a:2");
        assert!(reference.with_tag("no good").is_err());
        let digest = Digest::sha256_of(b"");
        assert_eq!(reference.with_digest(digest.clone()).target(), digest.as_str());
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back(
            registry in "([a-z0-9]{1,8}\\.(com|io)|localhost)(:[0-9]{1,5})?",
            repository in "[a-z0-9]{1,5}([._-][a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,5}(__[a-z0-9]{1,5})?){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            content in proptest::option::of(any::<[u8; 4]>()),
        ) {
            let digest = content.map(|bytes| format!("@{}", Digest::sha256_of(&bytes))).unwrap_or_default();
            let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            let reference = Reference::parse(&format!("{registry}/{repository}{tag}{digest}")).expect("valid by make");
            prop_assert_eq!(&reference.registry, &registry);
            prop_assert_eq!(&reference.repository, &repository);
            prop_assert_eq!(&Reference::parse(&reference.to_string()).expect("canonical"), &reference);
            prop_assert_eq!(&Reference::parse(&reference.familiar()).expect("familiar"), &reference);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).expect("canonical"), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).expect("familiar"), &reference);
            }
        }

        #[test]
        fn near_miss_text_is_read_or_refused(text in "[a-zA-Z0-9.:/@_\\[\\]-]{0,24}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).expect("canonical"), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).expect("familiar"), &reference);
            }
        }
    }
}
