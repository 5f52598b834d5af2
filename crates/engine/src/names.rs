//! Container names: the rule for a valid one, and a generator of friendly ones.
//!
//! Docker's rule is `[a-zA-Z0-9][a-zA-Z0-9_.-]+`. A generated name is `adjective_noun` from Hull's own lists
//! (things that belong to boats, harbours and weather); a number is appended when a pair is taken. Whether a
//! name is taken is the database's word, in the transaction that inserts the row.

use crate::id::random_hex;

const ADJECTIVES: [&str; 64] = [
    "able", "amber", "azure", "bold", "brave", "brisk", "bright", "broad", "calm", "clear", "coastal", "copper",
    "crisp", "daring", "deep", "distant", "eager", "eastern", "easy", "fair", "fleet", "fresh", "gentle", "glad",
    "golden", "grand", "hardy", "hidden", "honest", "humble", "iron", "keen", "kind", "lively", "lone", "loyal",
    "lucid", "mellow", "merry", "mighty", "misty", "modest", "nimble", "noble", "northern", "patient", "plain",
    "proud", "quick", "quiet", "ready", "rising", "salty", "serene", "silent", "silver", "sleek", "solid", "steady",
    "sunny", "swift", "tidal", "true", "warm",
];

const NOUNS: [&str; 96] = [
    "albatross",
    "anchor",
    "barge",
    "bay",
    "beacon",
    "bell",
    "berth",
    "bollard",
    "bosun",
    "bow",
    "breeze",
    "bridge",
    "brig",
    "buoy",
    "cable",
    "canal",
    "canoe",
    "captain",
    "cargo",
    "chart",
    "clipper",
    "coast",
    "compass",
    "coral",
    "cove",
    "crane",
    "crate",
    "crew",
    "current",
    "cutter",
    "deck",
    "delta",
    "dinghy",
    "dock",
    "dolphin",
    "eddy",
    "ensign",
    "estuary",
    "ferry",
    "fjord",
    "fleet",
    "galley",
    "gull",
    "halyard",
    "harbour",
    "hatch",
    "haven",
    "heron",
    "hold",
    "horizon",
    "inlet",
    "island",
    "jetty",
    "keel",
    "kelp",
    "ketch",
    "lagoon",
    "lantern",
    "ledger",
    "lighthouse",
    "lock",
    "log",
    "mast",
    "mooring",
    "oar",
    "otter",
    "pelican",
    "pier",
    "pilot",
    "port",
    "prow",
    "quay",
    "raft",
    "reef",
    "rigging",
    "rope",
    "rudder",
    "sail",
    "schooner",
    "sextant",
    "shoal",
    "shore",
    "skiff",
    "sloop",
    "spar",
    "starboard",
    "stern",
    "strait",
    "tern",
    "tide",
    "tiller",
    "trawler",
    "tug",
    "wake",
    "wharf",
    "yawl",
];

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
pub struct NameError(pub String);

/// Checks a name as typed and returns it without its leading slash.
///
/// # Errors
/// When it is shorter than two characters or has one that is not allowed.
pub fn check(name: &str) -> Result<&str, NameError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    if is_plain(bare) && bare.len() >= 2 { Ok(bare) } else { Err(NameError(name.to_owned())) }
}

/// Whether a name is made of letters, digits, `_`, `.` and `-`, and begins with one of the first two.
pub(crate) fn is_plain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()) && bytes.all(allowed)
}

/// A friendly name. `attempt` is 0 at first; from the fourth on a number makes a clash unlikely.
///
/// # Errors
/// getrandom(2)'s.
pub fn generate(attempt: u32) -> std::io::Result<String> {
    let random = u64::from_str_radix(&random_hex(7)?, 16).unwrap_or_default();
    let adjective = ADJECTIVES[(random % ADJECTIVES.len() as u64) as usize];
    let noun = NOUNS[((random >> 16) % NOUNS.len() as u64) as usize];
    if attempt < 3 {
        return Ok(format!("{adjective}_{noun}"));
    }
    Ok(format!("{adjective}_{noun}{}", (random >> 32) % 100_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rule() {
        for name in ["ab", "a1", "/web", "web-1.2_x", "0abc"] {
            assert_eq!(check(name).unwrap(), name.trim_start_matches('/'), "{name}");
        }
        for name in ["", "a", "/", "//ab", "-ab", ".ab", "a b", "a/b", "ä1", "ab\n"] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn generated_names_are_valid() {
        for attempt in 0..5 {
            let name = generate(attempt).unwrap();
            assert_eq!(check(&name).unwrap(), name);
            assert!(name.contains('_'));
        }
    }
}
