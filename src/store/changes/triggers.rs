//! Triggers: their changes, and the rows of those that no other work makes run.
//!
//! A tick and the row that it makes are one commit: after a cut there are both or neither, and what a schedule struck
//! is not struck again. Ticks are their own small table, because they change often and triggers rarely.

use std::collections::HashMap;
use std::sync::Arc;

use redb::ReadableTable;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Changed, Changes, check_room, found, nullable, put, remove};
use crate::model::{
    CatchUp, Kind, KvPrefix, Name, Overlap, Row, Schedule, Tick, Timetable, Trigger, TriggerOn, UnixMs,
    ZoneName,
};
use crate::store::events::Clerk;
use crate::store::tables::{OUTBOX, TICKS, TRIGGERS};
use crate::store::{ChangeError, codec};

const TRIGGERS_MAX: usize = 20_000;

/// What a trigger is said to be, or to become. Each kind has fields of its own; another kind's are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TriggerFields {
    /// What it waits for; never changes.
    pub kind: Option<Kind>,
    /// The script it runs.
    pub script_id: Option<Uuid>,
    /// Whether it makes work and its work is run.
    pub enabled: Option<bool>,
    /// Of `kv`: what keys begin with.
    pub prefix: Option<KvPrefix>,
    /// Of `kv`: which changes count.
    pub on: Option<KvChanges>,
    /// Of `queue`: its name.
    #[serde(alias = "name")]
    pub queue: Option<Name>,
    /// Of `queue`: attempts for each message, or null for the device's.
    #[serde(deserialize_with = "nullable")]
    pub max_attempts: Option<Option<u16>>,
    /// Of `cron`: when.
    pub schedule: Option<Schedule>,
    /// Of `cron`: where.
    pub timezone: Option<ZoneName>,
    /// Of `cron`: what becomes of missed ticks.
    pub catch_up: Option<CatchUp>,
    /// Of `cron`: what becomes of a tick during the run of another.
    pub overlap: Option<Overlap>,
    /// Of `dead_letter`: only of this script, or null for all of the app.
    #[serde(deserialize_with = "nullable")]
    pub source_script_id: Option<Option<Uuid>>,
}

/// Which changes of values count.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "must be \"set\", \"delete\" or a list of them")]
pub enum KvChanges {
    /// One sort.
    One(KvChange),
    /// Several.
    Several(Vec<KvChange>),
}

/// A change of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvChange {
    /// It is set.
    Set,
    /// It is deleted.
    Delete,
}

impl KvChanges {
    /// Whether sets count, and whether deletes do.
    fn counts(&self) -> Changed<(bool, bool)> {
        let all = match self {
            KvChanges::One(one) => std::slice::from_ref(one),
            KvChanges::Several(several) => several,
        };
        if all.is_empty() {
            return Err(invalid("on", "must name \"set\", \"delete\" or both"));
        }
        Ok((all.contains(&KvChange::Set), all.contains(&KvChange::Delete)))
    }
}

/// A tick to be run, with what is to be known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CronRun {
    /// When the schedule struck.
    pub at: UnixMs,
    /// Missed ticks that this run stands for.
    pub missed: u64,
}

/// What a schedule has come to.
#[derive(Clone, Debug)]
pub struct Strike {
    /// The trigger as it was when that was reckoned.
    pub trigger: Arc<Trigger>,
    /// What is to be run.
    pub runs: Vec<CronRun>,
    /// All ticks up to this instant are dealt with.
    pub through: UnixMs,
}

/// What became of a strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Struck {
    /// Its rows and its tick are in this commit.
    Done,
    /// The trigger is another by now, or gone; nothing was made.
    Outdated,
    /// Its script is gone; nothing was made.
    ScriptGone,
    /// The outbox or the card is full; nothing was made.
    NoRoom,
}

fn invalid(field: &'static str, why: impl Into<String>) -> ChangeError {
    ChangeError::Invalid { field, why: why.into() }
}

impl TriggerFields {
    /// A new trigger of an app.
    pub fn create(mut self, id: Uuid, app_id: Uuid, now: UnixMs) -> Changed<Trigger> {
        let kinds = "must be kv, cron, queue, dead_letter or startup";
        let missing = |field| invalid(field, "is missing");
        let kind = self.kind.take().ok_or_else(|| invalid("kind", kinds))?;
        let on = match kind {
            Kind::Kv => TriggerOn::Kv { prefix: KvPrefix::default(), set: true, delete: true },
            Kind::Cron => TriggerOn::Cron {
                schedule: self.schedule.take().ok_or_else(|| missing("schedule"))?,
                time_zone: ZoneName::utc(),
                catch_up: CatchUp::default(),
                overlap: Overlap::default(),
            },
            Kind::Queue => {
                let queue = self.queue.take().ok_or_else(|| missing("queue"))?;
                TriggerOn::Queue { queue, attempts_max: None }
            }
            Kind::DeadLetter => TriggerOn::DeadLetter { of_script: None },
            Kind::Startup => TriggerOn::Startup,
            Kind::Http | Kind::Admin => return Err(invalid("kind", kinds)),
        };
        let script_id = self.script_id.ok_or_else(|| missing("script_id"))?;
        let mut trigger =
            Trigger { id, app_id, script_id, on, enabled: true, created_at: now, updated_at: now };
        self.change(&mut trigger)?;
        Ok(trigger)
    }

    /// Makes a trigger what these say.
    fn change(mut self, trigger: &mut Trigger) -> Changed<()> {
        if self.kind.take().is_some_and(|kind| kind != trigger.on.kind()) {
            return Err(invalid("kind", "never changes; make another trigger"));
        }
        trigger.script_id = self.script_id.take().unwrap_or(trigger.script_id);
        trigger.enabled = self.enabled.take().unwrap_or(trigger.enabled);
        match &mut trigger.on {
            TriggerOn::Kv { prefix, set, delete } => {
                *prefix = self.prefix.take().unwrap_or_else(|| prefix.clone());
                (*set, *delete) = self.on.take().map_or(Ok((*set, *delete)), |on| on.counts())?;
            }
            TriggerOn::Queue { queue, attempts_max } => {
                *queue = self.queue.take().unwrap_or_else(|| queue.clone());
                *attempts_max = self.max_attempts.take().unwrap_or(*attempts_max);
                if attempts_max.is_some_and(|attempts| !(1..=1000).contains(&attempts)) {
                    return Err(invalid("max_attempts", "must be 1 to 1000"));
                }
            }
            TriggerOn::Cron { schedule, time_zone, catch_up, overlap } => {
                *schedule = self.schedule.take().unwrap_or_else(|| schedule.clone());
                *time_zone = self.timezone.take().unwrap_or_else(|| time_zone.clone());
                *catch_up = self.catch_up.take().unwrap_or(*catch_up);
                *overlap = self.overlap.take().unwrap_or(*overlap);
            }
            TriggerOn::DeadLetter { of_script } => {
                *of_script = self.source_script_id.take().unwrap_or(*of_script);
            }
            TriggerOn::Startup => {}
        }
        self.check_all_taken(trigger.on.kind())
    }

    /// Refuses what is left: fields of other kinds.
    fn check_all_taken(&self, kind: Kind) -> Changed<()> {
        let left = [
            ("prefix", self.prefix.is_some()),
            ("on", self.on.is_some()),
            ("queue", self.queue.is_some()),
            ("max_attempts", self.max_attempts.is_some()),
            ("schedule", self.schedule.is_some()),
            ("timezone", self.timezone.is_some()),
            ("catch_up", self.catch_up.is_some()),
            ("overlap", self.overlap.is_some()),
            ("source_script_id", self.source_script_id.is_some()),
        ];
        match left.into_iter().find(|(_, is_left)| *is_left) {
            Some((field, _)) => {
                Err(invalid(field, format!("a trigger of the kind \"{}\" has no such field", kind.as_str())))
            }
            None => Ok(()),
        }
    }
}

impl Changes<'_> {
    /// Stores a trigger.
    pub fn create_trigger(&mut self, trigger: Trigger) -> Changed<Arc<Trigger>> {
        self.check_storage()?;
        check_room(self.catalog.triggers.len(), TRIGGERS_MAX, "triggers")?;
        found(&self.catalog.apps, "app", trigger.app_id)?;
        self.check_scripts(&trigger, None)?;
        self.check_queue(&trigger)?;
        if trigger.on.kind() == Kind::Cron {
            self.put_tick(trigger.id, Tick { through: trigger.created_at, last: None })?;
        }
        put(self.txn, &self.kept_bytes, TRIGGERS, &mut self.catalog.triggers, trigger.id, trigger)
    }

    /// Changes a trigger. A schedule that changes, or goes on after a pause, has missed nothing before `now`.
    pub fn update_trigger(&mut self, id: Uuid, fields: TriggerFields, now: UnixMs) -> Changed<Arc<Trigger>> {
        self.check_storage()?;
        let before = found(&self.catalog.triggers, "trigger", id)?.clone();
        let mut trigger = before.as_ref().clone();
        fields.change(&mut trigger)?;
        self.check_scripts(&trigger, Some(&before))?;
        self.check_queue(&trigger)?;
        if trigger == *before {
            return Ok(before);
        }
        let begins_anew = trigger.enabled && (!before.enabled || !is_same_schedule(&before.on, &trigger.on));
        if trigger.on.kind() == Kind::Cron && begins_anew {
            let last = self.tick(id)?.and_then(|tick| tick.last);
            self.put_tick(id, Tick { through: now, last })?;
        }
        trigger.updated_at = now;
        put(self.txn, &self.kept_bytes, TRIGGERS, &mut self.catalog.triggers, id, trigger)
    }

    /// Removes a trigger. Work that it made stays, and is run.
    pub fn delete_trigger(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.triggers, "trigger", id)?;
        self.txn.open_table(TICKS)?.remove(id.as_u128())?;
        remove(self.txn, TRIGGERS, &mut self.catalog.triggers, id)
    }

    pub(super) fn delete_triggers_of(&mut self, app: Uuid) -> Changed<()> {
        let own = self.catalog.triggers.values().filter(|trigger| trigger.app_id == app);
        let own: Vec<Uuid> = own.map(|trigger| trigger.id).collect();
        own.into_iter().try_for_each(|id| self.delete_trigger(id))
    }

    /// Runs a trigger's script now, because an operator wants it.
    pub fn run_trigger(&mut self, id: Uuid, now: UnixMs) -> Changed<Arc<Row>> {
        self.check_storage()?;
        let trigger = found(&self.catalog.triggers, "trigger", id)?.clone();
        if !trigger.enabled {
            return Err(ChangeError::Conflict("the trigger is paused; resume it first".into()));
        }
        let event = match &trigger.on {
            TriggerOn::Cron { schedule, time_zone, .. } => {
                let timetable = Timetable::new(schedule, time_zone);
                let scheduled_at = timetable.map_or_else(|_| now.to_string(), |table| table.print(now));
                let mut event = cron_event(id, CronRun { at: now, missed: 0 }, scheduled_at);
                event["manual"] = Value::Bool(true);
                event
            }
            TriggerOn::Kv { .. }
            | TriggerOn::Queue { .. }
            | TriggerOn::DeadLetter { .. }
            | TriggerOn::Startup => {
                json!({ "kind": trigger.on.kind().as_str(), "trigger_id": id, "manual": true })
            }
        };
        let made = self.clerk(now).row(&trigger, self.catalog, None, &event, &id.to_string());
        let row = made.ok_or_else(|| {
            ChangeError::Conflict(format!("the trigger's script is gone: {}", trigger.script_id))
        })?;
        if !self.enqueue_made(vec![row], &mut HashMap::new())? {
            return Err(ChangeError::Conflict("the outbox is full; try again when work has ended".into()));
        }
        Ok(self.enqueued.last().expect("it was just put there").clone())
    }

    /// Makes a row for each trigger that waits for the start of the daemon. Says how many, and how many had no room.
    pub fn run_startup_triggers(&mut self, now: UnixMs) -> Changed<(usize, usize)> {
        let waits = |trigger: &&Arc<Trigger>| trigger.enabled && trigger.on.kind() == Kind::Startup;
        let waiting: Vec<Arc<Trigger>> = self.catalog.triggers.values().filter(waits).cloned().collect();
        let (mut made, mut refused, mut by_app) = (0, 0, HashMap::new());
        for trigger in waiting {
            let event = json!({ "kind": "startup", "trigger_id": trigger.id, "reason": "start" });
            let row = self.clerk(now).row(&trigger, self.catalog, None, &event, "start");
            let Some(row) = row else {
                tracing::warn!(trigger = %trigger.id, script = %trigger.script_id, "the script of a startup trigger is gone");
                continue;
            };
            let fits = self.full.is_none() && self.enqueue_made(vec![row], &mut by_app)?;
            if fits { made += 1 } else { refused += 1 }
        }
        Ok((made, refused))
    }

    /// Puts the ticks of schedules down, each with the rows that it makes; all in one commit.
    pub fn strike(&mut self, strikes: &[Strike], now: UnixMs) -> Changed<Vec<Struck>> {
        let mut by_app = HashMap::new();
        strikes.iter().map(|strike| self.strike_one(strike, now, &mut by_app)).collect()
    }

    fn strike_one(
        &mut self,
        strike: &Strike,
        now: UnixMs,
        by_app: &mut HashMap<Uuid, u64>,
    ) -> Changed<Struck> {
        let Strike { trigger, runs, through } = strike;
        let is_current = |current: &Arc<Trigger>| Arc::ptr_eq(current, trigger);
        let current = self.catalog.triggers.get(&trigger.id).filter(|current| is_current(current));
        let TriggerOn::Cron { schedule, time_zone, .. } = &trigger.on else { return Ok(Struck::Outdated) };
        let Ok(timetable) = Timetable::new(schedule, time_zone) else { return Ok(Struck::Outdated) };
        if current.is_none() {
            return Ok(Struck::Outdated);
        }
        if self.full.is_some() {
            return Ok(Struck::NoRoom);
        }
        let row = |run: &CronRun| {
            let event = cron_event(trigger.id, *run, timetable.print(run.at));
            self.clerk(now).row(trigger, self.catalog, None, &event, &trigger.id.to_string())
        };
        let Some(rows) = runs.iter().map(row).collect::<Option<Vec<Row>>>() else {
            return Ok(Struck::ScriptGone);
        };
        if !self.enqueue_made(rows, by_app)? {
            return Ok(Struck::NoRoom);
        }
        let last = match runs.last() {
            Some(run) => Some(run.at),
            None => self.tick(trigger.id)?.and_then(|tick| tick.last),
        };
        self.put_tick(trigger.id, Tick { through: *through, last })?;
        Ok(Struck::Done)
    }

    /// Puts rows into the outbox if all of them fit; `by_app` counts those of this change.
    fn enqueue_made(&mut self, rows: Vec<Row>, by_app: &mut HashMap<Uuid, u64>) -> Changed<bool> {
        let encoded: Vec<(Row, Vec<u8>)> =
            rows.into_iter().map(|row| (codec::encode(&row), row)).map(|(bytes, row)| (row, bytes)).collect();
        let count = u64::try_from(encoded.len()).unwrap_or(u64::MAX);
        let bytes = encoded.iter().map(|(_, bytes)| u64::try_from(bytes.len()).unwrap_or(u64::MAX)).sum();
        let Some((first, _)) = encoded.first() else { return Ok(true) };
        let own = by_app.entry(first.app_id).or_default();
        let app = self.catalog.apps.get(&first.app_id);
        if !self.terms.room.has(count, bytes) || !self.terms.shares.has_room(first.app_id, app, *own + count)
        {
            return Ok(false);
        }
        *own += count;
        self.terms.room.take(count, bytes);
        let mut outbox = self.txn.open_table(OUTBOX)?;
        for (row, bytes) in encoded {
            outbox.insert(row.execution_id.as_u128(), bytes.as_slice())?;
            self.enqueued.push(Arc::new(row));
        }
        Ok(true)
    }

    fn clerk(&self, now: UnixMs) -> Clerk<'_> {
        Clerk { ids: self.ids, now, timeout: self.terms.timeout_async }
    }

    fn tick(&self, trigger: Uuid) -> Changed<Option<Tick>> {
        let table = self.txn.open_table(TICKS)?;
        let bytes = table.get(trigger.as_u128())?;
        Ok(bytes.map(|bytes| codec::decode(bytes.value())).transpose()?)
    }

    fn put_tick(&self, trigger: Uuid, tick: Tick) -> Changed<()> {
        let bytes = codec::encode(&tick);
        self.txn.open_table(TICKS)?.insert(trigger.as_u128(), bytes.as_slice())?;
        self.kept_bytes.set(self.kept_bytes.get() + u64::try_from(bytes.len()).unwrap_or(0));
        Ok(())
    }

    /// Scripts of a trigger are the app's. One that was there before may be gone.
    fn check_scripts(&self, trigger: &Trigger, before: Option<&Trigger>) -> Changed<()> {
        let of_script = |on: &TriggerOn| match on {
            TriggerOn::DeadLetter { of_script } => *of_script,
            TriggerOn::Kv { .. } | TriggerOn::Queue { .. } | TriggerOn::Cron { .. } | TriggerOn::Startup => {
                None
            }
        };
        let asked = [
            ("script_id", Some(trigger.script_id), before.map(|before| before.script_id)),
            ("source_script_id", of_script(&trigger.on), before.and_then(|before| of_script(&before.on))),
        ];
        for (field, script, had) in asked {
            let Some(script) = script.filter(|_| script != had) else { continue };
            let owner = self.catalog.scripts.get(&script).map(|script| script.app_id);
            if owner != Some(trigger.app_id) {
                return Err(invalid(field, format!("the app has no script {script}")));
            }
        }
        Ok(())
    }

    /// Each message has one taker.
    fn check_queue(&self, trigger: &Trigger) -> Changed<()> {
        let TriggerOn::Queue { queue: wanted, .. } = &trigger.on else { return Ok(()) };
        let twin = |other: &&Arc<Trigger>| {
            let TriggerOn::Queue { queue, .. } = &other.on else { return false };
            queue == wanted && other.app_id == trigger.app_id && other.id != trigger.id
        };
        match self.catalog.triggers.values().find(twin) {
            Some(other) => Err(ChangeError::Conflict(format!(
                "queue: trigger {} takes the messages of \"{wanted}\"",
                other.id
            ))),
            None => Ok(()),
        }
    }
}

fn is_same_schedule(one: &TriggerOn, other: &TriggerOn) -> bool {
    match (one, other) {
        (
            TriggerOn::Cron { schedule, time_zone, .. },
            TriggerOn::Cron { schedule: other, time_zone: other_zone, .. },
        ) => schedule == other && time_zone == other_zone,
        _ => true,
    }
}

fn cron_event(trigger: Uuid, run: CronRun, scheduled_at: String) -> Value {
    json!({
        "kind": "cron",
        "trigger_id": trigger,
        "scheduled_at": scheduled_at,
        "scheduled_unix_ms": run.at.0,
        "missed": run.missed,
    })
}
