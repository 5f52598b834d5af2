//! The key sequence that leaves a container without ending it (docker's `--detach-keys`).
//!
//! Keys are bytes as a raw terminal sends them. A beginning of the sequence is held back until it is clear whether it
//! goes on; when it does not, everything held is passed on, so that no key is lost or reordered.

use std::str::FromStr;

/// The keys, by default `ctrl-p,ctrl-q`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

/// A key that cannot be part of the sequence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown detach key {0:?}: give single characters, ctrl-<letter> or ctrl-@ [ \\ ] ^ _, or DEL, between commas")]
pub struct InvalidDetachKeys(String);

impl Default for DetachKeys {
    fn default() -> DetachKeys {
        DetachKeys(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = InvalidDetachKeys;

    /// An empty text means the default.
    fn from_str(text: &str) -> Result<DetachKeys, InvalidDetachKeys> {
        if text.is_empty() {
            return Ok(DetachKeys::default());
        }
        let keys = text.split(',').map(|key| byte(key).ok_or_else(|| InvalidDetachKeys(key.to_owned())));
        keys.collect::<Result<_, _>>().map(DetachKeys)
    }
}

fn byte(key: &str) -> Option<u8> {
    match key.as_bytes() {
        [single] => Some(*single),
        b"DEL" => Some(0x7F),
        [b'c' | b'C', b't' | b'T', b'r' | b'R', b'l' | b'L', b'-', letter] => match letter.to_ascii_uppercase() {
            letter @ b'@'..=b'_' => Some(letter & 0x1F),
            _ => None,
        },
        _ => None,
    }
}

/// Watches typed bytes for the sequence.
#[derive(Debug)]
pub(super) struct DetachWatch {
    keys: Vec<u8>,
    held: Vec<u8>,
}

impl DetachWatch {
    pub(super) fn new(keys: &DetachKeys) -> DetachWatch {
        DetachWatch { keys: keys.0.clone(), held: Vec::new() }
    }

    /// Returns the bytes to pass on now, and whether the sequence is complete.
    pub(super) fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            self.held.push(*byte);
            while !self.keys.starts_with(&self.held) {
                passed.push(self.held.remove(0));
            }
            if self.held.len() == self.keys.len() {
                self.held.clear();
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_are_dockers() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        assert_eq!("".parse(), Ok(DetachKeys::default()));
        assert_eq!("a,ctrl-@,ctrl-_,ctrl-[,DEL,Z".parse(), Ok(DetachKeys(vec![b'a', 0, 0x1F, 0x1B, 0x7F, b'Z'])));
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "alt-x", "é"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_nothing_else_is_swallowed() {
        let keys: DetachKeys = "ctrl-p,ctrl-p,x".parse().unwrap();
        let mut watch = DetachWatch::new(&keys);
        assert_eq!(watch.feed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(watch.feed(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(watch.feed(b"\x10\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(watch.feed(b"xrest"), (vec![], true));
    }
}
