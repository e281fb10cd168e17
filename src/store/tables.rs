//! The tables of the file. Ids are their 128 bits as a number, which sorts as time does.

use redb::{Key, TableDefinition};

use super::Error;

/// Small facts: the schema, the claimed rows, the wear of the card.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(crate) const APPS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("apps");
pub(crate) const DOMAINS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("domains");
pub(crate) const SCRIPTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("scripts");
/// Sources, by script and version. Written once.
pub(crate) const VERSIONS: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("versions");
pub(crate) const ROUTES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("routes");
pub(crate) const USERS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("users");
/// Logins; never in a backup.
pub(crate) const SESSIONS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("sessions");
pub(crate) const KEYS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("keys");
/// Accepted work that has not ended, by execution id.
pub(crate) const OUTBOX: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("outbox");
/// Blocks of execution records by number: see the log.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// What each block of the log holds, so that a search reads few of them.
pub(crate) const LOG_INDEX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log_index");
pub(crate) const DEAD_LETTERS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("dead_letters");
pub(crate) const TRIGGERS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("triggers");
/// When each schedule last struck, by trigger: see the ticks.
pub(crate) const TICKS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("ticks");
/// Values of scripts, by app and key: see the KV.
pub(crate) const KV: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");
/// When values expire, by instant, app and key.
pub(crate) const KV_EXPIRY: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv_expiry");
/// How much each app keeps in its KV, and its latest commit number.
pub(crate) const KV_USAGE: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("kv_usage");
/// Secrets, sealed, by app and name.
pub(crate) const SECRETS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("secrets");

/// In [`META`]: the schema, four bytes, little endian.
pub(crate) const META_SCHEMA: &str = "schema";
/// In [`META`]: how many bytes the dead letters have, eight bytes, little endian.
pub(crate) const META_DEAD_BYTES: &str = "dead_letters_bytes";
/// In [`META`]: how many bytes all script versions have, eight bytes, little endian.
pub(crate) const META_VERSIONS_BYTES: &str = "versions_bytes";
/// In [`META`]: the execution ids of async rows whose attempt may have begun, sixteen bytes each, big endian.
pub(crate) const META_CLAIMED: &str = "claimed";
/// In the [`META`] of a backup that opens elsewhere, and never in a store: the key that its secrets were sealed with.
pub(crate) const META_DEVICE_KEY: &str = "device_key";
/// In [`META`]: the totals of the card's wear.
pub(crate) const META_WEAR: &str = "wear";

/// Something that is done with every table of the file.
pub(crate) trait TableVisitor {
    /// Visits one table.
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error>;
}

/// Shows each table to `visitor`, always in the same order. A table that is not named here does not exist: it is
/// neither made nor backed up.
pub(crate) fn each_table(visitor: &mut impl TableVisitor) -> Result<(), Error> {
    visitor.table(META)?;
    visitor.table(APPS)?;
    visitor.table(DOMAINS)?;
    visitor.table(SCRIPTS)?;
    visitor.table(VERSIONS)?;
    visitor.table(ROUTES)?;
    visitor.table(KEYS)?;
    visitor.table(OUTBOX)?;
    visitor.table(LOG)?;
    visitor.table(LOG_INDEX)?;
    visitor.table(DEAD_LETTERS)?;
    visitor.table(TRIGGERS)?;
    visitor.table(TICKS)?;
    visitor.table(KV)?;
    visitor.table(KV_EXPIRY)?;
    visitor.table(KV_USAGE)?;
    visitor.table(SECRETS)?;
    visitor.table(USERS)?;
    visitor.table(SESSIONS)
}

/// A key as bytes outside of the file, in a form that is ours and not that of the database.
pub(crate) trait TableKey: Key + 'static {
    /// Its bytes.
    fn write(key: &Self::SelfType<'_>) -> Vec<u8>;
    /// The key of these bytes, if they are one's.
    fn read(bytes: &[u8]) -> Option<Self::SelfType<'_>>;
}

impl TableKey for &'static str {
    fn write(key: &&str) -> Vec<u8> {
        key.as_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<&str> {
        std::str::from_utf8(bytes).ok()
    }
}

impl TableKey for &'static [u8] {
    fn write(key: &&[u8]) -> Vec<u8> {
        key.to_vec()
    }

    fn read(bytes: &[u8]) -> Option<&[u8]> {
        Some(bytes)
    }
}

impl TableKey for u64 {
    fn write(key: &u64) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<u64> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

impl TableKey for u128 {
    fn write(key: &u128) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<u128> {
        bytes.try_into().ok().map(u128::from_be_bytes)
    }
}

impl TableKey for (u128, u32) {
    fn write((id, number): &(u128, u32)) -> Vec<u8> {
        [id.to_be_bytes().as_slice(), &number.to_be_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<(u128, u32)> {
        let (id, number) = bytes.split_first_chunk::<16>()?;
        Some((u128::from_be_bytes(*id), u32::from_be_bytes(number.try_into().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use redb::backends::InMemoryBackend;
    use redb::{Database, TableHandle};

    use super::*;

    struct Names(BTreeSet<String>);

    impl TableVisitor for Names {
        fn table<K: TableKey>(
            &mut self,
            definition: TableDefinition<'static, K, &'static [u8]>,
        ) -> Result<(), Error> {
            assert!(self.0.insert(definition.name().to_owned()), "{} is visited twice", definition.name());
            Ok(())
        }
    }

    /// What this source defines, so that a new table that nobody visits is seen.
    #[test]
    fn every_table_that_is_defined_is_visited() {
        let source = include_str!("tables.rs");
        let defined = source.split("TableDefinition::new(\"").skip(1);
        let defined: BTreeSet<String> =
            defined.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect();
        let mut visited = Names(BTreeSet::new());
        each_table(&mut visited).unwrap();
        assert_eq!(visited.0, defined);
    }

    #[test]
    fn an_opened_file_has_the_visited_tables_and_no_others() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = db.begin_write().unwrap();
        super::super::open::make_tables(&txn).unwrap();
        let made: BTreeSet<String> =
            txn.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
        let mut visited = Names(BTreeSet::new());
        each_table(&mut visited).unwrap();
        assert_eq!(made, visited.0);
    }

    #[track_caller]
    fn check<K: TableKey>(key: K::SelfType<'_>, length: usize) {
        let bytes = K::write(&key);
        assert_eq!(bytes.len(), length);
        assert_eq!(K::read(&bytes).map(|read| K::write(&read)), Some(bytes.clone()));
        assert!(K::read(&[&bytes[..], &[0xFF]].concat()).is_none());
    }

    #[test]
    fn keys_come_back_and_others_are_refused() {
        check::<&str>("schema", 6);
        check::<u64>(7, 8);
        check::<u128>(7, 16);
        check::<(u128, u32)>((7, 8), 20);
        assert!(<(u128, u32)>::read(&[0; 16]).is_none() && u64::read(&[]).is_none());
    }
}
