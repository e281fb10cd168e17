//! The scheduler: makes schedules strike, and runs what waits for the start of the daemon.
//!
//! One thread sleeps until the next tick, but never longer than [`LOOK_EVERY`], so that a clock that was set is seen.
//! All that is due goes to the store as one change: the ticks with the rows that they make. Only what that commit
//! says was struck; after an error the same ticks are reckoned again. The wall clock decides when a schedule strikes,
//! and it may step: what was missed by a step forward is treated as missed, and a step back strikes nothing twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::clock::{self, ClockRule};
use super::ticks::{self, Plan};
use super::{Dispatch, count};
use crate::model::{Overlap, Row, Tick, Timetable, Trigger, TriggerOn, UnixMs};
use crate::store::{ChangeError, Changes, Error, Strike, Struck};

/// The longest sleep.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two looks at a clock that is waited for.
const CLOCK_EVERY: Duration = Duration::from_secs(3);
/// After a commit that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A tick that is so late is still on time: the machine was busy, or asleep for a moment.
const LATE_MS_MAX: i64 = 60_000;
/// A clock that was set by no more than this did not step.
const STEP_MS_MIN: i64 = 2_000;
/// What is dealt with so far ahead of the clock was dealt with by a clock that was wrong.
const AHEAD_MS_MAX: i64 = 24 * 3600 * 1000;

type All = Arc<BTreeMap<Uuid, Arc<Trigger>>>;

/// What others see of it, and tell it.
#[derive(Default)]
pub(crate) struct Scheduler {
    mail: Mutex<Mail>,
    bell: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Rows of triggers that have not ended.
    unfinished: Mutex<HashMap<Uuid, u32>>,
    waits_for_clock: AtomicBool,
    /// Counters, for metrics.
    pub(crate) tally: CronTally,
}

/// Counters of schedules.
#[derive(Debug, Default)]
pub struct CronTally {
    /// Ticks that were run.
    pub run: AtomicU64,
    /// Ticks that passed unseen, and that no run made up for.
    pub missed: AtomicU64,
    /// Ticks that were left out because the run of the one before was not over.
    pub overlapped: AtomicU64,
    /// Ticks that were left out because the outbox or the card was full, or their script gone.
    pub refused: AtomicU64,
}

/// How the clock stands.
#[derive(Clone, Copy, Debug)]
pub struct ClockView {
    /// Whether something keeps it in step.
    pub synchronised: bool,
    /// Whether schedules wait for that.
    pub cron_waiting: bool,
}

#[derive(Default)]
struct Mail {
    triggers: All,
    is_new: bool,
    closing: bool,
}

impl Scheduler {
    /// The triggers are these now; gives those before. `None` if they are the same.
    pub(super) fn replace(&self, triggers: &All) -> Option<All> {
        let mut mail = lock(&self.mail);
        if Arc::ptr_eq(&mail.triggers, triggers) {
            return None;
        }
        mail.is_new = true;
        let before = std::mem::replace(&mut mail.triggers, triggers.clone());
        drop(mail);
        self.bell.notify_one();
        Some(before)
    }

    /// Rows of triggers are under way.
    pub(super) fn began(&self, triggers: impl Iterator<Item = Uuid>) {
        let mut unfinished = lock(&self.unfinished);
        triggers.for_each(|trigger| *unfinished.entry(trigger).or_default() += 1);
    }

    /// A row has ended for good.
    pub(super) fn ended(&self, row: &Row) {
        let Some(trigger) = row.trigger_id else { return };
        let mut unfinished = lock(&self.unfinished);
        if let Some(rows) = unfinished.get_mut(&trigger) {
            *rows -= 1;
            if *rows == 0 {
                unfinished.remove(&trigger);
            }
        }
    }

    pub(super) fn clock(&self) -> ClockView {
        ClockView { synchronised: clock::is_synchronised(), cron_waiting: self.waits_for_clock.load(Relaxed) }
    }

    /// Strikes nothing more and ends the thread.
    pub(super) fn close(&self) {
        lock(&self.mail).closing = true;
        self.bell.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // It only ends by itself; a panic there is already in the log.
            let _ = thread.join();
        }
    }

    fn has_unfinished(&self, trigger: Uuid) -> bool {
        lock(&self.unfinished).contains_key(&trigger)
    }

    /// Sleeps for so long, or until there is mail. `None` when the house closes; new triggers if there are any.
    fn sleep(&self, at_most: Duration) -> Option<Option<All>> {
        let mut mail = lock(&self.mail);
        if !mail.is_new && !mail.closing {
            mail = self.bell.wait_timeout(mail, at_most).unwrap_or_else(PoisonError::into_inner).0;
        }
        if mail.closing {
            return None;
        }
        Some(std::mem::take(&mut mail.is_new).then(|| mail.triggers.clone()))
    }
}

/// Starts the thread.
pub(super) fn start(dispatch: &Dispatch, rule: ClockRule) -> io::Result<()> {
    let own = dispatch.clone();
    let thread = thread::Builder::new().name("scheduler".into()).spawn(move || run(own, rule))?;
    *lock(&dispatch.inner.scheduler.thread) = Some(thread);
    Ok(())
}

fn run(dispatch: Dispatch, rule: ClockRule) {
    begin_startup_triggers(&dispatch);
    if !wait_for_clock(&dispatch, rule) {
        return;
    }
    let mut ticker = Ticker::new(dispatch, UnixMs::now());
    let mut pause = Duration::ZERO;
    while let Some(new) = ticker.dispatch.inner.scheduler.sleep(pause) {
        let now = UnixMs::now();
        if let Some(triggers) = new {
            ticker.learn(&triggers, now);
        }
        ticker.notice_step(now);
        pause = if ticker.strike(now) { ticker.until_next(now) } else { AGAIN_AFTER };
    }
}

fn begin_startup_triggers(dispatch: &Dispatch) {
    match change(dispatch, |changes| changes.run_startup_triggers(UnixMs::now())) {
        Ok((0, 0)) => {}
        Ok((made, 0)) => tracing::info!(triggers = made, "what waits for the start is run"),
        Ok((_, refused)) => {
            tracing::warn!(refused, "triggers of the start were not run: the outbox or the card is full");
        }
        Err(error) => tracing::error!(%error, "triggers of the start were not run"),
    }
}

/// False if the house closed meanwhile.
fn wait_for_clock(dispatch: &Dispatch, rule: ClockRule) -> bool {
    let scheduler = &dispatch.inner.scheduler;
    let is_good = || rule.is_met();
    if is_good() {
        return true;
    }
    scheduler.waits_for_clock.store(true, Relaxed);
    tracing::warn!(
        "schedules wait until the clock is synchronised; cron.clock = \"trusted\" lets them run by it as it is"
    );
    while !is_good() {
        // The bell rings for news, which are kept for later.
        let end = Instant::now() + CLOCK_EVERY;
        let mut mail = lock(&scheduler.mail);
        while !mail.closing && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            mail = scheduler.bell.wait_timeout(mail, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if mail.closing {
            return false;
        }
    }
    scheduler.waits_for_clock.store(false, Relaxed);
    tracing::info!("the clock is synchronised: schedules begin");
    true
}

/// Makes a change and waits for its commit.
fn change<T: Send + 'static>(
    dispatch: &Dispatch,
    make: impl FnOnce(&mut Changes<'_>) -> Result<T, ChangeError> + Send + 'static,
) -> Result<T, ChangeError> {
    let (tell, told) = mpsc::channel();
    // It is listened to below, unless the store dropped it.
    dispatch.inner.store.change(make, move |made| drop(tell.send(made)));
    told.recv().unwrap_or(Err(ChangeError::Store(Error::Closed)))
}

/// The schedules, and how far each has come.
struct Ticker {
    dispatch: Dispatch,
    schedules: HashMap<Uuid, Known>,
    /// When to look at which; an entry that its schedule does not know any more is passed over.
    agenda: BinaryHeap<Reverse<(UnixMs, Uuid)>>,
    /// Ticks before it were missed: nobody was there.
    began: UnixMs,
    /// The wall clock and the monotonic one, read together.
    clocks: (UnixMs, Instant),
}

struct Known {
    trigger: Arc<Trigger>,
    through: UnixMs,
    next: Option<UnixMs>,
}

impl Ticker {
    fn new(dispatch: Dispatch, now: UnixMs) -> Ticker {
        Ticker {
            dispatch,
            schedules: HashMap::new(),
            agenda: BinaryHeap::new(),
            began: now,
            clocks: (now, Instant::now()),
        }
    }

    /// Takes the triggers as they are now.
    fn learn(&mut self, all: &All, now: UnixMs) {
        self.schedules
            .retain(|id, known| all.get(id).is_some_and(|trigger| Arc::ptr_eq(trigger, &known.trigger)));
        let is_new = |trigger: &&Arc<Trigger>| {
            let is_cron = matches!(trigger.on, TriggerOn::Cron { .. });
            is_cron && trigger.enabled && !self.schedules.contains_key(&trigger.id)
        };
        let new: Vec<Arc<Trigger>> = all.values().filter(is_new).cloned().collect();
        if new.is_empty() {
            return;
        }
        let snapshot = match self.dispatch.inner.store.read() {
            Ok(snapshot) => snapshot,
            Err(error) => return tracing::error!(%error, "schedules could not be read"),
        };
        for trigger in new {
            let tick = snapshot.tick(trigger.id).unwrap_or_else(|error| {
                tracing::error!(trigger = %trigger.id, %error, "how far a schedule had come could not be read");
                None
            });
            let begun = Tick { through: trigger.created_at, last: None };
            let through = believable(tick.unwrap_or(begun).through, now, trigger.id);
            let next = timetable(&trigger).and_then(|(timetable, ..)| timetable.next(through));
            self.schedules.insert(trigger.id, Known { trigger: trigger.clone(), through, next });
            self.agenda.extend(next.map(|at| Reverse((at, trigger.id))));
        }
    }

    /// Looks whether the wall clock was set; a schedule that is far ahead of it then goes on by the new one.
    fn notice_step(&mut self, now: UnixMs) {
        let (wall, monotonic) = self.clocks;
        let ran_ms = i64::try_from(monotonic.elapsed().as_millis()).unwrap_or(i64::MAX);
        let stepped_ms = now.0.saturating_sub(wall.0).saturating_sub(ran_ms);
        self.clocks = (now, Instant::now());
        if stepped_ms.abs() <= STEP_MS_MIN {
            return;
        }
        tracing::info!(seconds = stepped_ms / 1000, "the clock was set");
        self.began = self.began.min(now);
        for known in self.schedules.values_mut() {
            let through = believable(known.through, now, known.trigger.id);
            if through != known.through {
                known.through = through;
                known.next = timetable(&known.trigger).and_then(|(timetable, ..)| timetable.next(through));
                self.agenda.extend(known.next.map(|at| Reverse((at, known.trigger.id))));
            }
        }
    }

    /// Strikes all that is due, in one commit. False if that failed: it is still due.
    fn strike(&mut self, now: UnixMs) -> bool {
        let mut strikes = Vec::new();
        for id in self.take_due(now) {
            strikes.extend(self.reckon(id, now));
        }
        if strikes.is_empty() {
            return true;
        }
        let strikes = Arc::new(strikes);
        let posted = strikes.clone();
        match change(&self.dispatch, move |changes| changes.strike(&posted, now)) {
            Ok(struck) => {
                strikes.iter().zip(struck).for_each(|(strike, struck)| self.note(strike, struck));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "ticks could not be kept; they are tried again");
                for strike in strikes.iter() {
                    if let Some(known) = self.schedules.get_mut(&strike.trigger.id) {
                        known.next = Some(now);
                        self.agenda.push(Reverse((now, strike.trigger.id)));
                    }
                }
                false
            }
        }
    }

    fn take_due(&mut self, now: UnixMs) -> Vec<Uuid> {
        let mut due = Vec::new();
        while let Some(Reverse((at, id))) = self.agenda.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.agenda.pop();
            if let Some(known) = self.schedules.get_mut(&id).filter(|known| known.next == Some(at)) {
                known.next = None;
                due.push(id);
            }
        }
        due
    }

    /// What a schedule has come to. `None` if nothing of it is to be kept.
    fn reckon(&mut self, id: Uuid, now: UnixMs) -> Option<Strike> {
        let scheduler = &self.dispatch.inner.scheduler;
        let known = self.schedules.get_mut(&id)?;
        let trigger = known.trigger.clone();
        let (timetable, catch_up, overlap) = timetable(&trigger)?;
        let on_time_since = UnixMs(now.0 - LATE_MS_MAX).max(self.began);
        let Plan { runs, missed, lost, through, next } =
            ticks::plan(&timetable, known.through, now, on_time_since, catch_up);
        known.next = next;
        self.agenda.extend(next.map(|at| Reverse((at, id))));
        if missed > 0 {
            scheduler.tally.missed.fetch_add(lost, Relaxed);
            tracing::warn!(trigger = %id, missed, not_run = lost, "ticks of a schedule were missed");
        }
        if overlap == Overlap::Skip && !runs.is_empty() && scheduler.has_unfinished(id) {
            known.through = through;
            for run in &runs {
                count(&scheduler.tally.overlapped);
                let tick = timetable.print(run.at);
                tracing::info!(trigger = %id, %tick, "a tick was left out: the run of the one before is not over");
            }
            return None;
        }
        (missed > 0 || !runs.is_empty()).then_some(Strike { trigger, runs, through })
    }

    fn note(&mut self, strike: &Strike, struck: Struck) {
        let (id, tally) = (strike.trigger.id, &self.dispatch.inner.scheduler.tally);
        let ticks = u64::try_from(strike.runs.len()).unwrap_or(u64::MAX);
        match struck {
            Struck::Done => {
                tally.run.fetch_add(ticks, Relaxed);
            }
            // The triggers as they are now are in the mail.
            Struck::Outdated => {
                self.schedules.remove(&id);
                return;
            }
            Struck::ScriptGone => {
                tally.refused.fetch_add(ticks, Relaxed);
                let script = strike.trigger.script_id;
                tracing::warn!(trigger = %id, %script, "a tick ran nothing: its script is gone");
            }
            Struck::NoRoom => {
                tally.refused.fetch_add(ticks, Relaxed);
                tracing::warn!(trigger = %id, ticks, "ticks were left out: the outbox or the card is full");
            }
        }
        if let Some(known) = self.schedules.get_mut(&id) {
            known.through = strike.through;
        }
    }

    fn until_next(&self, now: UnixMs) -> Duration {
        self.agenda.peek().map_or(LOOK_EVERY, |Reverse((at, _))| at.since(now).min(LOOK_EVERY))
    }
}

/// How far a schedule has come, unless that is so far ahead that the clock was wrong then.
fn believable(through: UnixMs, now: UnixMs, trigger: Uuid) -> UnixMs {
    if through.0.saturating_sub(now.0) <= AHEAD_MS_MAX {
        return through;
    }
    tracing::warn!(%trigger, ahead = %through, "a schedule was ahead of the clock, and goes on from now");
    now
}

/// What a schedule goes by. `None` for what none is; one that this release cannot read is named in the log.
fn timetable(trigger: &Trigger) -> Option<(Timetable, crate::model::CatchUp, Overlap)> {
    let TriggerOn::Cron { schedule, time_zone, catch_up, overlap } = &trigger.on else { return None };
    match Timetable::new(schedule, time_zone) {
        Ok(timetable) => Some((timetable, *catch_up, *overlap)),
        Err(error) => {
            tracing::error!(trigger = %trigger.id, %schedule, %time_zone, %error, "a schedule cannot be read and never strikes");
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
