//! Which repositories must be signed, and whether an image is: cosign's signatures by a key.
//!
//! ```toml
//! [trust]
//! "docker.io/library/*" = { cosign-key = "debian.pub" }   # or a list of files: one of the keys must have signed
//! "registry.example/*" = "reject"
//! "registry.example/ours" = "accept"                      # the longest pattern that fits decides; without any: accept
//! ```
//!
//! What is signed is the digest that a name leads to, an index or a manifest; everything below it hangs on that digest.
//! A signature is a layer of a manifest: its content is a *simple signing* payload which names the digest, its annotation
//! `dev.cosignproject.cosign/signature` is the signature over that content. The manifest is found under the tag
//! `sha256-<digest>.sig`, or as a referrer of the image (artifact type [`ARTIFACT_TYPE`]). Keys are ECDSA P-256 or
//! P-384 with SHA-256, or Ed25519, in PEM. A payload's `docker-reference` is not compared, since images move between
//! registries with their signatures. Not understood are certificates (keyless signing) and sigstore bundles.
//!
//! It is asked for whenever something is pulled, before any layer is fetched. An image that is here already is not
//! looked at again, and archives bring no signatures: one with a name that must be signed is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use hull_oci::{Digest, Reference};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::RegistryError;
use super::client::{Client, Wanted, read_limited};
use super::credentials::decode_base64;
use super::referrers::{Referrer, referrers_of};
use crate::DOCUMENT_BYTES_MAX;
use crate::content::Hasher;
use crate::manifest::Descriptor;

/// What cosign's signatures are as referrers.
pub const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const PAYLOAD_KIND: &str = "cosign container image signature";
/// Most signatures of one image that are looked at.
const SIGNATURES_MAX: usize = 64;
/// Longest payload.
const PAYLOAD_BYTES_MAX: u64 = 64 << 10;

/// What `[trust]` says: a pattern of repositories, and what holds for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, TrustRule>")]
pub struct TrustPolicy {
    /// Pattern (`REGISTRY/REPOSITORY`, or its beginning and `*`) and rule.
    rules: BTreeMap<String, TrustRule>,
}

/// A pattern that would never decide anything, though whoever wrote it thinks that it does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It fits no complete name.
    #[error(
        "\"{0}\" fits no repository: names are compared in full, as in \"docker.io/library/debian\", \
         \"registry.example:5000/team/*\" or \"*\""
    )]
    FitsNothing(String),
    /// Another one means the same.
    #[error("\"{0}\" means the same as another pattern")]
    Twice(String),
}

impl TryFrom<BTreeMap<String, TrustRule>> for TrustPolicy {
    type Error = PatternError;

    fn try_from(written: BTreeMap<String, TrustRule>) -> Result<Self, PatternError> {
        let mut rules = BTreeMap::new();
        for (pattern, rule) in written {
            let compared = compared_pattern(&pattern).ok_or_else(|| PatternError::FitsNothing(pattern.clone()))?;
            if rules.insert(compared, rule).is_some() {
                return Err(PatternError::Twice(pattern));
            }
        }
        Ok(Self { rules })
    }
}

/// A name as policies compare it: whatever leads to the same registry is the same.
fn compared_name(registry: &str, repository: &str) -> String {
    let registry = registry.to_ascii_lowercase();
    let registry = match registry.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(443))) => host.to_owned(),
        Some((host, Ok(port))) => format!("{host}:{port}"),
        _ => registry,
    };
    format!("{registry}/{repository}")
}

/// A pattern in the form of the names that it is compared with; absent when no name can fit.
fn compared_pattern(pattern: &str) -> Option<String> {
    if pattern == "*" {
        return Some(pattern.to_owned());
    }
    // Something that begins so must be read back as it is, and not as a short name of something else.
    let is_whole = |name: &String| Reference::parse(name).is_ok_and(|read| read.name() == *name);
    match (pattern.split_once('/'), pattern.strip_suffix('*')) {
        (Some((registry, rest)), None) => is_whole(&pattern.to_owned()).then(|| compared_name(registry, rest)),
        (Some((registry, rest)), Some(beginning)) => {
            let examples = [format!("{beginning}x"), format!("{beginning}x/x")];
            examples.iter().any(is_whole).then(|| compared_name(registry, rest))
        }
        // The beginning of a registry; a word alone means a repository to whoever writes it.
        (None, Some(host)) if host.contains(['.', ':']) || host == "localhost" => {
            let examples = [format!("{host}/x/x"), format!("{host}1/x/x")];
            examples.iter().any(is_whole).then(|| pattern.to_ascii_lowercase())
        }
        (None, _) => None,
    }
}

/// What holds for repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustRule {
    /// Anything is taken.
    Accept,
    /// Nothing is taken.
    Reject,
    /// What one of these keys has signed is taken.
    CosignKeys(Vec<PathBuf>),
}

impl<'de> Deserialize<'de> for TrustRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RuleVisitor)
    }
}

struct RuleVisitor;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RuleTable {
    cosign_key: OneOrMany,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl<'de> Visitor<'de> for RuleVisitor {
    type Value = TrustRule;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("\"accept\", \"reject\" or { cosign-key = FILE }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<TrustRule, E> {
        match text {
            "accept" => Ok(TrustRule::Accept),
            "reject" => Ok(TrustRule::Reject),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TrustRule, A::Error> {
        let table = RuleTable::deserialize(MapAccessDeserializer::new(map))?;
        match table.cosign_key {
            OneOrMany::One(key) => Ok(TrustRule::CosignKeys(vec![key])),
            OneOrMany::Many(keys) if !keys.is_empty() => Ok(TrustRule::CosignKeys(keys)),
            OneOrMany::Many(_) => Err(de::Error::custom("cosign-key names no key")),
        }
    }
}

impl TrustPolicy {
    /// The files of all keys, to complete their paths.
    pub fn keys_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.rules.values_mut().flat_map(|rule| match rule {
            TrustRule::CosignKeys(keys) => keys.as_mut_slice(),
            TrustRule::Accept | TrustRule::Reject => &mut [],
        })
    }

    /// The rule of exactly this pattern.
    pub fn rule_of(&self, pattern: &str) -> Option<&TrustRule> {
        self.rules.get(pattern)
    }

    /// The pattern that decides for a repository, and its rule; absent when anything is taken.
    pub fn rule(&self, reference: &Reference) -> Option<(&str, &TrustRule)> {
        let name = compared_name(&reference.registry, &reference.repository);
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        let fitting = self.rules.iter().filter(|(pattern, _)| fits(pattern));
        // `a/b` says more than `a/b*`, which is longer.
        let best = fitting.max_by_key(|(pattern, _)| (!pattern.ends_with('*'), pattern.len()))?;
        Some((best.0.as_str(), best.1)).filter(|(_, rule)| **rule != TrustRule::Accept)
    }

    /// Refuses a name for something that comes without a registry, and so without a signature.
    ///
    /// # Errors
    /// [`RegistryError::Untrusted`].
    pub fn admit_unsigned(&self, reference: &Reference) -> Result<(), RegistryError> {
        match self.rule(reference) {
            None => Ok(()),
            Some((pattern, rule)) => {
                Err(untrusted(reference, pattern, rule, "what does not come from a registry is not signed".to_owned()))
            }
        }
    }
}

fn untrusted(reference: &Reference, pattern: &str, rule: &TrustRule, found: String) -> RegistryError {
    let wanted = match rule {
        TrustRule::CosignKeys(keys) => {
            let keys: Vec<String> = keys.iter().map(|key| key.display().to_string()).collect();
            format!("wants a cosign signature by {}", keys.join(" or "))
        }
        _ => "rejects it".to_owned(),
    };
    RegistryError::Untrusted { repository: reference.name(), pattern: pattern.to_owned(), wanted, found }
}

/// Lets a digest pass that the policy accepts.
pub(super) async fn check(
    policy: &TrustPolicy,
    client: &Client<'_>,
    reference: &Reference,
    digest: &Digest,
) -> Result<(), RegistryError> {
    let Some((pattern, rule)) = policy.rule(reference) else { return Ok(()) };
    let TrustRule::CosignKeys(paths) = rule else {
        return Err(untrusted(reference, pattern, rule, "nothing was looked for".to_owned()));
    };
    let keys: Vec<Key> = paths.iter().map(|path| Key::read(path)).collect::<Result<_, _>>()?;
    let signatures = find(client, digest).await?;
    let count = signatures.len();
    let mut reasons = Vec::new();
    for signature in signatures.into_iter().take(SIGNATURES_MAX) {
        match verify(client, digest, &signature, &keys).await? {
            None => return Ok(()),
            Some(reason) if !reasons.contains(&reason) => reasons.push(reason),
            Some(_) => {}
        }
    }
    let found = match count {
        0 => format!("{digest} has no signature"),
        1 => format!("the signature of {digest} {}", reasons.join(", ")),
        _ => format!("{digest} has {count} signatures, of which one {}", reasons.join(", one ")),
    };
    Err(untrusted(reference, pattern, rule, found))
}

/// The layers that are signatures of a digest, by tag and by referrer.
async fn find(client: &Client<'_>, digest: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
    let tag = format!("{}-{}.sig", digest.algorithm(), digest.hex());
    let mut found: Vec<Descriptor> = Vec::new();
    if let Some(bytes) = optional(client, &tag).await? {
        found.extend(signatures_in(&bytes));
    }
    for Referrer { digest, .. } in
        referrers_of(client, digest, Some(ARTIFACT_TYPE)).await?.into_iter().take(SIGNATURES_MAX)
    {
        if let Some(bytes) = optional(client, digest.as_str()).await?
            && Hasher::digest_like(&digest, &bytes) == digest
        {
            found.extend(signatures_in(&bytes));
        }
    }
    Ok(found)
}

/// A manifest; absent when the registry has none of that name.
async fn optional(client: &Client<'_>, target: &str) -> Result<Option<Vec<u8>>, RegistryError> {
    let url = client.url("manifests", target);
    let accept = &hull_oci::image::ACCEPTED_MANIFESTS;
    match client.get(&url, &Wanted { accept, ..Wanted::default() }).await {
        Ok(response) => Ok(Some(read_limited(&url, response, DOCUMENT_BYTES_MAX).await?)),
        Err(RegistryError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn signatures_in(manifest: &[u8]) -> Vec<Descriptor> {
    #[derive(Deserialize)]
    struct Layers {
        #[serde(default)]
        layers: Vec<Descriptor>,
    }
    // What is no manifest holds no signature.
    let layers = serde_json::from_slice::<Layers>(manifest).map(|manifest| manifest.layers).unwrap_or_default();
    layers.into_iter().filter(|layer| layer.media_type == PAYLOAD_TYPE).take(SIGNATURES_MAX).collect()
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Why a signature does not count; absent when it does.
async fn verify(
    client: &Client<'_>,
    digest: &Digest,
    layer: &Descriptor,
    keys: &[Key],
) -> Result<Option<String>, RegistryError> {
    let reason = |text: &str| Ok(Some(text.to_owned()));
    let Some(signature) = layer.annotation(SIGNATURE_ANNOTATION).and_then(decode_base64) else {
        return reason("is not base64");
    };
    let url = client.url("blobs", layer.digest.as_str());
    let response = match client.get(&url, &Wanted::default()).await {
        Ok(response) => response,
        Err(RegistryError::Status { status: 404, .. }) => return reason("has no content"),
        Err(error) => return Err(error),
    };
    let payload = read_limited(&url, response, PAYLOAD_BYTES_MAX).await?;
    if Hasher::digest_like(&layer.digest, &payload) != layer.digest {
        return reason("has content of another digest");
    }
    if !keys.iter().any(|key| key.has_signed(&payload, &signature)) {
        return reason("is by another key");
    }
    match serde_json::from_slice::<Payload>(&payload) {
        Ok(Payload { critical }) if critical.kind != PAYLOAD_KIND => reason("is of something else than an image"),
        Ok(Payload { critical }) if critical.image.digest == digest.as_str() => Ok(None),
        Ok(Payload { critical }) => Ok(Some(format!("is of {}", critical.image.digest))),
        Err(_) => reason("has content that is no payload"),
    }
}

/// A public key.
struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

/// What comes before the key's own bytes in its DER form (RFC 5280, SubjectPublicKeyInfo; RFC 5480, RFC 8410).
const KINDS: [(&[u8], usize, &dyn VerificationAlgorithm); 3] = [
    (
        &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ],
        65,
        &ECDSA_P256_SHA256_ASN1,
    ),
    (
        &[
            0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
            0x00, 0x22, 0x03, 0x62, 0x00,
        ],
        97,
        &ECDSA_P384_SHA256_ASN1,
    ),
    (&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], 32, &ED25519),
];

impl Key {
    fn read(path: &Path) -> Result<Self, RegistryError> {
        let unusable = |reason: String| RegistryError::Key { path: path.to_path_buf(), reason };
        let text = fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        Self::parse(&text).ok_or_else(|| {
            unusable(
                "it is no public key in PEM of a kind that is understood (ECDSA P-256 or P-384, Ed25519)".to_owned(),
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let body = text.split_once("-----BEGIN PUBLIC KEY-----")?.1.split_once("-----END PUBLIC KEY-----")?.0;
        let der = decode_base64(&body.split_ascii_whitespace().collect::<String>())?;
        KINDS.iter().find_map(|(beginning, length, algorithm)| {
            let bytes = der.strip_prefix(*beginning).filter(|bytes| bytes.len() == *length)?.to_vec();
            Some(Self { algorithm: *algorithm, bytes })
        })
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[(&str, TrustRule)]) -> TrustPolicy {
        let rules: BTreeMap<_, _> = rules.iter().map(|(name, rule)| ((*name).to_owned(), rule.clone())).collect();
        TrustPolicy::try_from(rules).expect("patterns")
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_refused() {
        let wrong = [
            "debian",
            "debian*",
            "library/debian",
            "user/*",
            "docker.io/debian",
            "docker.io",
            "",
            "r.example/x:1",
            "r.example/X*",
            "index.docker.io/library/debian",
            "https://r.example/*",
            "r.example/x/",
            "a.b/**",
        ];
        for pattern in wrong {
            let rules = BTreeMap::from([(pattern.to_owned(), TrustRule::Reject)]);
            assert_eq!(TrustPolicy::try_from(rules), Err(PatternError::FitsNothing(pattern.to_owned())));
        }
        let twice = ["r.example/x", "R.example:443/x"].map(|pattern| (pattern.to_owned(), TrustRule::Reject));
        assert!(matches!(TrustPolicy::try_from(BTreeMap::from(twice)), Err(PatternError::Twice(_))));
    }

    #[test]
    fn another_spelling_of_the_registry_does_not_help() {
        let policy = policy(&[("Registry.example/*", TrustRule::Reject), ("localhost:05000/a/b", TrustRule::Reject)]);
        for name in ["registry.example/x", "REGISTRY.example/x", "registry.example:443/x/y", "registry.example:0443/x"]
        {
            assert!(policy.rule(&Reference::parse(name).expect(name)).is_some(), "{name}");
        }
        assert!(policy.rule(&Reference::parse("LOCALHOST:5000/a/b").expect("name")).is_some());
        for name in ["registry.example.org/x", "registry.example:5000/x", "localhost:5000/a/bc", "x"] {
            assert!(policy.rule(&Reference::parse(name).expect(name)).is_none(), "{name}");
        }
        let all = self::policy(&[("*", TrustRule::Reject)]);
        assert!(all.rule(&Reference::parse("x").expect("name")).is_some());
    }

    #[test]
    fn the_longest_pattern_decides() {
        let keys = |name: &str| TrustRule::CosignKeys(vec![PathBuf::from(name)]);
        let policy = policy(&[
            ("docker.io/*", keys("all.pub")),
            ("docker.io/library/*", TrustRule::Reject),
            ("docker.io/library/debian", TrustRule::Accept),
            ("docker.io/library/debian*", TrustRule::Reject),
        ]);
        let rule = |name: &str| policy.rule(&Reference::parse(name).expect("reference")).map(|(pattern, _)| pattern);
        assert_eq!(rule("me/x"), Some("docker.io/*"));
        assert_eq!(rule("alpine"), Some("docker.io/library/*"));
        assert_eq!(rule("debian:12"), None, "an exact name comes before every pattern");
        assert_eq!(rule("r.example/x"), None);
        let error =
            policy.admit_unsigned(&Reference::parse("me/x").expect("reference")).expect_err("refused").to_string();
        assert!(error.contains("docker.io/me/x") && error.contains("all.pub"), "{error}");
    }

    #[test]
    fn keys_of_other_kinds_are_none() {
        for text in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----"] {
            assert!(Key::parse(text).is_none(), "{text}");
        }
    }
}
