//! The dispatcher: when async rows run.
//!
//! Rows that are due wait here until there is room, are claimed (counted, durably, as begun) and go to the
//! workshop. Apps take turns, and none has all the places, so that however many rows one has, another's first one
//! goes next. It wakes by signal, never by polling: a commit rings, a finished run rings, a timer rings. Rows that
//! were running when an earlier process died are suspects: they are claimed one at a time, so that one script
//! which takes the process down does not drag the others to their death.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Dispatch;
use super::holds::Holds;
use crate::model::{Row, UnixMs};
use crate::script::{Lane, Turns, is_fair};

/// Async rows that may be claimed at once: enough to keep the benches busy over a slow commit.
const CLAIMED_MAX: usize = 256;
/// Bytes of rows kept in memory while they wait; beyond it they are read back when they are due.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest sleep: the tick is also a sign of life.
const TICK: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Dispatcher {
    state: Mutex<State>,
    bell: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    ready: Turns<Entry>,
    timers: BinaryHeap<Reverse<Timer>>,
    holds: Holds<Entry>,
    suspects: VecDeque<Entry>,
    suspect_under_way: Option<Uuid>,
    claims: Claims,
    granted: Vec<Entry>,
    held_bytes: usize,
    sequence: u64,
    asleep: bool,
    closing: bool,
    /// Nothing is claimed until this ends.
    resting: bool,
    last_tick: Option<Instant>,
}

/// Places of rows that are claimed, or about to be.
#[derive(Default)]
struct Claims {
    all: usize,
    by_app: HashMap<Uuid, usize>,
}

impl Claims {
    /// Whether this app may have one more.
    fn may(&self, app: &Uuid) -> bool {
        is_fair(self.by_app.get(app).copied().unwrap_or(0), self.all, CLAIMED_MAX)
    }

    fn take(&mut self, app: Uuid) {
        self.all += 1;
        *self.by_app.entry(app).or_default() += 1;
    }

    fn give_back(&mut self, app: Uuid) {
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.by_app.get_mut(&app) {
            *own -= 1;
            if *own == 0 {
                self.by_app.remove(&app);
            }
        }
    }
}

/// What the thread has to do.
struct Due {
    /// Rows to be claimed.
    claims: Vec<Entry>,
    /// Whether the benches would run out of work before the next commit.
    urgent: bool,
    /// Rows whose claim is durable.
    granted: Vec<Entry>,
}

pub(crate) struct Entry {
    pub(crate) tag: Tag,
    /// `None` if it is to be read back when it is due.
    pub(crate) row: Option<Arc<Row>>,
}

/// What is known of a row that is not in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    pub(crate) id: Uuid,
    pub(crate) app: Uuid,
    pub(crate) trigger: Option<Uuid>,
}

impl Tag {
    fn of(row: &Row) -> Tag {
        Tag { id: row.execution_id, app: row.app_id, trigger: row.trigger_id }
    }
}

struct Timer {
    at: Instant,
    sequence: u64,
    entry: Entry,
}

impl Timer {
    fn order(&self) -> (Instant, u64) {
        (self.at, self.sequence)
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Timer) -> bool {
        self.order() == other.order()
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Timer) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Timer) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Starts the thread.
pub(crate) fn start(dispatch: Dispatch) -> std::io::Result<()> {
    let own = dispatch.clone();
    let thread = thread::Builder::new().name("dispatcher".into()).spawn(move || run(&own))?;
    *lock(&dispatch.inner.dispatcher.thread) = Some(thread);
    Ok(())
}

fn run(dispatch: &Dispatch) {
    let dispatcher = &dispatch.inner.dispatcher;
    while let Some(Due { claims, urgent, granted }) = dispatcher.wait() {
        for entry in granted {
            let Entry { tag, row } = entry;
            match row.map_or_else(|| dispatch.load(tag.id), |row| Ok(Some(row))) {
                Ok(Some(row)) => dispatch.run(if row.is_sync() { Lane::Sync } else { Lane::Async }, row),
                // It ended in the meantime: an operator cancelled it.
                Ok(None) => dispatcher.finished(tag.id, tag.app),
                Err(_) => dispatch.put_off(tag),
            }
        }
        if claims.is_empty() {
            continue;
        }
        let ids = claims.iter().map(|entry| entry.tag.id).collect();
        let own = dispatch.clone();
        dispatch.inner.store.claim(ids, urgent, move |claimed| match claimed {
            Ok(()) => own.grant(claims),
            // The card failed; the house is about to stop, and the rows stay where they are.
            Err(error) => tracing::error!(%error, "rows could not be claimed"),
        });
    }
}

impl Dispatch {
    /// Lets claimed rows run, unless the house closes: then they were not begun.
    fn grant(&self, claims: Vec<Entry>) {
        for entry in self.inner.dispatcher.grant(claims) {
            self.inner.store.release(entry.tag.id);
        }
    }

    /// A claimed row could not be read. The card is about to be given up; if not, it is tried again.
    fn put_off(&self, tag: Tag) {
        self.inner.store.release(tag.id);
        self.inner.dispatcher.attempted(tag.id, tag.app);
        self.inner.dispatcher.orphan(tag, UnixMs::now().plus(TICK), TICK);
    }
}

impl Dispatcher {
    /// A place for one more row to be claimed at once, if there is one and no row waits that should have it.
    pub(crate) fn reserve(&self, row: &Row) -> bool {
        let (app, mut state) = (row.app_id, lock(&self.state));
        let wanted = state.ready.len_of(app) > 0 || state.ready.peek(|app| state.claims.may(app)).is_some();
        // What holds the rows of a trigger back is asked when they are due.
        let open = !state.closing && !state.resting;
        let free = open && !wanted && row.trigger_id.is_none() && state.claims.may(&app);
        if free {
            state.claims.take(app);
        }
        free
    }

    /// Gives a reserved place back.
    pub(crate) fn release(&self, app: Uuid) {
        let mut state = lock(&self.state);
        state.claims.give_back(app);
        self.ring(state);
    }

    /// A committed row is due now.
    pub(crate) fn ready(&self, row: Arc<Row>) {
        let mut state = lock(&self.state);
        let entry = state.hold(row);
        state.ready.push(entry.tag.app, entry);
        self.ring(state);
    }

    /// A row is due after `wait`, by the monotonic clock: steps of the wall clock do not move it.
    pub(crate) fn later(&self, row: Arc<Row>, wait: Duration) {
        let mut state = lock(&self.state);
        let entry = state.hold(row);
        state.schedule(entry, wait);
        self.ring(state);
    }

    /// A row that was waiting when an earlier process ended. A wall clock that went backwards must not hold it
    /// for ever, so it never waits longer than `wait_max`.
    pub(crate) fn orphan(&self, tag: Tag, due_at: UnixMs, wait_max: Duration) {
        let wait = due_at.since(UnixMs::now()).min(wait_max);
        lock(&self.state).schedule(Entry { tag, row: None }, wait);
    }

    /// A row that was running when an earlier process ended.
    pub(crate) fn suspect(&self, row: Arc<Row>) {
        let mut state = lock(&self.state);
        let entry = state.hold(row);
        state.suspects.push_back(entry);
    }

    /// The claims are durable: their rows may run. Gives them back if the house closes.
    fn grant(&self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut state = lock(&self.state);
        if state.closing {
            return entries;
        }
        state.granted.extend(entries);
        self.ring(state);
        Vec::new()
    }

    /// A claimed row's attempt is over, and another will follow.
    pub(crate) fn attempted(&self, id: Uuid, app: Uuid) {
        self.give_back(id, app, false);
    }

    /// A claimed row is over.
    pub(crate) fn finished(&self, id: Uuid, app: Uuid) {
        self.give_back(id, app, true);
    }

    fn give_back(&self, id: Uuid, app: Uuid, over: bool) {
        let mut state = lock(&self.state);
        state.claims.give_back(app);
        if state.suspect_under_way == Some(id) {
            state.suspect_under_way = None;
        }
        if over && let Some(next) = state.holds.ended(id) {
            state.ready.push(next.tag.app, next);
        }
        if !state.ready.is_empty() || !state.suspects.is_empty() {
            self.ring(state);
        }
    }

    /// Takes a waiting row out. It has a claimed row's place then, for its end gives one back.
    pub(crate) fn withdraw(&self, id: Uuid) -> Option<Entry> {
        let mut state = lock(&self.state);
        let of = |entry: &Entry| entry.tag.id == id;
        let entry = if let Some(entry) = state.ready.remove(of).or_else(|| state.holds.remove(of)) {
            Some(entry)
        } else if let Some(at) = state.suspects.iter().position(of) {
            state.suspects.remove(at)
        } else {
            let (mut found, rest) =
                std::mem::take(&mut state.timers).into_iter().partition::<Vec<_>, _>(|t| of(&t.0.entry));
            state.timers = rest.into();
            found.pop().map(|timer| timer.0.entry)
        }?;
        state.claims.take(entry.tag.app);
        state.let_go(&entry);
        Some(entry)
    }

    /// Rows of this trigger that are claimed from now on are held until it goes on.
    pub(crate) fn pause(&self, trigger: Uuid) {
        lock(&self.state).holds.pause(trigger);
    }

    /// The trigger goes on: its held rows are due, after what is due already.
    pub(crate) fn resume(&self, trigger: Uuid) {
        self.let_in(|holds| holds.resume(trigger));
    }

    /// Whether only one row of this trigger runs at a time.
    pub(crate) fn set_serial(&self, trigger: Uuid, serial: bool) {
        self.let_in(|holds| holds.set_serial(trigger, serial));
    }

    fn let_in(&self, release: impl FnOnce(&mut Holds<Entry>) -> Vec<Entry>) {
        let mut state = lock(&self.state);
        for entry in release(&mut state.holds) {
            state.ready.push(entry.tag.app, entry);
        }
        self.ring(state);
    }

    /// Rows that are due, rows that wait for their time, and rows that their trigger holds back.
    pub(crate) fn waiting(&self) -> (usize, usize, usize) {
        let state = lock(&self.state);
        (state.ready.len() + state.suspects.len(), state.timers.len(), state.holds.len())
    }

    /// Claims nothing, or again.
    pub(crate) fn rest(&self, resting: bool) {
        lock(&self.state).resting = resting;
    }

    /// Wakes the thread for a look around.
    pub(crate) fn call_up(&self) {
        self.ring(lock(&self.state));
    }

    /// Whether it took a look since `then`, as far as it is there to do so.
    pub(crate) fn looked_up(&self, then: Instant) -> bool {
        let state = lock(&self.state);
        state.closing || state.resting || state.last_tick.is_some_and(|last| last >= then)
    }

    /// Whether its thread ended by itself.
    pub(crate) fn is_dead(&self) -> bool {
        let ended = lock(&self.thread).as_ref().is_some_and(JoinHandle::is_finished);
        ended && !lock(&self.state).closing
    }

    /// Claims nothing more and ends the thread. Gives back the rows that were claimed and will not run.
    pub(crate) fn close(&self) -> Vec<Uuid> {
        let claimed = {
            let mut state = lock(&self.state);
            state.closing = true;
            std::mem::take(&mut state.granted)
        };
        self.bell.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // It only ends by itself; a panic there is already in the log.
            let _ = thread.join();
        }
        claimed.into_iter().map(|entry| entry.tag.id).collect()
    }

    fn ring(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Sleeps until there is something to claim or to run. `None` when the house closes.
    fn wait(&self) -> Option<Due> {
        let mut state = lock(&self.state);
        loop {
            if state.closing {
                return None;
            }
            let now = Instant::now();
            state.last_tick = Some(now);
            state.wake_timers(now);
            let urgent = state.claims.all < CLAIMED_MAX / 2;
            let (claims, granted) = (state.take_claims(), std::mem::take(&mut state.granted));
            if !claims.is_empty() || !granted.is_empty() {
                return Some(Due { claims, urgent, granted });
            }
            let next = state
                .timers
                .peek()
                .map_or(TICK, |Reverse(timer)| timer.at.saturating_duration_since(now).min(TICK));
            state.asleep = true;
            state = self.bell.wait_timeout(state, next).unwrap_or_else(PoisonError::into_inner).0;
            state.asleep = false;
            #[cfg(debug_assertions)]
            {
                drop(state);
                crate::store::wedge::here("dispatcher");
                state = lock(&self.state);
            }
        }
    }
}

impl State {
    fn hold(&mut self, row: Arc<Row>) -> Entry {
        let weight = row.weight();
        let fits = self.held_bytes + weight <= HELD_BYTES_MAX;
        self.held_bytes += if fits { weight } else { 0 };
        Entry { tag: Tag::of(&row), row: fits.then_some(row) }
    }

    fn let_go(&mut self, entry: &Entry) {
        let weight = entry.row.as_ref().map_or(0, |row| row.weight());
        self.held_bytes = self.held_bytes.saturating_sub(weight);
    }

    fn schedule(&mut self, entry: Entry, wait: Duration) {
        self.sequence += 1;
        self.timers.push(Reverse(Timer { at: Instant::now() + wait, sequence: self.sequence, entry }));
    }

    fn wake_timers(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse(timer)| timer.at <= now) {
            if let Some(Reverse(timer)) = self.timers.pop() {
                self.ready.push(timer.entry.tag.app, timer.entry);
            }
        }
    }

    fn take_claims(&mut self) -> Vec<Entry> {
        let mut claims = Vec::new();
        while self.claims.all < CLAIMED_MAX {
            let suspect = if self.suspect_under_way.is_none() { self.next_suspect() } else { None };
            self.suspect_under_way = suspect.as_ref().map(|entry| entry.tag.id).or(self.suspect_under_way);
            let Some(entry) = suspect.or_else(|| self.next_ready()) else { break };
            self.claims.take(entry.tag.app);
            self.let_go(&entry);
            claims.push(entry);
        }
        claims
    }

    /// The next suspect whose trigger is not paused.
    fn next_suspect(&mut self) -> Option<Entry> {
        let goes = |entry: &Entry| !self.holds.is_paused(entry.tag.trigger);
        let at = self.suspects.iter().position(goes)?;
        self.suspects.remove(at)
    }

    /// The next row that is due, whose app may have a place and whose trigger lets it run.
    fn next_ready(&mut self) -> Option<Entry> {
        loop {
            let (_, entry) = self.ready.pop(|app| self.claims.may(app))?;
            let admitted = self.holds.admit(entry.tag.trigger, entry.tag.id, entry);
            if admitted.is_some() {
                return admitted;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing;

    fn app(letter: u8) -> Uuid {
        Uuid::from_u128(letter.into())
    }

    fn row(letter: u8, number: u128) -> Arc<Row> {
        Arc::new(Row { app_id: app(letter), execution_id: Uuid::from_u128(number), ..testing::row() })
    }

    /// So many rows of each app, claimed at once, and how many of each.
    #[track_caller]
    fn check(come: &[(u8, usize)], claimed: &[usize]) {
        let dispatcher = Dispatcher::default();
        for (letter, count) in come {
            (0..*count).for_each(|_| dispatcher.ready(row(*letter, 0)));
        }
        let claims = lock(&dispatcher.state).take_claims();
        let of = |letter: u8| claims.iter().filter(|entry| entry.tag.app == app(letter)).count();
        assert_eq!(come.iter().map(|(letter, _)| of(*letter)).collect::<Vec<_>>(), claimed, "{come:?}");
    }

    #[test]
    fn no_app_has_all_the_places() {
        check(&[], &[]);
        check(&[(b'a', 10)], &[10]);
        check(&[(b'a', 1000)], &[193]);
        check(&[(b'a', 1000), (b'b', 3)], &[190, 3]);
        check(&[(b'a', 1000), (b'b', 1000)], &[110, 110]);
    }

    #[test]
    fn a_flood_does_not_delay_the_row_of_another() {
        let dispatcher = Dispatcher::default();
        (0..1000).for_each(|number| dispatcher.ready(row(b'a', number)));
        let flood = lock(&dispatcher.state).take_claims();
        assert!(!dispatcher.reserve(&row(b'a', 1)), "its earlier rows go first");
        assert!(dispatcher.reserve(&row(b'b', 1)), "there is a place for another at once");
        dispatcher.release(app(b'b'));
        dispatcher.ready(row(b'b', 5000));
        let claims = lock(&dispatcher.state).take_claims();
        assert_eq!(claims.iter().map(|entry| entry.tag.id.as_u128()).collect::<Vec<_>>(), [5000]);
        for entry in flood {
            dispatcher.finished(entry.tag.id, entry.tag.app);
        }
        let next = lock(&dispatcher.state).take_claims();
        assert_eq!(next[0].tag.id.as_u128(), 193, "within an app the first goes first");
    }

    #[test]
    fn places_are_given_back() {
        let dispatcher = Dispatcher::default();
        dispatcher.ready(row(b'a', 1));
        assert!(
            dispatcher.withdraw(Uuid::from_u128(1)).is_some() && dispatcher.withdraw(Uuid::nil()).is_none()
        );
        dispatcher.finished(Uuid::from_u128(1), app(b'a'));
        let state = lock(&dispatcher.state);
        assert!(state.claims.all == 0 && state.claims.by_app.is_empty() && state.held_bytes == 0);
    }

    #[test]
    fn what_a_trigger_holds_back_takes_no_place() {
        let (dispatcher, trigger) = (Dispatcher::default(), Uuid::from_u128(7));
        let of_trigger = |number| {
            let row = row(b'a', number).as_ref().clone();
            Arc::new(Row { trigger_id: Some(trigger), ..row })
        };
        let claimed = || {
            let claims = lock(&dispatcher.state).take_claims();
            claims.iter().map(|entry| entry.tag.id.as_u128()).collect::<Vec<_>>()
        };
        dispatcher.set_serial(trigger, true);
        (1..4).for_each(|number| dispatcher.ready(of_trigger(number)));
        dispatcher.ready(row(b'a', 9));
        assert_eq!((claimed(), dispatcher.waiting()), (vec![1, 9], (0, 0, 2)));
        assert!(!dispatcher.reserve(&of_trigger(5)), "it goes through the line");
        dispatcher.finished(Uuid::from_u128(1), app(b'a'));
        assert_eq!(claimed(), [2]);
        dispatcher.pause(trigger);
        dispatcher.finished(Uuid::from_u128(2), app(b'a'));
        assert_eq!(claimed(), [0; 0]);
        assert!(dispatcher.withdraw(Uuid::from_u128(3)).is_some(), "what is held can be cancelled");
        dispatcher.finished(Uuid::from_u128(3), app(b'a'));
        dispatcher.ready(of_trigger(4));
        assert_eq!((claimed(), dispatcher.waiting()), (vec![], (0, 0, 1)));
        dispatcher.resume(trigger);
        assert_eq!(claimed(), [4]);
    }
}
