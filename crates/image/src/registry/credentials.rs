//! Credentials from docker's config.json: `auths`, and the credential helpers that `credHelpers` and `credsStore` name.
//!
//! The file is `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`; without it everything is anonymous. For a
//! registry its own `credHelpers` entry comes first, then `credsStore`, then `auths`, as in docker's client. A helper
//! is the program `docker-credential-<name>`: it is run with `get`, reads the registry on its stdin, and answers with
//! JSON; `store` and `erase` keep and forget ([`super::docker_config`]). A secret never appears in an error or a log; [`Credentials`] has no `Debug` that shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_oci::DEFAULT_REGISTRY;
use serde::Deserialize;

/// The name under which docker's client keeps docker.io's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// User name by which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper prints when it has nothing for a registry.
const HELPER_NOT_FOUND: &str = "credentials not found in native keychain";

/// How to introduce oneself to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User name and password.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Password { .. } => "Credentials::Password",
            Self::IdentityToken(_) => "Credentials::IdentityToken",
        })
    }
}

/// Why there are no credentials although some are configured.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not JSON of the form that docker writes.
    #[error("{path} is not a docker configuration")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// An `auth` value is not base64 of `user:password`.
    #[error("{path}: auths[\"{key}\"].auth is not base64 of user:password")]
    Auth {
        /// The file.
        path: PathBuf,
        /// The registry's key.
        key: String,
    },
    /// The file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A helper's name is not a plain word.
    #[error("{path} names an invalid credential helper \"{name}\"")]
    HelperName {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A helper cannot be run.
    #[error("cannot run {program}, which {path} names for {registry}")]
    HelperRun {
        /// The program.
        program: String,
        /// The file.
        path: PathBuf,
        /// The registry.
        registry: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A helper failed or did not answer with credentials.
    #[error("{program} failed for {registry}: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// The registry.
        registry: String,
        /// Its message, or what is wrong with its answer.
        reason: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Auth")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Where docker's client keeps its configuration; absent when neither DOCKER_CONFIG nor HOME is set.
pub fn default_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// The credentials for a registry; absent when none are configured.
///
/// # Errors
/// [`CredentialsError`].
pub fn load(path: &Path, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let Some(config) = Config::read(path)? else { return Ok(None) };
    let key = config_key(registry);
    match config.helper(key) {
        Some(helper) => ask_helper(path, helper, key),
        None => from_auths(path, &config.auths, key),
    }
}

/// The name of a registry in the file.
pub(super) fn config_key(registry: &str) -> &str {
    match registry {
        DEFAULT_REGISTRY => DOCKER_HUB_KEY,
        other => other,
    }
}

/// The helper that keeps a registry's credentials; absent when the file itself does.
pub(super) fn helper_for(path: &Path, registry: &str) -> Result<Option<String>, CredentialsError> {
    let config = Config::read(path)?;
    Ok(config.and_then(|config| config.helper(config_key(registry)).map(str::to_owned)))
}

impl Config {
    /// The file's content; absent when there is none.
    fn read(path: &Path) -> Result<Option<Self>, CredentialsError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CredentialsError::Read { path: path.to_path_buf(), source }),
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|source| CredentialsError::Json { path: path.to_path_buf(), source })
    }

    fn helper(&self, key: &str) -> Option<&str> {
        let own = self.cred_helpers.iter().find(|(name, _)| names(name, key)).map(|(_, helper)| helper.as_str());
        own.or(Some(self.creds_store.as_str())).filter(|helper| !helper.is_empty())
    }
}

/// Whether a key of the file means a registry: equal, or equal without scheme and path.
pub(super) fn names(key: &str, registry: &str) -> bool {
    fn host(text: &str) -> &str {
        let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        text.split('/').next().unwrap_or(text)
    }
    key == registry || host(key) == host(registry)
}

fn from_auths(
    path: &Path,
    auths: &BTreeMap<String, Auth>,
    registry: &str,
) -> Result<Option<Credentials>, CredentialsError> {
    let entry = auths.get_key_value(registry).or_else(|| auths.iter().find(|(key, _)| names(key, registry)));
    let Some((key, entry)) = entry else { return Ok(None) };
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Credentials::IdentityToken(entry.identitytoken.clone())));
    }
    if !entry.auth.is_empty() {
        let invalid = || CredentialsError::Auth { path: path.to_path_buf(), key: key.clone() };
        let text = decode_base64(&entry.auth).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(invalid)?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        // Older clients padded the password with zero bytes.
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Some(Credentials::Password { user: user.to_owned(), password }));
    }
    let has_user = !entry.username.is_empty();
    Ok(has_user.then(|| Credentials::Password { user: entry.username.clone(), password: entry.password.clone() }))
}

fn ask_helper(path: &Path, name: &str, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let Some(answer) = run_helper(path, name, "get", registry, registry)? else { return Ok(None) };
    let failed =
        |reason: String| CredentialsError::Helper { program: program(name), registry: registry.to_owned(), reason };
    // The parser's own message could quote the secret.
    let answer: HelperAnswer = serde_json::from_slice(&answer)
        .map_err(|_| failed("its answer is not JSON with Username and Secret".to_owned()))?;
    Ok(match answer {
        HelperAnswer { username, secret } if username == TOKEN_USER => Some(Credentials::IdentityToken(secret)),
        HelperAnswer { username, .. } if username.is_empty() => None,
        HelperAnswer { username, secret } => Some(Credentials::Password { user: username, password: secret }),
    })
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// Runs a helper and returns what it printed; absent when it knows nothing of the registry.
pub(super) fn run_helper(
    path: &Path,
    name: &str,
    verb: &str,
    registry: &str,
    input: &str,
) -> Result<Option<Vec<u8>>, CredentialsError> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(CredentialsError::HelperName { path: path.to_path_buf(), name: name.to_owned() });
    }
    let program = program(name);
    let run = || {
        let mut command = Command::new(&program);
        let mut child =
            command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that answers without reading is no error.
            match stdin.write_all(input.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        child.wait_with_output()
    };
    let output = run().map_err(|source| CredentialsError::HelperRun {
        program: program.clone(),
        path: path.to_path_buf(),
        registry: registry.to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
    match said.contains(HELPER_NOT_FOUND) {
        true => Ok(None),
        false => {
            let reason = format!("{} ({})", said.trim(), output.status);
            Err(CredentialsError::Helper { program, registry: registry.to_owned(), reason })
        }
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 (RFC 4648, section 4) with padding.
pub fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            match position <= group.len() {
                true => text.push(char::from(BASE64[(word >> (18 - 6 * position)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

/// Base64 with or without padding; absent when a character is none of its.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .trim()
        .trim_end_matches('=')
        .bytes()
        .map(|byte| BASE64.iter().position(|known| *known == byte).and_then(|at| u32::try_from(at).ok()))
        .collect::<Option<_>>()?;
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        if group.len() == 1 {
            return None;
        }
        let word = group.iter().fold(0_u32, |word, digit| word << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).expect("writes");
        (folder, path)
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn base64_is_the_rfc_s() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(encode_base64(plain.as_bytes()), text);
            assert_eq!(decode_base64(text), Some(plain.as_bytes().to_vec()));
            assert_eq!(decode_base64(text.trim_end_matches('=')), Some(plain.as_bytes().to_vec()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_base64(&encode_base64(&all)), Some(all));
        assert_eq!((decode_base64("Zg=a"), decode_base64("Z"), decode_base64("ä")), (None, None, None));
    }

    #[test]
    fn finds_a_registry_under_docker_s_keys() {
        let (_folder, path) = config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="},
                "https://r.example/v2/":{"auth":"YTpiOmM="},"127.0.0.1:5000":{"username":"u","password":"p"},
                "token.example":{"auth":"YTpi","identitytoken":"t"},"empty.example":{}},"HttpHeaders":{}}"#,
        );
        let load = |registry| load(&path, registry).expect("readable");
        assert_eq!(load("docker.io"), password("hub", "secret"));
        assert_eq!(load("r.example"), password("a", "b:c"));
        assert_eq!(load("127.0.0.1:5000"), password("u", "p"));
        assert_eq!(load("token.example"), Some(Credentials::IdentityToken("t".to_owned())));
        assert_eq!((load("empty.example"), load("127.0.0.1:5001"), load("other")), (None, None, None));
    }

    #[test]
    fn broken_files_are_named_without_their_secret() {
        let (_folder, path) = config(r#"{"auths":{"a.example":{"auth":"c2VjcmV0"}}}"#);
        let error = load(&path, "a.example").expect_err("no colon").to_string();
        assert!(error.contains("auths[\"a.example\"].auth") && !error.contains("c2VjcmV0"), "{error}");
        let (_folder, path) = config("not json");
        assert!(load(&path, "a.example").expect_err("not JSON").to_string().contains("config.json"));
        assert!(matches!(load(Path::new("/nowhere/config.json"), "a.example"), Ok(None)));
        let shown = format!("{:?}", password("user", "secret"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn helpers_are_named_and_missing_ones_refused() {
        let (_folder, path) = config(r#"{"credHelpers":{"a.example":"hull-test-absent"},"credsStore":"../x"}"#);
        let error = load(&path, "a.example").expect_err("no such program").to_string();
        assert!(error.contains("docker-credential-hull-test-absent") && error.contains("a.example"), "{error}");
        assert!(matches!(load(&path, "b.example"), Err(CredentialsError::HelperName { .. })));
    }
}
