//! Container ids: 64 lower-case hexadecimal digits from the kernel's random source.
//!
//! A user may shorten one to any unambiguous prefix; that is a matter of [`crate::Engine::resolve`], a
//! [`ContainerId`] in hand is always a full one. Ids are also folder and cgroup names, so the check here is
//! what keeps a foreign string from becoming a path.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

const LENGTH: usize = 64;
const SHORT_LENGTH: usize = 12;

/// A full container id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// A new random id whose short form is not a plain number (so that it cannot be taken for one).
    ///
    /// # Errors
    /// getrandom(2)'s.
    pub fn generate() -> std::io::Result<ContainerId> {
        loop {
            let id = ContainerId(random_hex(LENGTH / 2)?);
            if id.short().bytes().any(|b| !b.is_ascii_digit()) {
                return Ok(id);
            }
        }
    }

    /// Takes `text` when it is a full id.
    pub fn parse(text: &str) -> Option<ContainerId> {
        let valid = text.len() == LENGTH && is_hex(text);
        valid.then(|| ContainerId(text.to_owned()))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as lists show them.
    pub fn short(&self) -> &str {
        &self.0[..SHORT_LENGTH]
    }
}

/// Fills a buffer with random bytes.
///
/// # Errors
/// getrandom(2)'s.
pub(crate) fn fill_random(buffer: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        filled += getrandom(&mut buffer[filled..], GetRandomFlags::empty())?;
    }
    Ok(())
}

/// `bytes` random bytes in lower-case hexadecimal.
///
/// # Errors
/// getrandom(2)'s.
pub(crate) fn random_hex(bytes: usize) -> std::io::Result<String> {
    let mut raw = vec![0_u8; bytes];
    fill_random(&mut raw)?;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether `text` could be an id or a prefix of one.
pub(crate) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = String;

    fn try_from(text: String) -> Result<ContainerId, String> {
        ContainerId::parse(&text).ok_or_else(|| format!("{text:?} is not a container id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_are_full_and_different() {
        let (a, b) = (ContainerId::generate().unwrap(), ContainerId::generate().unwrap());
        assert_ne!(a, b);
        assert_eq!(ContainerId::parse(a.as_str()), Some(a.clone()));
        assert_eq!(a.short().len(), 12);
    }

    #[test]
    fn only_full_lower_case_ids_are_taken() {
        assert_eq!(ContainerId::parse(&"a".repeat(63)), None);
        assert_eq!(ContainerId::parse(&"A".repeat(64)), None);
        assert_eq!(ContainerId::parse(&format!("{}/../", "a".repeat(59))), None);
        assert!(ContainerId::parse(&"0".repeat(64)).is_some());
    }
}
