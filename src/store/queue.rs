//! What may be asked of the writer, and where it waits for it.

use std::sync::Arc;

use uuid::Uuid;

use super::Error;
use super::changes::Changes;
use super::kv::{Effects, Reactions};
use super::log::EncodedRecord;
use crate::model::{DeadLetter, Row};

/// Called once, after the commit that kept the promise, or with the reason why there will be none.
pub type Reply = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// Makes a change; says whom to tell, and whether it wrote. An error is the card's.
pub(crate) type Change = Box<dyn FnOnce(&mut Changes<'_>) -> (Reply, Result<bool, Error>) + Send>;

/// More waiting commands than this wake the writer although nobody waits for it.
pub(super) const COMMANDS_WAKE: usize = 256;
/// With more than this waiting the card cannot keep up, and relaxed rows must wait like strict ones.
const COMMANDS_BUSY: usize = 4 * 1024;
/// The same in bytes.
const BYTES_BUSY: usize = 16 * 1024 * 1024;
/// With more than this waiting nothing is run any more: what waits for a stalled card must not fill the memory.
const BYTES_BEHIND: usize = 48 * 1024 * 1024;
/// How a row's attempt changed the row.
#[derive(Debug)]
pub enum End {
    /// It is over: the row goes, the record stays.
    Done(EncodedRecord),
    /// It is tried again: the row as it shall stand, with its new due time.
    Retry(Arc<Row>),
    /// It is over without success: the row becomes a dead letter.
    Dead(Box<DeadLetter>, EncodedRecord),
    /// The house cut it short: the row stays as it was, and the attempt does not count.
    Release,
}

pub(crate) enum Command {
    Enqueue {
        row: Arc<Row>,
        claimed: bool,
        reply: Reply,
    },
    EnqueueRelaxed(Arc<Row>),
    Claim {
        ids: Vec<Uuid>,
        reply: Reply,
    },
    /// `of` is the app of an async row.
    Settle {
        id: Uuid,
        of: Option<Uuid>,
        end: End,
        effects: Option<Box<Accepted>>,
        told: Option<Reply>,
    },
    /// Changes of values that no run made.
    Apply {
        effects: Box<Accepted>,
        told: Reply,
    },
    Change(Change),
    Settled(Reply),
    Probe(Reply),
}

/// Changes that stand, with their number: nothing refuses them any more.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) commit: u64,
    pub(crate) effects: Effects,
    /// The triggers as they were then.
    pub(crate) reactions: Arc<Reactions>,
    /// Rows that this was counted to lead to.
    pub(crate) queued: u64,
}

impl Accepted {
    fn weight(&self) -> usize {
        let values = self.effects.changes.iter();
        let values = values.map(|change| change.value.as_ref().map_or(0, bytes::Bytes::len) + 128);
        values.sum::<usize>() + self.effects.rows.iter().map(|row| row.weight()).sum::<usize>()
    }
}

impl Command {
    /// About how many bytes wait with it.
    fn weight(&self) -> usize {
        match self {
            Command::Enqueue { row, .. } | Command::EnqueueRelaxed(row) => row.weight(),
            Command::Settle { end, effects, .. } => {
                let record = match end {
                    End::Done(record) | End::Dead(_, record) => record.weight(),
                    End::Retry(_) | End::Release => 0,
                };
                record + effects.as_ref().map_or(0, |effects| effects.weight())
            }
            Command::Apply { effects, .. } => effects.weight(),
            Command::Claim { .. } | Command::Change(_) | Command::Settled(_) | Command::Probe(_) => 0,
        }
    }

    /// Whether its caller is likely to come back as soon as it is answered.
    pub(super) fn is_promise(&self) -> bool {
        matches!(self, Command::Enqueue { .. } | Command::Change(_)) || self.is_told()
    }

    /// Whether somebody waits for the commit of the changes that it carries.
    pub(super) fn is_told(&self) -> bool {
        matches!(self, Command::Settle { told: Some(_), .. } | Command::Apply { .. })
    }

    /// The number of the changes that it carries.
    #[cfg(test)]
    pub(crate) fn commit_number(&self) -> Option<u64> {
        match self {
            Command::Settle { effects, .. } => effects.as_ref().map(|effects| effects.commit),
            Command::Apply { effects, .. } => Some(effects.commit),
            Command::Enqueue { .. }
            | Command::EnqueueRelaxed(_)
            | Command::Claim { .. }
            | Command::Change(_)
            | Command::Settled(_)
            | Command::Probe(_) => None,
        }
    }

    /// Whether it is only a question.
    pub(super) fn asks_only(&self) -> bool {
        matches!(self, Command::Settled(_) | Command::Probe(_))
    }

    /// Tells whoever waits that it will not happen.
    pub(crate) fn refuse(self, error: &Error) {
        match self {
            Command::Enqueue { reply, .. } | Command::Claim { reply, .. } => reply(Err(error.clone())),
            Command::Settled(reply) | Command::Probe(reply) => reply(Err(error.clone())),
            Command::Settle { told: Some(told), .. } | Command::Apply { told, .. } => {
                told(Err(error.clone()))
            }
            // The closure holds whom to tell; its reply is dropped with it, which the waiter sees.
            Command::Change(_) | Command::EnqueueRelaxed(_) | Command::Settle { told: None, .. } => {}
        }
    }
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) commands: Vec<Command>,
    /// About how many bytes they hold.
    pub(super) bytes: usize,
    /// Somebody waits.
    pub(super) urgent: bool,
    /// So many wait for a promise.
    pub(super) waiting: usize,
    /// The writer gathers until so many wait; 0 if it does not.
    pub(super) wanted: usize,
    /// The writer sleeps without a time to wake.
    pub(super) dormant: bool,
    /// Nothing new is accepted.
    pub(super) frozen: bool,
    pub(super) closing: bool,
    pub(super) closed: bool,
}

impl Queue {
    /// Whether the card cannot keep up.
    pub(super) fn is_busy(&self) -> bool {
        self.commands.len() >= COMMANDS_BUSY || self.bytes >= BYTES_BUSY
    }

    /// Whether so much waits that nothing more should be run.
    pub(super) fn is_behind(&self) -> bool {
        self.bytes >= BYTES_BEHIND
    }

    /// Takes a command; says whether the writer is to be woken for it.
    pub(super) fn push(&mut self, command: Command, urgent: bool) -> bool {
        self.bytes += command.weight();
        self.waiting += usize::from(command.is_promise());
        self.commands.push(command);
        let wake = (urgent && !self.urgent)
            || self.dormant
            || self.commands.len() == COMMANDS_WAKE
            || (self.wanted > 0 && self.waiting == self.wanted);
        self.urgent |= urgent;
        self.dormant = false;
        wake
    }
}
