//! Reading: snapshots that no commit disturbs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use uuid::Uuid;

use super::Error;
use super::codec;
use super::log::{self, BlockHead};
use super::tables::{DEAD_LETTERS, LOG, LOG_INDEX, OUTBOX, TICKS, VERSIONS};
use crate::model::{DeadLetter, Ended, ExecutionRecord, Invalid, Row, Tick, UnixMs, Version};

/// Blocks of the log that one search opens at the most; it goes on at the next page.
const BLOCKS_PER_SCAN: usize = 200;
/// Bytes after which a page is full, however few items it has.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where a record stands in the log; later records are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    block: u64,
    index: usize,
}

impl Position {
    /// The place after this one: a scan before it begins with the record here.
    pub fn next(self) -> Position {
        Position { index: self.index.saturating_add(1), ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.block, self.index)
    }
}

impl FromStr for Position {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Position, Invalid> {
        let unreadable = || Invalid("must be the next_cursor of an earlier page".into());
        let (block, index) = text.split_once('.').ok_or_else(unreadable)?;
        let block = block.parse().map_err(|_| unreadable())?;
        Ok(Position { block, index: index.parse().map_err(|_| unreadable())? })
    }
}

/// Why a scan of the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It saw everything.
    AtEnd,
    /// It was told to.
    ByVisitor,
    /// It had opened many blocks; go on from here.
    Tired(Position),
}

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
    fn takes(&self, record: &ExecutionRecord<'_>) -> bool {
        self.app_id.is_none_or(|id| id == record.app_id)
            && self.script_id.is_none_or(|id| id == record.script_id)
            && self.status.is_none_or(|status| status == record.status)
            && self.since.is_none_or(|since| record.created_at >= since)
    }
}

/// The file as of one commit.
pub struct Snapshot {
    txn: ReadTransaction,
    /// A file that was compacted away is closed when nobody reads it any more.
    _db: Arc<Database>,
}

impl Snapshot {
    pub(crate) fn new(db: Arc<Database>) -> Result<Snapshot, Error> {
        Ok(Snapshot { txn: db.begin_read()?, _db: db })
    }

    /// All tables.
    pub(crate) fn tables(&self) -> &ReadTransaction {
        &self.txn
    }

    /// How far a schedule has come; `None` of a trigger that has none.
    pub fn tick(&self, trigger: Uuid) -> Result<Option<Tick>, Error> {
        let table = self.txn.open_table(TICKS)?;
        table.get(trigger.as_u128())?.map(|bytes| codec::decode(bytes.value())).transpose()
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
    pub fn rows(
        &self,
        before: Option<Uuid>,
        limit: usize,
        keep: impl Fn(&Row) -> bool,
    ) -> Result<Page<Row>, Error> {
        let table = self.txn.open_table(OUTBOX)?;
        let mut items: Vec<Row> = Vec::new();
        let mut held = 0;
        for entry in table.range(..before.map_or(u128::MAX, |id| id.as_u128()))?.rev() {
            let (_, bytes) = entry?;
            let row: Row = codec::decode(bytes.value())?;
            if !keep(&row) {
                continue;
            }
            if items.len() == limit || held > PAGE_BYTES_MAX {
                let next = items.last().map(|row| row.execution_id.to_string());
                return Ok(Page { items, next });
            }
            held += bytes.value().len();
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
        let mut held = 0;
        for entry in table.range(..before.map_or(u128::MAX, |id| id.as_u128()))?.rev() {
            let (_, bytes) = entry?;
            let letter: DeadLetter = codec::decode(bytes.value())?;
            if !keep(&letter) {
                continue;
            }
            if items.len() == limit || held > PAGE_BYTES_MAX {
                let next = items.last().map(|letter| letter.id.to_string());
                return Ok(Page { items, next });
            }
            held += bytes.value().len();
            items.push(letter);
        }
        Ok(Page { items, next: None })
    }

    /// How many dead letters there are.
    pub fn dead_letter_count(&self) -> Result<u64, Error> {
        Ok(self.txn.open_table(DEAD_LETTERS)?.len()?)
    }

    /// The record of a finished execution.
    pub fn execution(&self, id: Uuid) -> Result<Option<ExecutionRecord<'static>>, Error> {
        let wanted = id.as_u128();
        for entry in self.txn.open_table(LOG_INDEX)?.iter()?.rev() {
            let (number, head) = entry?;
            let head: BlockHead = codec::decode(head.value())?;
            if !(head.id_min..=head.id_max).contains(&wanted) {
                continue;
            }
            let Some(raw) = self.sound_block(number.value(), &head)? else { continue };
            if let Some((_, record)) = log::entries(&raw)?.into_iter().rev().find(|(id, _)| *id == wanted) {
                return codec::decode(record).map(Some);
            }
        }
        Ok(None)
    }

    /// Records of finished executions, the last to end first, before `cursor`.
    pub fn executions(
        &self,
        filter: &ExecutionFilter,
        cursor: Option<Position>,
        limit: usize,
    ) -> Result<Page<ExecutionRecord<'static>>, Error> {
        let mut page = Page { items: Vec::new(), next: None };
        let (mut last, mut held) = (None, 0);
        let stopped = self.scan(filter, cursor, |at, record| {
            if page.items.len() == limit || held > PAGE_BYTES_MAX {
                return false;
            }
            held += record.request_body.len() + record.response_body.as_ref().map_or(0, |body| body.len());
            last = Some(at);
            page.items.push(record);
            true
        })?;
        page.next = match stopped {
            Stopped::AtEnd => None,
            Stopped::ByVisitor => last.map(|at| at.to_string()),
            Stopped::Tired(at) => Some(at.to_string()),
        };
        Ok(page)
    }

    /// Shows `visit` one record after the other, the last to end first, until it says false.
    pub fn scan(
        &self,
        filter: &ExecutionFilter,
        before: Option<Position>,
        mut visit: impl FnMut(Position, ExecutionRecord<'static>) -> bool,
    ) -> Result<Stopped, Error> {
        let mut opened = 0;
        let upto = before.map_or(u64::MAX, |at| at.block);
        for entry in self.txn.open_table(LOG_INDEX)?.range(..=upto)?.rev() {
            let (number, head) = entry?;
            let (block, head) = (number.value(), codec::decode::<BlockHead>(head.value())?);
            if filter.since.is_some_and(|since| head.finished_max < since) {
                // Records are accepted before they end, so this whole block is too old.
                continue;
            }
            if opened == BLOCKS_PER_SCAN {
                return Ok(Stopped::Tired(Position { block, index: usize::MAX }));
            }
            opened += 1;
            let Some(raw) = self.sound_block(block, &head)? else { continue };
            for (index, (_, record)) in log::entries(&raw)?.into_iter().enumerate().rev() {
                let at = Position { block, index };
                if before.is_some_and(|before| at >= before) {
                    continue;
                }
                let record: ExecutionRecord<'static> = codec::decode(record)?;
                if filter.takes(&record) && !visit(at, record) {
                    return Ok(Stopped::ByVisitor);
                }
            }
        }
        Ok(Stopped::AtEnd)
    }

    /// A block, unless it is damaged: then its records are lost, and those of the others are not.
    fn sound_block(&self, number: u64, head: &BlockHead) -> Result<Option<Vec<u8>>, Error> {
        match self.block(number, head).and_then(|raw| log::entries(&raw).map(drop).map(|()| raw)) {
            Ok(raw) => Ok(Some(raw)),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(block = number, %error, "a block of the execution log is passed over");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn block(&self, number: u64, head: &BlockHead) -> Result<Vec<u8>, Error> {
        let table = self.txn.open_table(LOG)?;
        let packed = table.get(number)?;
        let packed = packed
            .ok_or_else(|| Error::Damaged { what: "log block", why: format!("block {number} is missing") })?;
        log::unpack(head, packed.value())
    }
}
