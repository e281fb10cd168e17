//! What keeps the file bounded for ever, besides the log's own bounds: dead letters and old sources.
//!
//! Bytes come first, age second. Whatever goes is the oldest. The active version of a script stays whatever its age;
//! an older one may go although a dead letter was made with it, which then can be run with the active one only.

use std::collections::BTreeMap;

use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};
use uuid::Uuid;

use super::ages;
use super::catalog::Catalog;
use super::codec;
use super::tables::{DEAD_LETTERS, META, META_DEAD_BYTES, META_VERSIONS_BYTES, VERSIONS};
use super::{Error, Settings};
use crate::model::{DeadLetter, UnixMs, Version};

/// Between two looks for what has become too old.
const LOOK_EVERY_MS: i64 = 10 * 60 * 1000;
/// Between two looks at all sources, which reads all of them.
const VERSIONS_EVERY_MS: i64 = 24 * 3_600_000;

/// Whether a look is due that was last made at `last`.
fn is_due(last: Option<UnixMs>, now: UnixMs, every_ms: i64) -> bool {
    last.is_none_or(|last| !(0..every_ms).contains(&now.0.saturating_sub(last.0)))
}

fn millis(age: std::time::Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

/// A number of [`META`]; 0 if it was never written.
fn read_weight(txn: &WriteTransaction, key: &str, what: &'static str) -> Result<u64, Error> {
    match txn.open_table(META)?.get(key)? {
        None => Ok(0),
        Some(bytes) => <[u8; 8]>::try_from(bytes.value())
            .map(u64::from_le_bytes)
            .map_err(|_| Error::Damaged { what, why: "it is not eight bytes".into() }),
    }
}

/// The bounds of the dead letters, and how many there are.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Letters that went for want of room or for their age, since the start.
    pub(crate) dropped: u64,
    rows_max: u64,
    bytes_max: u64,
    age_max_ms: i64,
    alert_at: u64,
    alerting: bool,
    looked_at: Option<UnixMs>,
}

impl DeadLetters {
    /// Of an opened file.
    pub(crate) fn open(txn: &WriteTransaction, settings: &Settings) -> Result<DeadLetters, Error> {
        Ok(DeadLetters {
            rows: txn.open_table(DEAD_LETTERS)?.len()?,
            bytes: read_weight(txn, META_DEAD_BYTES, "weight of the dead letters")?,
            dropped: 0,
            rows_max: settings.dead_letters_max,
            bytes_max: settings.dead_letters_bytes_max,
            age_max_ms: millis(settings.dead_letters_age_max),
            alert_at: settings.dead_letters_alert_at,
            alerting: false,
            looked_at: None,
        })
    }

    /// Whether a look for letters that are too old is due.
    pub(crate) fn wants_look(&self, now: UnixMs) -> bool {
        self.rows > 0 && is_due(self.looked_at, now, LOOK_EVERY_MS)
    }

    /// Writes new letters, and drops the oldest that are over the bounds. `freed` bytes went by other hands.
    /// Gives the bytes of the new ones.
    pub(crate) fn write(
        &mut self,
        txn: &WriteTransaction,
        dead: Vec<DeadLetter>,
        freed: u64,
        now: UnixMs,
    ) -> Result<u64, Error> {
        let mut letters = txn.open_table(DEAD_LETTERS)?;
        self.looked_at = Some(now);
        self.bytes = self.bytes.saturating_sub(freed);
        let mut added = 0;
        for letter in dead {
            let bytes = codec::encode(&letter);
            added += weight(&bytes);
            letters.insert(letter.id.as_u128(), bytes.as_slice())?;
        }
        self.bytes += added;
        loop {
            let too_old = ages::is_over(oldest_stamp(&letters)?, self.age_max_ms, now);
            if letters.len()? <= self.rows_max && self.bytes <= self.bytes_max && !too_old {
                break;
            }
            let Some((_, bytes)) = letters.pop_first()? else { break };
            self.bytes = self.bytes.saturating_sub(weight(bytes.value()));
            self.dropped += 1;
        }
        self.rows = letters.len()?;
        txn.open_table(META)?.insert(META_DEAD_BYTES, self.bytes.to_le_bytes().as_slice())?;
        Ok(added)
    }

    /// Whether there are so many that somebody should look. Says so once, in the log.
    pub(crate) fn alert(&mut self) -> bool {
        let alert = self.alert_at > 0 && self.rows >= self.alert_at;
        if alert && !self.alerting {
            let dead_letters = self.rows;
            tracing::warn!(
                dead_letters,
                "work keeps ending without success; see `picloud dead-letters`, then run it again or purge it"
            );
        }
        self.alerting = alert;
        alert
    }
}

/// The age of the oldest letter: one that a clock stamped which was never set is as old as the next that has a stamp.
fn oldest_stamp(letters: &impl ReadableTable<u128, &'static [u8]>) -> Result<UnixMs, Error> {
    for entry in letters.iter()? {
        let at = stamp(Uuid::from_u128(entry?.0.value()));
        if ages::is_set(at) {
            return Ok(at);
        }
    }
    Ok(UnixMs(0))
}

/// When an id was made, as it says itself.
pub(crate) fn stamp(id: Uuid) -> UnixMs {
    let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |at| at.to_unix());
    let millis = seconds.saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000));
    UnixMs(i64::try_from(millis).unwrap_or(i64::MAX))
}

/// The bounds of all sources together. How many one script has is bounded where it gets a new one.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) bytes: u64,
    bytes_max: u64,
    age_max_ms: i64,
    looked_at: Option<UnixMs>,
}

impl Sources {
    /// Of an opened file.
    pub(crate) fn open(txn: &WriteTransaction, settings: &Settings) -> Result<Sources, Error> {
        Ok(Sources {
            bytes: read_weight(txn, META_VERSIONS_BYTES, "weight of the sources")?,
            bytes_max: settings.versions_bytes_max,
            age_max_ms: millis(settings.versions_age_max),
            looked_at: None,
        })
    }

    /// Whether a look for sources that are too old is due.
    pub(crate) fn wants_look(&self, now: UnixMs) -> bool {
        is_due(self.looked_at, now, VERSIONS_EVERY_MS)
    }

    /// Counts what changes of this transaction wrote and removed, and drops old sources that are over the bounds.
    pub(crate) fn write(
        &mut self,
        txn: &WriteTransaction,
        catalog: &Catalog,
        (added, freed): (u64, u64),
        now: UnixMs,
    ) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(added).saturating_sub(freed);
        if self.bytes > self.bytes_max || self.wants_look(now) {
            self.looked_at = Some(now);
            self.drop_old(txn, catalog, now)?;
        }
        txn.open_table(META)?.insert(META_VERSIONS_BYTES, self.bytes.to_le_bytes().as_slice())?;
        Ok(())
    }

    fn drop_old(&mut self, txn: &WriteTransaction, catalog: &Catalog, now: UnixMs) -> Result<(), Error> {
        let mut table = txn.open_table(VERSIONS)?;
        let mut idle = BTreeMap::new();
        for entry in table.iter()? {
            let (key, bytes) = entry?;
            let (script, number) = key.value();
            let owner = catalog.scripts.get(&Uuid::from_u128(script));
            if owner.is_none_or(|script| script.active_version != number) {
                let version: Version = codec::decode(bytes.value())?;
                idle.insert((version.created_at, script, number), weight(bytes.value()));
            }
        }
        // A tenth more goes than must, so that the next change need not look again.
        let goal = if self.bytes > self.bytes_max { self.bytes_max / 10 * 9 } else { self.bytes_max };
        for ((created_at, script, number), bytes) in idle {
            if self.bytes > goal || ages::is_over(created_at, self.age_max_ms, now) {
                table.remove((script, number))?;
                self.bytes = self.bytes.saturating_sub(bytes);
            }
        }
        Ok(())
    }
}

fn weight(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::super::{Ids, open};
    use super::*;
    use crate::model::{Sandbox, Script};

    const DAY_MS: i64 = 24 * 3_600_000;
    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn days_ago(days: i64) -> UnixMs {
        UnixMs(NOW.0 - days * DAY_MS)
    }

    fn file() -> WriteTransaction {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = db.begin_write().unwrap();
        open::make_tables(&txn).unwrap();
        txn
    }

    fn letter(died: UnixMs) -> DeadLetter {
        let row = crate::model::testing::row();
        let id = Ids::after(Uuid::nil()).at(died);
        DeadLetter { id, row, script_version: 1, reason: "attempts".into(), died_at: died }
    }

    #[track_caller]
    fn check_letters(ages_days: &[i64], (rows_max, bytes_max): (u64, u64), left_days: &[i64]) {
        let txn = file();
        let mut letters = DeadLetters {
            rows: 0,
            bytes: 0,
            dropped: 0,
            rows_max,
            bytes_max,
            age_max_ms: 90 * DAY_MS,
            alert_at: 2,
            alerting: false,
            looked_at: None,
        };
        let dead = ages_days.iter().map(|days| letter(days_ago(*days))).collect();
        letters.write(&txn, dead, 0, NOW).unwrap();
        let table = txn.open_table(DEAD_LETTERS).unwrap();
        let left = table.iter().unwrap().map(|entry| {
            let letter: DeadLetter = codec::decode(entry.unwrap().1.value()).unwrap();
            (NOW.0 - letter.died_at.0) / DAY_MS
        });
        let left: Vec<i64> = left.collect();
        assert_eq!(left, left_days);
        let weight: usize = table.iter().unwrap().map(|entry| entry.unwrap().1.value().len()).sum();
        assert_eq!(letters.bytes, u64::try_from(weight).unwrap());
        assert_eq!(letters.rows, u64::try_from(left.len()).unwrap());
        assert_eq!(letters.dropped, u64::try_from(ages_days.len() - left.len()).unwrap());
        assert_eq!(letters.alert(), left.len() >= 2);
    }

    #[test]
    fn dead_letters_go_by_number_bytes_and_age() {
        let one = weight(&codec::encode(&letter(NOW)));
        check_letters(&[5, 3, 1], (9, u64::MAX), &[5, 3, 1]);
        check_letters(&[5, 3, 1], (2, u64::MAX), &[3, 1]);
        check_letters(&[5, 3, 1], (9, one + 8), &[1]);
        check_letters(&[91, 89, 1], (9, u64::MAX), &[89, 1]);
        check_letters(&[200, 100], (9, u64::MAX), &[]);
        // The first was stamped by a clock that was never set.
        let never_set = NOW.0 / DAY_MS;
        check_letters(&[never_set, 300, 1], (9, u64::MAX), &[1]);
        check_letters(&[never_set, 30, 1], (9, u64::MAX), &[never_set, 30, 1]);
    }

    fn script(active_version: u32) -> Catalog {
        let id = Uuid::from_u128(1);
        let script = Script {
            id,
            app_id: id,
            name: "s".parse().unwrap(),
            active_version,
            latest_version: 4,
            timeout_seconds: None,
            sandbox: Sandbox::default(),
            access: crate::model::Access::Public,
            created_at: NOW,
            updated_at: NOW,
        };
        let scripts = Arc::new(BTreeMap::from([(id, Arc::new(script))]));
        Catalog { scripts, ..Catalog::default() }
    }

    #[track_caller]
    fn check_sources(active: u32, bytes_max: u64, left: &[u32]) {
        let txn = file();
        let mut added = 0;
        for (number, days) in [(1, 500), (2, 300), (3, 2), (4, 1)] {
            let source = "x".repeat(1000).parse().unwrap();
            let version = Version { version: number, source, created_at: days_ago(days) };
            let bytes = codec::encode(&version);
            added += weight(&bytes);
            txn.open_table(VERSIONS).unwrap().insert((1, number), bytes.as_slice()).unwrap();
        }
        let age_max_ms = millis(Duration::from_secs(365 * 24 * 3600));
        let mut sources = Sources { bytes: 0, bytes_max, age_max_ms, looked_at: None };
        sources.write(&txn, &script(active), (added, 0), NOW).unwrap();
        let table = txn.open_table(VERSIONS).unwrap();
        let found: Vec<u32> = table.iter().unwrap().map(|entry| entry.unwrap().0.value().1).collect();
        assert_eq!(found, left);
        let weight: usize = table.iter().unwrap().map(|entry| entry.unwrap().1.value().len()).sum();
        assert_eq!(sources.bytes, u64::try_from(weight).unwrap());
    }

    #[test]
    fn old_sources_go_and_the_active_one_stays() {
        check_sources(4, u64::MAX, &[2, 3, 4]);
        check_sources(1, u64::MAX, &[1, 2, 3, 4]);
        check_sources(4, 3500, &[2, 3, 4]);
        check_sources(4, 3300, &[3, 4]);
        check_sources(4, 1, &[4]);
        check_sources(2, 1, &[2]);
    }
}
