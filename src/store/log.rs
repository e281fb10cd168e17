//! The execution log: records packed into compressed blocks.
//!
//! One record a request would be one small tree insert a request, and cards wear by the page. So finished
//! records gather in memory, up to [`BLOCK_BYTES`], and go down as one block with one index entry. A block
//! holds records in the order in which they ended; the index says between which ids and instants it lies, so
//! that looking for one id opens about one block. Retention drops whole blocks, oldest first.

use std::collections::VecDeque;

use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::ages;
use super::budget::Budget;
use super::codec::{self, Stored};
use super::tables::{LOG, LOG_INDEX};
use super::{Error, Settings};
use crate::model::{ExecutionRecord, UnixMs};

/// A block is closed when it holds this many bytes before compression.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;
/// While the card is full the log does not grow, but it may always be this large: what just ended can be read.
const HELD_BYTES_MIN: u64 = 1024 * 1024;
/// While the card is full one commit takes at most so many bytes of new blocks: the pages of those that make way
/// for them are free only after it.
const HELD_WRITE_MAX: usize = 256 * 1024;
/// The log is to be written at this size, to bound memory.
const WAITS_MAX: usize = 2 * 1024 * 1024;
/// No block decompresses to more than this: one record may be larger than a block, a body is capped far below.
const RAW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A record ready to be logged.
#[derive(Debug)]
pub struct EncodedRecord {
    id: u128,
    finished_at: UnixMs,
    bytes: Vec<u8>,
}

impl EncodedRecord {
    /// Bytes that it holds.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.len()
    }

    /// The record again, on its own feet.
    pub fn decode(&self) -> Result<ExecutionRecord<'static>, Error> {
        codec::decode(&self.bytes)
    }
}

/// Encodes a record for [`End`](super::End). Done by the thread that ran the script, not by the writer.
pub fn encode_record(record: &ExecutionRecord<'_>) -> EncodedRecord {
    EncodedRecord {
        id: record.id.as_u128(),
        finished_at: record.finished_at,
        bytes: codec::encode_borrowed(record),
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BlockHead {
    pub(crate) count: u32,
    pub(crate) raw_bytes: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) id_min: u128,
    pub(crate) id_max: u128,
    pub(crate) finished_max: UnixMs,
}

impl Stored for BlockHead {
    const VERSION: u8 = 1;
    const WHAT: &'static str = "log index entry";
}

/// The end of the log that is still in memory, and what is known of the rest.
pub(crate) struct LogTail {
    next: u64,
    open: OpenBlock,
    closed: Vec<(BlockHead, Vec<u8>)>,
    closed_bytes: usize,
    stored: VecDeque<(u64, BlockHead)>,
    stored_bytes: u64,
    bytes_max: u64,
    /// A lower bound than that, while the card is full.
    held_at: Option<u64>,
    age_max_ms: i64,
}

#[derive(Default)]
struct OpenBlock {
    raw: Vec<u8>,
    head: Option<BlockHead>,
}

impl LogTail {
    /// Reads the index of an opened file.
    pub(crate) fn open(txn: &WriteTransaction, settings: &Settings) -> Result<LogTail, Error> {
        let mut stored = VecDeque::new();
        let mut stored_bytes = 0;
        for entry in txn.open_table(LOG_INDEX)?.iter()? {
            let (number, head) = entry?;
            let head: BlockHead = codec::decode(head.value())?;
            stored_bytes += u64::from(head.stored_bytes);
            stored.push_back((number.value(), head));
        }
        let next = stored.back().map_or(0, |(number, _)| number + 1);
        let age_max_ms = i64::try_from(settings.log_age_max.as_millis()).unwrap_or(i64::MAX);
        let (open, closed) = (OpenBlock::default(), Vec::new());
        let bytes_max = settings.log_bytes_max;
        Ok(LogTail {
            next,
            open,
            closed,
            closed_bytes: 0,
            stored,
            stored_bytes,
            bytes_max,
            held_at: None,
            age_max_ms,
        })
    }

    /// Adds a record to the block in memory.
    pub(crate) fn push(&mut self, record: &EncodedRecord) {
        let length = u32::try_from(record.bytes.len()).unwrap_or(u32::MAX);
        self.open.raw.extend_from_slice(&record.id.to_be_bytes());
        self.open.raw.extend_from_slice(&length.to_le_bytes());
        self.open.raw.extend_from_slice(&record.bytes);
        let head = self.open.head.get_or_insert(BlockHead {
            count: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            id_min: record.id,
            id_max: record.id,
            finished_max: record.finished_at,
        });
        head.count += 1;
        head.id_min = head.id_min.min(record.id);
        head.id_max = head.id_max.max(record.id);
        head.finished_max = head.finished_max.max(record.finished_at);
        if self.open.raw.len() >= BLOCK_BYTES {
            self.close_block();
        }
    }

    /// The latest execution id among the stored records; 0 if there is none.
    pub(crate) fn latest_id(&self) -> u128 {
        self.stored.iter().map(|(_, head)| head.id_max).max().unwrap_or(0)
    }

    /// Bytes that wait in memory.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.open.raw.len() + self.closed_bytes
    }

    /// Whether so much waits in memory that it must be written now.
    pub(crate) fn is_heavy(&self) -> bool {
        let most = if self.held_at.is_some() { HELD_WRITE_MAX } else { WAITS_MAX };
        self.waiting_bytes() >= most
    }

    /// Bytes of blocks on the card.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// While the card is full each new block takes the place of the oldest.
    pub(crate) fn hold(&mut self, full: bool) {
        let now = self.stored_bytes.max(HELD_BYTES_MIN);
        self.held_at = full.then(|| self.held_at.unwrap_or(now));
    }

    /// Forgets the oldest of what waits, as far as it is more than one commit may take while the card is full.
    fn thin_out(&mut self) {
        let mut surplus = self.closed_bytes.saturating_sub(HELD_WRITE_MAX);
        self.closed.retain(|(_, packed)| {
            let goes = surplus > 0;
            surplus = surplus.saturating_sub(packed.len());
            !goes
        });
        self.closed_bytes = self.closed.iter().map(|(_, packed)| packed.len()).sum();
    }

    fn close_block(&mut self) {
        let block = std::mem::take(&mut self.open);
        let Some(mut head) = block.head else { return };
        let packed = lz4_flex::block::compress(&block.raw);
        head.raw_bytes = u32::try_from(block.raw.len()).unwrap_or(u32::MAX);
        head.stored_bytes = u32::try_from(packed.len()).unwrap_or(u32::MAX);
        self.closed_bytes += packed.len();
        self.closed.push((head, packed));
    }

    /// Writes what waits into `txn`, and drops the oldest blocks that are over the bounds; `budget` may tighten them.
    pub(crate) fn write(
        &mut self,
        txn: &WriteTransaction,
        budget: &Budget,
        now: UnixMs,
    ) -> Result<(), Error> {
        self.close_block();
        if self.closed.is_empty() {
            return Ok(());
        }
        if self.held_at.is_some() {
            self.thin_out();
        }
        let (mut blocks, mut index) = (txn.open_table(LOG)?, txn.open_table(LOG_INDEX)?);
        for (head, packed) in self.closed.drain(..) {
            blocks.insert(self.next, packed.as_slice())?;
            index.insert(self.next, codec::encode(&head).as_slice())?;
            self.stored_bytes += u64::from(head.stored_bytes);
            self.stored.push_back((self.next, head));
            self.next += 1;
        }
        self.closed_bytes = 0;
        let bytes_max = budget.log_bytes(self.bytes_max);
        let bytes_max = self.held_at.map_or(bytes_max, |held| held.min(bytes_max));
        while let Some((number, head)) = self.stored.front().copied() {
            // What a clock stamped that was never set is as old as the next that has a stamp.
            let stamps = self.stored.iter().map(|(_, head)| head.finished_max);
            let stamp = stamps.into_iter().find(|at| ages::is_set(*at));
            let too_old = stamp.is_some_and(|at| ages::is_over(at, self.age_max_ms, now));
            if self.stored_bytes <= bytes_max && !too_old {
                break;
            }
            blocks.remove(number)?;
            index.remove(number)?;
            self.stored_bytes -= u64::from(head.stored_bytes);
            self.stored.pop_front();
        }
        Ok(())
    }
}

/// The records of a stored block, in the order in which they ended, undecoded.
pub(crate) fn unpack(head: &BlockHead, packed: &[u8]) -> Result<Vec<u8>, Error> {
    let damaged = |why: String| Error::Damaged { what: "log block", why };
    let raw_bytes = usize::try_from(head.raw_bytes).unwrap_or(usize::MAX);
    if raw_bytes > RAW_BYTES_MAX {
        return Err(damaged(format!("it claims {raw_bytes} bytes")));
    }
    lz4_flex::block::decompress(packed, raw_bytes).map_err(|error| damaged(error.to_string()))
}

/// Splits an unpacked block into ids and encoded records.
pub(crate) fn entries(raw: &[u8]) -> Result<Vec<(u128, &[u8])>, Error> {
    let damaged = || Error::Damaged { what: "log block", why: "it ends inside a record".into() };
    let mut entries = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let (id, after) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (record, after) = after.split_at_checked(length).ok_or_else(damaged)?;
        entries.push((u128::from_be_bytes(*id), record));
        rest = after;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_block_unpacks_without_panic(packed in prop::collection::vec(any::<u8>(), 0..200), raw_bytes in any::<u32>()) {
            let head = BlockHead { count: 1, raw_bytes, stored_bytes: 0, id_min: 0, id_max: 0, finished_max: UnixMs(0) };
            if let Ok(raw) = unpack(&head, &packed) {
                let _ = entries(&raw);
            }
            let _ = entries(&packed);
        }
    }
}
