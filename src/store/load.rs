//! What the writer counts.

use std::sync::atomic::{AtomicBool, AtomicU64};

/// Counters of the store, for metrics.
#[derive(Debug, Default)]
pub struct Load {
    /// How often the file was made small again.
    pub compactions: AtomicU64,
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Those that ended in an fsync.
    pub durable_commits: AtomicU64,
    /// Commands taken.
    pub commands: AtomicU64,
    /// Rows in the outbox table.
    pub outbox_rows: AtomicU64,
    /// Bytes of them.
    pub outbox_bytes: AtomicU64,
    /// Bytes of the execution log on the card.
    pub log_bytes: AtomicU64,
    /// Dead letters kept.
    pub dead_letters: AtomicU64,
    /// Bytes of them.
    pub dead_letters_bytes: AtomicU64,
    /// Dead letters dropped because there were too many or they were too old.
    pub dead_letters_dropped: AtomicU64,
    /// Whether there are so many that somebody should look.
    pub dead_letters_alert: AtomicBool,
    /// Bytes of all versions of all scripts.
    pub versions_bytes: AtomicU64,
    /// Rows and changes refused because the card was full.
    pub storage_full_refusals: AtomicU64,
    /// Bytes that the store was asked to keep, before compression.
    pub logical_bytes: AtomicU64,
}
