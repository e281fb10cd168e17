//! Reading: snapshots that no commit disturbs.

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use uuid::Uuid;

use super::codec;
use super::log::{self, BlockHead};
use super::tables::{DEAD_LETTERS, LOG, LOG_INDEX, OUTBOX, VERSIONS};
use super::Error;
use crate::model::{DeadLetter, Ended, ExecutionRecord, Row, UnixMs, Version};

/// Blocks of the log that one search opens at the most; it goes on at the next page.
const BLOCKS_PER_PAGE: usize = 200;

/// A part of a list, and where the next part begins.
#[derive(Debug)]
pub struct Page<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Pass it back for the next part; `None` at the end.
    pub next: Option<String>,
}

/// Which records a search wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecutionFilter {
    /// Of this app.
    pub app_id: Option<Uuid>,
    /// Of this script.
    pub script_id: Option<Uuid>,
    /// That ended so.
    pub status: Option<Ended>,
    /// Accepted at or after this instant.
    pub since: Option<UnixMs>,
}

impl ExecutionFilter {
    fn takes(&self, record: &ExecutionRecord) -> bool {
        self.app_id.is_none_or(|id| id == record.app_id)
            && self.script_id.is_none_or(|id| id == record.script_id)
            && self.status.is_none_or(|status| status == record.status)
            && self.since.is_none_or(|since| record.created_at >= since)
    }
}

/// The file as of one commit.
pub struct Snapshot {
    txn: ReadTransaction,
}

impl Snapshot {
    pub(crate) fn new(db: &Database) -> Result<Snapshot, Error> {
        Ok(Snapshot { txn: db.begin_read()? })
    }

    /// One version of a script.
    pub fn version(&self, script: Uuid, version: u32) -> Result<Option<Version>, Error> {
        let table = self.txn.open_table(VERSIONS)?;
        table.get((script.as_u128(), version))?.map(|bytes| codec::decode(bytes.value())).transpose()
    }

    /// All versions of a script, newest first.
    pub fn versions(&self, script: Uuid) -> Result<Vec<Version>, Error> {
        let table = self.txn.open_table(VERSIONS)?;
        let span = (script.as_u128(), 0)..=(script.as_u128(), u32::MAX);
        table.range(span)?.rev().map(|entry| codec::decode(entry?.1.value())).collect()
    }

    /// A row that has not ended.
    pub fn row(&self, execution: Uuid) -> Result<Option<Row>, Error> {
        let table = self.txn.open_table(OUTBOX)?;
        table.get(execution.as_u128())?.map(|bytes| codec::decode(bytes.value())).transpose()
    }

    /// Rows that have not ended and that `keep` picks, newest first, before the row `before`.
    pub fn rows(&self, before: Option<Uuid>, limit: usize, keep: impl Fn(&Row) -> bool) -> Result<Page<Row>, Error> {
        let table = self.txn.open_table(OUTBOX)?;
        let mut items: Vec<Row> = Vec::new();
        for entry in table.range(..before.map_or(u128::MAX, |id| id.as_u128()))?.rev() {
            let row: Row = codec::decode(entry?.1.value())?;
            if !keep(&row) {
                continue;
            }
            if items.len() == limit {
                let next = items.last().map(|row| row.execution_id.to_string());
                return Ok(Page { items, next });
            }
            items.push(row);
        }
        Ok(Page { items, next: None })
    }

    /// A dead letter.
    pub fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, Error> {
        let table = self.txn.open_table(DEAD_LETTERS)?;
        table.get(id.as_u128())?.map(|bytes| codec::decode(bytes.value())).transpose()
    }

    /// Dead letters that `keep` picks, newest first, before the letter `before`.
    pub fn dead_letters(
        &self,
        before: Option<Uuid>,
        limit: usize,
        keep: impl Fn(&DeadLetter) -> bool,
    ) -> Result<Page<DeadLetter>, Error> {
        let table = self.txn.open_table(DEAD_LETTERS)?;
        let mut items: Vec<DeadLetter> = Vec::new();
        for entry in table.range(..before.map_or(u128::MAX, |id| id.as_u128()))?.rev() {
            let letter: DeadLetter = codec::decode(entry?.1.value())?;
            if !keep(&letter) {
                continue;
            }
            if items.len() == limit {
                let next = items.last().map(|letter| letter.id.to_string());
                return Ok(Page { items, next });
            }
            items.push(letter);
        }
        Ok(Page { items, next: None })
    }

    /// How many dead letters there are.
    pub fn dead_letter_count(&self) -> Result<u64, Error> {
        Ok(self.txn.open_table(DEAD_LETTERS)?.len()?)
    }

    /// The record of a finished execution.
    pub fn execution(&self, id: Uuid) -> Result<Option<ExecutionRecord>, Error> {
        let wanted = id.as_u128();
        for entry in self.txn.open_table(LOG_INDEX)?.iter()?.rev() {
            let (number, head) = entry?;
            let head: BlockHead = codec::decode(head.value())?;
            if !(head.id_min..=head.id_max).contains(&wanted) {
                continue;
            }
            let raw = self.block(number.value(), &head)?;
            if let Some((_, record)) = log::entries(&raw)?.into_iter().rev().find(|(id, _)| *id == wanted) {
                return codec::decode(record).map(Some);
            }
        }
        Ok(None)
    }

    /// Records of finished executions, the last to end first. `cursor` is what an earlier page gave; an
    /// unreadable one begins anew.
    pub fn executions(
        &self,
        filter: &ExecutionFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<ExecutionRecord>, Error> {
        let from = cursor.and_then(parse_cursor);
        let upto = from.map_or(u64::MAX, |(block, _)| block);
        let mut items = Vec::new();
        let mut opened = 0;
        for entry in self.txn.open_table(LOG_INDEX)?.range(..=upto)?.rev() {
            let (number, head) = entry?;
            let (number, head) = (number.value(), codec::decode::<BlockHead>(head.value())?);
            if filter.since.is_some_and(|since| head.finished_max < since) {
                // Records are accepted before they end, so this whole block is too old.
                continue;
            }
            if opened == BLOCKS_PER_PAGE {
                return Ok(Page { items, next: Some(format!("{number}.{}", u32::MAX)) });
            }
            opened += 1;
            let raw = self.block(number, &head)?;
            let entries = log::entries(&raw)?;
            for (position, (_, record)) in entries.iter().enumerate().rev() {
                if from.is_some_and(|(block, before)| block == number && position >= before) {
                    continue;
                }
                if items.len() == limit {
                    return Ok(Page { items, next: Some(format!("{number}.{}", position + 1)) });
                }
                let record: ExecutionRecord = codec::decode(record)?;
                if filter.takes(&record) {
                    items.push(record);
                }
            }
        }
        Ok(Page { items, next: None })
    }

    fn block(&self, number: u64, head: &BlockHead) -> Result<Vec<u8>, Error> {
        let table = self.txn.open_table(LOG)?;
        let packed = table.get(number)?;
        let packed = packed
            .ok_or_else(|| Error::Damaged { what: "log block", why: format!("block {number} is missing") })?;
        log::unpack(head, packed.value())
    }
}

fn parse_cursor(text: &str) -> Option<(u64, usize)> {
    let (block, position) = text.split_once('.')?;
    Some((block.parse().ok()?, position.parse().ok()?))
}
