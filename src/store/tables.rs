//! The tables of the file. Ids are their 128 bits as a number, which sorts as time does.

use redb::TableDefinition;

/// Small facts: the schema, the claimed rows.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(crate) const APPS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("apps");
pub(crate) const DOMAINS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("domains");
pub(crate) const SCRIPTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("scripts");
/// Sources, by script and version. Written once.
pub(crate) const VERSIONS: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("versions");
pub(crate) const ROUTES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("routes");
pub(crate) const KEYS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("keys");
/// Accepted work that has not ended, by execution id.
pub(crate) const OUTBOX: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("outbox");
/// Blocks of execution records by number: see the log.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// What each block of the log holds, so that a search reads few of them.
pub(crate) const LOG_INDEX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log_index");
pub(crate) const DEAD_LETTERS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("dead_letters");

/// In [`META`]: the schema, four bytes, little endian.
pub(crate) const META_SCHEMA: &str = "schema";
/// In [`META`]: how many bytes the dead letters have, eight bytes, little endian.
pub(crate) const META_DEAD_BYTES: &str = "dead_letters_bytes";
/// In [`META`]: how many bytes all script versions have, eight bytes, little endian.
pub(crate) const META_VERSIONS_BYTES: &str = "versions_bytes";
/// In [`META`]: the execution ids of async rows whose attempt may have begun, sixteen bytes each, big endian.
pub(crate) const META_CLAIMED: &str = "claimed";
