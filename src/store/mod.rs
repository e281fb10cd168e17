//! The store: one redb file, one writer thread, and the promise that nobody hears "accepted" too early.
//!
//! Every change is a command. Commands queue up, the writer takes all that wait into one transaction, commits
//! once, and only then tells those who wait. What was promised to survive a power cut makes the commit durable
//! (one fsync); what was not rides the next flush. Reads are snapshots and never wait for the writer, except
//! that [`Store::settled`] lets a reader see everything that was posted before it asked.
//!
//! This room knows no script and no HTTP. After an error of the
//! card it refuses everything: the house drains and exits, and the next start opens the file anew.

mod ages;
mod apply;
mod backend;
pub mod backup;
mod birth;
mod budget;
mod catalog;
mod changes;
mod codec;
mod compact;
mod error;
mod events;
mod handle;
mod ids;
pub mod kv;
mod log;
mod migrate;
mod old;
mod open;
mod pace;
mod queue;
mod read;
mod retention;
mod seal;
mod secrets;
mod shares;
mod space;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wear;
pub mod wedge;
mod writer;

pub use backend::{Card, CardMeter};
pub use budget::BudgetView;
pub use catalog::Catalog;
pub use changes::{
    AppPatch, Changes, CronRun, DomainPatch, KeyPatch, KvChange, KvChanges, RoutePatch, ScriptPatch, Strike,
    Struck, TriggerFields, UserPatch,
};
pub use error::{ChangeError, Error};
pub use handle::{CatalogHook, Hooks, Load, Recovered, Startable, Store};
pub use ids::Ids;
pub use log::{EncodedRecord, encode_record};
pub use migrate::{SCHEMA, schema_of};
pub use open::Settings;
pub use queue::End;
pub use read::{ExecutionFilter, Page, Position, Snapshot, Stopped};
pub use seal::{DEVICE_KEY_BYTES, NoRandomness, Sealer, Unopened};
pub use space::{Bounds, Full, Space};
pub use wear::Wear;
