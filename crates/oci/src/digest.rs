//! Content digests: `algorithm:hex`, as the image specification's descriptor chapter defines them.
//!
//! Invariant: a [`Digest`] always names an algorithm that can be computed (sha256, sha384, sha512) and carries exactly
//! that algorithm's number of lower-case hexadecimal digits, so its parts may be used as path components. Digests are
//! compared as text; nothing here reads content except [`Digest::sha256_of`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A verified-in-shape content digest such as `sha256:44136fa3...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `:` between algorithm and digits.
    #[error("invalid digest \"{text}\": expected algorithm:hex")]
    Form {
        /// The text as given.
        text: String,
    },
    /// The algorithm is none of sha256, sha384, sha512.
    #[error("invalid digest \"{text}\": unsupported algorithm \"{algorithm}\"")]
    Algorithm {
        /// The text as given.
        text: String,
        /// The part before the colon.
        algorithm: String,
    },
    /// The number of digits does not fit the algorithm.
    #[error("invalid digest \"{text}\": {algorithm} has {expected} digits, found {found}")]
    Length {
        /// The text as given.
        text: String,
        /// The part before the colon.
        algorithm: String,
        /// How many digits the algorithm has.
        expected: usize,
        /// How many there were.
        found: usize,
    },
    /// A character is not a lower-case hexadecimal digit.
    #[error("invalid digest \"{text}\": digits must be lower-case hexadecimal")]
    Digits {
        /// The text as given.
        text: String,
    },
}

impl Digest {
    /// Reads `algorithm:hex`.
    ///
    /// # Errors
    /// [`DigestError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let owned = || text.to_owned();
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::Form { text: owned() });
        };
        let expected = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return Err(DigestError::Algorithm { text: owned(), algorithm: algorithm.to_owned() }),
        };
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Digits { text: owned() });
        }
        if hex.len() != expected {
            let found = hex.len();
            return Err(DigestError::Length { text: owned(), algorithm: algorithm.to_owned(), expected, found });
        }
        Ok(Self(owned()))
    }

    /// The sha256 digest of some bytes.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(bytes).into())
    }

    /// The digest whose 32 raw bytes have been computed elsewhere (streamed, for example).
    pub fn from_sha256(raw: [u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in raw {
            // Writing into a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `sha256`, `sha384` or `sha512`.
    pub fn algorithm(&self) -> &str {
        &self.0[..6]
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }

    /// The first twelve digits, docker's short form of an id.
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&oci_spec::image::Digest> for Digest {
    type Error = DigestError;
    fn try_from(digest: &oci_spec::image::Digest) -> Result<Self, DigestError> {
        Self::parse(digest.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_OBJECT: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn computes_and_takes_apart() {
        let digest = Digest::sha256_of(b"{}");
        assert_eq!(digest.as_str(), EMPTY_OBJECT);
        assert_eq!(digest.algorithm(), "sha256");
        assert_eq!(digest.hex(), &EMPTY_OBJECT[7..]);
        assert_eq!(digest.short(), "44136fa355b3");
        assert_eq!(Digest::parse(EMPTY_OBJECT), Ok(digest));
    }

    #[test]
    fn accepts_the_longer_algorithms() {
        for (algorithm, digits) in [("sha384", 96), ("sha512", 128)] {
            let digest = Digest::parse(&format!("{algorithm}:{}", "0a".repeat(digits / 2))).expect("valid");
            assert_eq!(digest.algorithm(), algorithm);
            assert_eq!(digest.hex().len(), digits);
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        let hex = &EMPTY_OBJECT[7..];
        let table = [
            (hex.to_owned(), "expected algorithm:hex"),
            (format!("md5:{hex}"), "unsupported algorithm \"md5\""),
            (format!("SHA256:{hex}"), "unsupported algorithm \"SHA256\""),
            (format!("sha256:{}", &hex[1..]), "sha256 has 64 digits, found 63"),
            (format!("sha512:{hex}"), "sha512 has 128 digits, found 64"),
            (format!("sha256:{}", hex.to_uppercase()), "lower-case hexadecimal"),
            ("sha256:../../etc/passwd".to_owned(), "lower-case hexadecimal"),
            ("sha256:".to_owned(), "found 0"),
            (String::new(), "expected algorithm:hex"),
        ];
        for (text, reason) in table {
            let error = Digest::parse(&text).expect_err(&text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn is_a_plain_string_in_json() {
        let digest: Digest = serde_json::from_str(&format!("\"{EMPTY_OBJECT}\"")).expect("valid");
        assert_eq!(serde_json::to_string(&digest).expect("serialises"), format!("\"{EMPTY_OBJECT}\""));
        assert!(serde_json::from_str::<Digest>("\"sha256:zz\"").is_err());
    }
}
