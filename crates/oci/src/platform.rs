//! Platforms: `os[/architecture[/variant]]` in Go's words, as image indexes and `--platform` name them.
//!
//! Names are normalised when they are read (`x86_64` is `amd64`, `aarch64` is `arm64`, `armhf` is `arm/v7`), and the
//! variants that mean "the ordinary one" (`arm64/v8`, `amd64/v1`) are dropped, so that equal platforms compare equal.
//! Operating system versions and features (Windows) are not represented.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and processor that an image is made for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Go's GOOS, such as `linux`.
    pub os: String,
    /// Go's GOARCH, such as `amd64`.
    pub architecture: String,
    /// Variant such as `v7`; absent for the ordinary one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// Empty, more than three parts, or an empty part.
    #[error("invalid platform \"{text}\": expected os[/architecture[/variant]]")]
    Form {
        /// The text as given.
        text: String,
    },
    /// A part has a character other than letters, digits, `_`, `-` and `.`.
    #[error("invalid platform \"{text}\": \"{part}\" has a character that is not allowed")]
    Character {
        /// The text as given.
        text: String,
        /// The part at fault.
        part: String,
    },
    /// A single word that is neither a known operating system nor a known architecture.
    #[error("invalid platform \"{text}\": \"{text}\" is neither an operating system nor an architecture")]
    Unknown {
        /// The text as given.
        text: String,
    },
}

const OPERATING_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
    "zos",
];

const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "wasm",
];

impl Platform {
    /// A normalised platform from its parts.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = os.to_ascii_lowercase();
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        let (architecture, variant) = normalise(architecture, variant.unwrap_or_default());
        let variant = (!variant.is_empty()).then_some(variant);
        Self { os, architecture, variant }
    }

    /// Reads `os/architecture/variant`, `os/architecture`, `os`, or `architecture` alone; what is left out is the
    /// machine's own.
    ///
    /// # Errors
    /// [`PlatformError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
            return Err(PlatformError::Form { text: text.to_owned() });
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if let Some(part) = parts.iter().find(|part| !part.bytes().all(allowed)) {
            return Err(PlatformError::Character { text: text.to_owned(), part: (*part).to_owned() });
        }
        match parts[..] {
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [single] => Self::parse_single(single),
            _ => Err(PlatformError::Form { text: text.to_owned() }),
        }
    }

    fn parse_single(word: &str) -> Result<Self, PlatformError> {
        let host = Self::host();
        let as_os = Self::new(word, &host.architecture, host.variant.as_deref());
        if OPERATING_SYSTEMS.contains(&as_os.os.as_str()) {
            return Ok(as_os);
        }
        let as_architecture = Self::new("linux", word, None);
        if ARCHITECTURES.contains(&as_architecture.architecture.as_str()) {
            return Ok(as_architecture);
        }
        Err(PlatformError::Unknown { text: word.to_owned() })
    }

    /// The platform this program was built for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// Whether an image for `offered` is exactly what this platform asks for.
    pub fn matches(&self, offered: &Platform) -> bool {
        self.normalised() == offered.normalised()
    }

    fn normalised(&self) -> Self {
        Self::new(&self.os, &self.architecture, self.variant.as_deref())
    }
}

/// Architecture and variant in one spelling; an empty variant is the ordinary one.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64le", variant) => ("ppc64le", variant),
        ("loongarch64", variant) => ("loong64", variant),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        Self::parse(text)
    }
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        let variant = platform.variant().as_deref();
        Self::new(&platform.os().to_string(), &platform.architecture().to_string(), variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_normalises() {
        let table = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("arm64", "linux/arm64"),
            ("riscv64", "linux/riscv64"),
            ("macos/arm64", "darwin/arm64"),
        ];
        for (text, expected) in table {
            assert_eq!(Platform::parse(text).expect(text).to_string(), expected, "{text}");
        }
        assert_eq!(Platform::parse("linux"), Ok(Platform::host()));
    }

    #[test]
    fn refuses_with_the_reason() {
        for (text, reason) in [
            ("", "expected os"),
            ("linux/", "expected os"),
            ("linux/arm/v7/x", "expected os"),
            ("linux/am d64", "not allowed"),
            ("pdp11", "neither an operating system nor an architecture"),
        ] {
            let error = Platform::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn matching_ignores_spelling() {
        let wanted = Platform::parse("linux/arm64").expect("valid");
        let offered = Platform { os: "linux".into(), architecture: "aarch64".into(), variant: Some("v8".into()) };
        assert!(wanted.matches(&offered));
        assert!(!wanted.matches(&Platform::parse("linux/amd64").expect("valid")));
        assert!(!wanted.matches(&Platform::parse("linux/arm/v7").expect("valid")));
    }
}
