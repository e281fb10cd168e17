//! The KV of the apps: values that scripts keep, changed only by effects that commit as one.
//!
//! A run reads through a [`View`]: what is in the file, overlaid with what was accepted and is not in the file yet,
//! overlaid with what the run itself wrote. It never changes anything; at its end its [`Effects`] are held against
//! what others did meanwhile (the front, in memory), take the next commit number, and are posted to the writer, in
//! that order. So runs are serialisable without locks, and one that came too late is made again.
//!
//! Who comes next sees accepted changes at once, before they are durable; but its own are posted after them, and
//! a commit takes all that was posted before along. So whatever is durable rests on what is durable.
//!
//! Each value carries the commit number that wrote it. Numbers are compared for equality and rise within an app.

mod commit;
mod desk;
mod file;
mod front;
mod reactions;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use crate::store::queue::Reply;
pub use commit::{Refused, Settlement};
pub(crate) use desk::Desk;
pub(crate) use file::{Base, expiry_of, key_of, raw_key};
pub(crate) use front::Fronts;
pub(crate) use reactions::Reactions;
pub use view::{Found, Listed, Mark, Put, View, ViewError};

use crate::model::{Chain, KvKey, Row, UnixMs};
use front::Reads;

/// Changes of one run, at most.
pub const CHANGES_MAX: usize = 1_000;
/// Bytes of keys and values that one run changes, at most.
pub const CHANGED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rows that one run queues, at most.
pub const QUEUED_MAX: usize = 1_000;
/// Bytes of rows that one run queues, at most.
pub const QUEUED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Keys that one list gives, at most.
pub const LIST_MAX: usize = 1_000;

/// A value as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The number of the commit that wrote it.
    pub(crate) commit: u64,
    /// From when on it is not there any more.
    pub(crate) expires_at: Option<UnixMs>,
    /// JSON.
    pub(crate) value: Bytes,
}

/// What an app keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Values.
    pub(crate) keys: u64,
    /// Bytes of their keys and their JSON.
    pub(crate) bytes: u64,
    /// The number of the latest commit that changed any.
    pub(crate) commit: u64,
}

/// One change of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: KvKey,
    /// Its new JSON; `None` deletes it.
    pub value: Option<Bytes>,
    /// From when on it is not there any more.
    pub expires_at: Option<UnixMs>,
}

impl Change {
    /// Bytes that this brings to the KV.
    fn weight(&self) -> u64 {
        let bytes = self.value.as_ref().map_or(0, |value| value.len() + self.key.as_str().len());
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// What a run changes, to be committed with its end.
#[derive(Debug)]
pub struct Effects {
    pub(crate) app_id: Uuid,
    /// What caused it: triggers that follow from it are one deeper.
    pub(crate) cause: Option<Chain>,
    pub(crate) reads: Reads,
    pub(crate) changes: Vec<Change>,
    pub(crate) rows: Vec<Arc<Row>>,
}

impl Effects {
    /// Values that are changed.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Work that is queued.
    pub fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }
}
