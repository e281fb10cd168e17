//! Processor places: how much of the machine heavy runs may have at once.
//!
//! A run that has used the processor for some milliseconds is heavy. Heavy runs share all cores but one: one without
//! a place waits for its turn, and one that has had its slice hands the place on, app by app. So a script that loops,
//! in as many runs as its app may have, leaves a core to those that want to answer at once. A run that sleeps holds
//! no place, and one that waits for its turn still ends at its deadline.
//!
//! The kernel leaves a core to whom it runs for some milliseconds, whoever wakes meanwhile; so from its first on a
//! run offers its core to others at every look, and they wait for microseconds. A heavy run that nobody waits for also
//! becomes nice: it works in the time that others leave. Only the superuser may take that back, so the thread must end
//! with its run ([`Share::is_spent`]).
//!
//! Benches call this from within a run, whose memory is metered: nothing is allocated after [`Places::new`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::process::nice;
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// A run is heavy from so much time of the processor on.
const LIGHT: Duration = Duration::from_millis(10);
/// The same for an app that has heavy runs already.
const LIGHT_BESIDE_HEAVY: Duration = Duration::from_millis(1);
/// A place is handed on after so long, if somebody waits.
const SLICE: Duration = Duration::from_millis(10);
/// How long a run that waits goes without looking whether it must end.
const LOOK: Duration = Duration::from_millis(5);
/// How much nicer a heavy run is that nobody waits for: it has a tenth of an equal share, so that it still gets on.
const NICER: i32 = 10;

/// The places of one workshop.
pub(super) struct Places {
    state: Mutex<State>,
    heavy: AtomicUsize,
    /// Called when one more run is heavy: its bench will not take a short one soon.
    on_heavy: OnHeavy,
}

/// Told of each run that becomes heavy.
pub(super) type OnHeavy = Box<dyn Fn() + Send + Sync>;

struct State {
    free: usize,
    /// Counts places given, to tell whose app had its turn longest ago.
    given: u64,
    apps: Vec<HeavyApp>,
    waiting: Vec<Waiting>,
}

/// An app with heavy runs.
struct HeavyApp {
    app: Uuid,
    runs: usize,
    served: u64,
}

struct Waiting {
    app: Uuid,
    ticket: Arc<Ticket>,
}

/// By which a bench that waits learns that a place is its own.
struct Ticket {
    granted: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// What the run on one bench has had of the processor.
pub(super) struct Share {
    places: Option<Arc<Places>>,
    ticket: Arc<Ticket>,
    app: Uuid,
    stage: Stage,
    /// When there is something to be looked at; `None` if never.
    due_at: Option<Instant>,
    seated: bool,
    waited_for: bool,
    spent: bool,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// It has just begun.
    Fresh,
    /// It had used [`LIGHT_BESIDE_HEAVY`] when the thread's clock stood so.
    Light(Duration),
    /// It needs a place.
    Heavy,
}

impl Places {
    /// `free` places for at most `benches` runs.
    pub(super) fn new(free: usize, benches: usize, on_heavy: OnHeavy) -> Places {
        let (apps, waiting) = (Vec::with_capacity(benches), Vec::with_capacity(benches));
        let state = State { free: free.max(1), given: 0, apps, waiting };
        Places { state: Mutex::new(state), heavy: AtomicUsize::new(0), on_heavy }
    }

    /// Runs that are heavy now.
    pub(super) fn heavy(&self) -> usize {
        self.heavy.load(Relaxed)
    }

    fn has_heavy(&self, app: Uuid) -> bool {
        self.heavy() > 0 && self.lock().apps.iter().any(|heavy| heavy.app == app)
    }

    fn one_more(&self, app: Uuid) {
        let mut state = self.lock();
        let served = state.given;
        match state.apps.iter_mut().find(|heavy| heavy.app == app) {
            Some(heavy) => heavy.runs += 1,
            None => state.apps.push(HeavyApp { app, runs: 1, served }),
        }
        drop(state);
        self.heavy.fetch_add(1, Relaxed);
        (self.on_heavy)();
    }

    fn one_less(&self, app: Uuid) {
        let mut state = self.lock();
        if let Some(heavy) = state.apps.iter_mut().find(|heavy| heavy.app == app) {
            heavy.runs -= 1;
        }
        state.apps.retain(|heavy| heavy.runs > 0);
        drop(state);
        self.heavy.fetch_sub(1, Relaxed);
    }

    fn is_wanted(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Waits for a place until there is one, or until `over`. True if there is one.
    fn enter(&self, app: Uuid, ticket: &Arc<Ticket>, mut over: impl FnMut() -> bool) -> bool {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            state.serve(app);
            return true;
        }
        ticket.granted.store(false, Relaxed);
        *ticket.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        state.waiting.push(Waiting { app, ticket: ticket.clone() });
        drop(state);
        loop {
            thread::park_timeout(LOOK);
            if ticket.granted.load(Relaxed) {
                return true;
            }
            if over() {
                self.give_up(ticket);
                return false;
            }
        }
    }

    /// Waits no longer; a place that came meanwhile goes to the next.
    fn give_up(&self, ticket: &Arc<Ticket>) {
        let mut state = self.lock();
        match state.waiting.iter().position(|waiting| Arc::ptr_eq(&waiting.ticket, ticket)) {
            Some(at) => drop(state.waiting.remove(at)),
            None => state.pass_on(),
        }
    }

    fn leave(&self) {
        self.lock().pass_on();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A place is free: whose app has waited longest gets it.
    fn pass_on(&mut self) {
        let served = |waiting: &Waiting| self.apps.iter().find(|heavy| heavy.app == waiting.app);
        let served = |waiting: &Waiting| served(waiting).map_or(0, |heavy| heavy.served);
        let next = (0..self.waiting.len()).min_by_key(|at| served(&self.waiting[*at]));
        let Some(next) = next.map(|at| self.waiting.remove(at)) else {
            self.free += 1;
            return;
        };
        self.serve(next.app);
        next.ticket.granted.store(true, Relaxed);
        if let Some(thread) = &*next.ticket.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    fn serve(&mut self, app: Uuid) {
        self.given += 1;
        if let Some(heavy) = self.apps.iter_mut().find(|heavy| heavy.app == app) {
            heavy.served = self.given;
        }
    }
}

impl Share {
    /// The account of a bench; without places every run has all it wants.
    pub(super) fn new(places: Option<Arc<Places>>) -> Share {
        let ticket = Arc::new(Ticket { granted: AtomicBool::new(false), thread: Mutex::new(None) });
        Share {
            places,
            ticket,
            app: Uuid::nil(),
            stage: Stage::Fresh,
            due_at: None,
            seated: false,
            waited_for: true,
            spent: false,
        }
    }

    /// A run of this app begins; `waited_for` if somebody wants its answer.
    pub(super) fn begin(&mut self, app: Uuid, waited_for: bool, now: Instant) {
        self.app = app;
        self.waited_for = waited_for;
        self.stage = Stage::Fresh;
        self.due_at = self.places.is_some().then(|| now + LIGHT_BESIDE_HEAVY);
    }

    /// Whether [`Share::settle`] has something to do.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at.is_some_and(|due_at| now >= due_at)
    }

    /// Whether the run has gone on for so long that it lets others go first.
    pub(super) fn is_long(&self) -> bool {
        self.stage != Stage::Fresh
    }

    /// Waits, if it is the turn of others. False if the run was `over` before its own came.
    pub(super) fn settle(&mut self, now: Instant, over: impl FnMut() -> bool) -> bool {
        let Some(places) = self.places.clone() else { return true };
        match self.stage {
            // However long that took, its own doing is only what the thread's clock says from here on.
            Stage::Fresh if !places.has_heavy(self.app) => {
                self.stage = Stage::Light(thread_time());
                self.due_at = Some(now + LIGHT.saturating_sub(LIGHT_BESIDE_HEAVY));
                return true;
            }
            Stage::Light(since) => {
                let used = LIGHT_BESIDE_HEAVY + thread_time().saturating_sub(since);
                if used < LIGHT {
                    self.due_at = Some(now + (LIGHT - used));
                    return true;
                }
                self.become_heavy(&places);
            }
            Stage::Fresh => self.become_heavy(&places),
            Stage::Heavy => {}
        }
        if self.seated && places.is_wanted() {
            self.rest();
        }
        if !self.seated {
            self.seated = places.enter(self.app, &self.ticket, over);
        }
        self.due_at = Some(Instant::now() + SLICE);
        self.seated
    }

    /// The run will not use the processor for a while.
    pub(super) fn rest(&mut self) {
        if std::mem::take(&mut self.seated)
            && let Some(places) = &self.places
        {
            places.leave();
            // It asks for a place as soon as it goes on.
            self.due_at = Some(Instant::now());
        }
    }

    /// The run is over.
    pub(super) fn end(&mut self) {
        self.rest();
        if std::mem::replace(&mut self.stage, Stage::Fresh) == Stage::Heavy
            && let Some(places) = &self.places
        {
            places.one_less(self.app);
        }
        self.due_at = None;
    }

    fn become_heavy(&mut self, places: &Places) {
        self.stage = Stage::Heavy;
        if !self.waited_for && !self.spent {
            // Of this thread alone. Where it is forbidden the run competes with others as an equal.
            self.spent = nice(NICER).is_ok();
        }
        places.one_more(self.app);
    }

    /// Whether the thread has become nice, and should make nothing else.
    pub(super) fn is_spent(&self) -> bool {
        self.spent
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share").field("app", &self.app).field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// How long this thread has had a processor in all.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn app(letter: u8) -> Uuid {
        Uuid::from_u128(letter.into())
    }

    fn places(free: usize) -> Arc<Places> {
        Arc::new(Places::new(free, 8, Box::new(|| ())))
    }

    /// A run of this app that is heavy and has a place, if there is one.
    fn heavy(places: &Arc<Places>, letter: u8, over: impl FnMut() -> bool) -> Share {
        let (mut share, now) = (Share::new(Some(places.clone())), Instant::now());
        share.begin(app(letter), true, now);
        share.become_heavy(places);
        share.settle(now, over);
        share
    }

    /// Heavy runs come in this order and each passes its place on: who gets it when.
    #[track_caller]
    fn check(come: &str, go: &str) {
        let places = places(1);
        let mut first = heavy(&places, b'-', || false);
        let (tell, told) = mpsc::channel();
        let threads: Vec<_> = (1..)
            .zip(come.bytes())
            .map(|(number, letter)| {
                let (own, tell) = (places.clone(), tell.clone());
                let thread = thread::spawn(move || {
                    let mut share = heavy(&own, letter, || false);
                    tell.send(char::from(letter)).unwrap();
                    share.end();
                });
                while places.lock().waiting.len() < number {
                    thread::yield_now();
                }
                thread
            })
            .collect();
        first.end();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(tell);
        assert_eq!(told.iter().collect::<String>(), go, "{come}");
        assert_eq!((places.heavy(), places.lock().free), (0, 1));
    }

    #[test]
    fn places_go_round_by_app() {
        check("a", "a");
        check("aaab", "abaa");
        check("aabbc", "abcab");
    }

    #[test]
    fn a_short_run_needs_no_place() {
        let places = places(1);
        let mut long = heavy(&places, b'a', || false);
        let (mut short, now) = (Share::new(Some(places.clone())), Instant::now());
        short.begin(app(b'b'), true, now);
        assert!(!short.is_due(now), "it has just begun");
        assert!(short.is_due(now + LIGHT_BESIDE_HEAVY));
        assert!(short.settle(now + LIGHT_BESIDE_HEAVY, || unreachable!("it does not wait")));
        // A long time by the clock on the wall, but it had no processor.
        assert!(short.settle(now + LIGHT * 9, || unreachable!("it does not wait")));
        assert_eq!(places.heavy(), 1);
        short.end();
        long.end();
        assert_eq!((places.heavy(), places.lock().free), (0, 1));
    }

    #[test]
    fn an_app_with_heavy_runs_gets_less_for_nothing() {
        let places = places(2);
        let mut long = heavy(&places, b'a', || false);
        let (mut next, now) = (Share::new(Some(places.clone())), Instant::now());
        next.begin(app(b'a'), true, now);
        assert!(next.settle(now + LIGHT_BESIDE_HEAVY, || false));
        assert_eq!(places.heavy(), 2);
        next.end();
        long.end();
    }

    #[test]
    fn who_waits_still_ends_when_it_must() {
        let places = places(1);
        let mut long = heavy(&places, b'a', || false);
        let mut late = heavy(&places, b'b', || true);
        assert!(!late.seated && places.lock().waiting.is_empty());
        late.end();
        assert_eq!((places.heavy(), places.lock().free), (1, 0));
        long.end();
        assert_eq!(places.lock().free, 1);
    }

    #[test]
    fn who_sleeps_leaves_its_place() {
        let places = places(1);
        let mut sleeper = heavy(&places, b'a', || false);
        sleeper.rest();
        assert_eq!((places.heavy(), places.lock().free), (1, 1));
        assert!(sleeper.is_due(Instant::now()), "it asks again when it goes on");
        assert!(sleeper.settle(Instant::now(), || false) && places.lock().free == 0);
        sleeper.end();
        sleeper.end();
        assert_eq!((places.heavy(), places.lock().free), (0, 1));
    }

    #[test]
    fn a_heavy_run_that_nobody_waits_for_is_nice() {
        let nice_after = |waited_for| {
            let work = move || {
                let (places, now) = (places(1), Instant::now());
                let mut share = Share::new(Some(places.clone()));
                share.begin(app(b'a'), waited_for, now);
                share.become_heavy(&places);
                share.end();
                (share.is_spent(), rustix::process::getpriority_process(None).unwrap())
            };
            thread::spawn(work).join().unwrap()
        };
        let before = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(nice_after(true), (false, before));
        assert_eq!(nice_after(false), (true, (before + NICER).min(19)));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before, "of its own thread only");
    }

    #[test]
    fn without_places_nothing_is_heavy() {
        let (mut share, now) = (Share::new(None), Instant::now());
        share.begin(app(b'a'), true, now);
        assert!(!share.is_due(now + LIGHT * 100));
        share.end();
    }
}
