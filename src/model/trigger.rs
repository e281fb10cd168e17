//! Triggers: what makes a script run besides a request.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Kind, KvPrefix, Name, Schedule, UnixMs, ZoneName};

/// Runs a script of an app when something happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// Never changes.
    pub id: Uuid,
    /// The app it belongs to.
    pub app_id: Uuid,
    /// The script it runs.
    pub script_id: Uuid,
    /// What it waits for.
    pub on: TriggerOn,
    /// Whether it makes new work, and whether work that it made is run.
    pub enabled: bool,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
}

/// What a trigger waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TriggerOn {
    /// A value of the app's KV is set or deleted.
    Kv {
        /// Only keys that begin so.
        prefix: KvPrefix,
        /// Whether setting a value counts.
        set: bool,
        /// Whether deleting one counts.
        delete: bool,
    },
    /// A message comes to a queue.
    Queue {
        /// The queue's name; one trigger a name.
        queue: Name,
        /// Attempts in all for each message; the device's default where `None`.
        attempts_max: Option<u16>,
    },
    /// The clock strikes.
    Cron {
        /// When.
        schedule: Schedule,
        /// Where.
        time_zone: ZoneName,
        /// What becomes of ticks that passed while the device was off.
        catch_up: CatchUp,
        /// What becomes of a tick while the run of the one before is not over.
        overlap: Overlap,
    },
    /// A row of the app became a dead letter.
    DeadLetter {
        /// Only rows of this script.
        of_script: Option<Uuid>,
    },
    /// The daemon started.
    Startup,
}

impl TriggerOn {
    /// The kind of the rows it makes.
    pub fn kind(&self) -> Kind {
        match self {
            TriggerOn::Kv { .. } => Kind::Kv,
            TriggerOn::Queue { .. } => Kind::Queue,
            TriggerOn::Cron { .. } => Kind::Cron,
            TriggerOn::DeadLetter { .. } => Kind::DeadLetter,
            TriggerOn::Startup => Kind::Startup,
        }
    }
}

/// What becomes of ticks that passed while the device was off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// They are logged.
    #[default]
    Skip,
    /// One run stands for all of them.
    Once,
    /// Each is run.
    All,
}

/// What becomes of a tick while the run of the one before is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is logged.
    #[default]
    Skip,
    /// It runs after it.
    Queue,
    /// It runs beside it.
    Parallel,
}

/// How far a schedule has come. What it struck up to an instant was run or refused, and is never run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// All strikes up to this instant are dealt with.
    pub through: UnixMs,
    /// The last one that was run.
    pub last: Option<UnixMs>,
}
