//! Facts that commands remember for the ones after them: one text for each key.
//!
//! They are hints about what has been done already; losing the newest ones in a power cut costs doing it again.

use rusqlite::{Connection, OptionalExtension, Transaction};

/// The boot (`/proc/sys/kernel/random/boot_id`) for which the store has been looked through.
pub const LOOKED_THROUGH_BOOT: &str = "looked-through-boot";

/// What the shortcut of networks has to know of the kernel: the boot, and then what was found (hull_network::shortcut).
pub const SHORTCUT_REQUIREMENTS: &str = "shortcut-requirements";

/// What is remembered under a key.
///
/// # Errors
/// The database's.
pub fn fact(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT value FROM facts WHERE key = ?1")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

/// Beginning of the keys under which settings of the kernel are remembered that were changed, with their previous value.
pub const CHANGED_SETTING: &str = "changed-setting ";

/// What is remembered under keys with a beginning: the rest of each key and the text, by key.
///
/// # Errors
/// The database's.
pub fn facts_with(connection: &Connection, beginning: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection
        .prepare_cached("SELECT substr(key, length(?1) + 1), value FROM facts WHERE instr(key, ?1) = 1 ORDER BY key")?;
    statement.query_map([beginning], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Remembers a text.
///
/// # Errors
/// The database's.
pub fn remember(transaction: &Transaction<'_>, key: &str, value: &str) -> rusqlite::Result<()> {
    transaction.prepare_cached("INSERT OR REPLACE INTO facts VALUES (?1, ?2)")?.execute([key, value])?;
    Ok(())
}
