//! The watch: tells systemd the truth about the daemon.
//!
//! A sign of life goes out only after the pipeline has proved itself since the last one: a command went through the
//! writer, the dispatcher looked up, not every bench is past its time, and the event loop ran a task. A timer would prove
//! that the timer works. A card that takes long is work, not a wedge, and so are runs within their time.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::starts::Starts;
use super::systemd;
use crate::dispatch::Dispatch;
use crate::store::Store;

/// The longest time between two looks.
const BEAT: Duration = Duration::from_secs(5);
/// A card may take so long for one sync. Beyond it, only another start can help.
const SYNC_MAX: Duration = Duration::from_secs(120);
/// Opening and closing are given so much time at each look, as long as they get on.
const EXTENSION: Duration = Duration::from_secs(30);
/// For so long they may seem to get on nowhere.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

const OPENING: &str = "opening the store";

/// What is proved.
#[derive(Clone)]
pub(super) struct Pipeline {
    /// Its writer.
    pub(super) store: Store,
    /// Its dispatcher and its benches.
    pub(super) dispatch: Dispatch,
    /// Its event loop.
    pub(super) runtime: Handle,
}

/// A handle on the watch.
#[derive(Clone)]
pub(super) struct Watch(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

struct State {
    phase: Phase,
    is_new: bool,
    /// What the last reload complained of.
    complaint: Option<String>,
    starts: Starts,
}

#[derive(Clone)]
enum Phase {
    /// The store is opened, perhaps migrated.
    Opening,
    /// Requests are answered.
    Open(Box<Pipeline>),
    /// What is under way has until then.
    Closing(Instant),
    /// Nothing is told any more.
    Over,
}

impl Watch {
    /// Begins to watch a house that is being opened, if systemd wants to know.
    pub(super) fn start(starts: Starts) -> std::io::Result<Watch> {
        let state = State { phase: Phase::Opening, is_new: true, complaint: None, starts };
        let watch = Watch(Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() }));
        if systemd::is_there() {
            let own = watch.clone();
            thread::Builder::new().name("watch".into()).spawn(move || own.run())?;
        }
        Ok(watch)
    }

    /// The house is opened, for the first time or again.
    pub(super) fn opening(&self) {
        systemd::extend(EXTENSION);
        systemd::status(OPENING);
        self.turn(Phase::Opening);
    }

    /// The house is open. Tells systemd, with how things are.
    pub(super) fn open(&self, pipeline: Pipeline) {
        let complaint = self.lock().complaint.clone();
        systemd::ready(&describe(&pipeline, complaint.as_deref()));
        self.turn(Phase::Open(Box::new(pipeline)));
    }

    /// The house closes: what is under way has until then, and the store a little longer.
    pub(super) fn closing(&self, until: Instant) {
        self.turn(Phase::Closing(until));
    }

    /// The last line was told by another.
    pub(super) fn over(&self) {
        self.turn(Phase::Over);
    }

    /// The configuration was read again, with this complaint if any. Tells systemd.
    pub(super) fn reloaded(&self, complaint: Option<String>) {
        let mut state = self.lock();
        state.complaint = complaint;
        match &state.phase {
            // It proves nothing of the pipeline: the watch goes on as it was.
            Phase::Open(pipeline) => systemd::ready(&describe(pipeline, state.complaint.as_deref())),
            // Whoever opens the house will tell.
            Phase::Opening | Phase::Closing(_) | Phase::Over => {}
        }
    }

    /// This start ends before it did anything, and not by a crash.
    pub(super) fn take_back(&self) {
        self.lock().starts.take_back();
    }

    /// Starts that did not end well are forgiven.
    pub(super) fn forgive(&self) {
        self.lock().starts.forgive();
    }

    fn turn(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        state.is_new = true;
        drop(state);
        self.0.news.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self) {
        let period = systemd::watchdog();
        // Several looks in a period: one that comes late is not the end.
        let beat = period.map_or(BEAT, |period| (period / 4).min(BEAT));
        let mut look = Look { period, proof: None, last_told: String::new(), was_resting: false };
        let mut passage = Passage::new();
        loop {
            let (phase, is_new, complaint) = self.next(beat);
            if is_new {
                (look.proof, look.last_told, passage) = (None, String::new(), Passage::new());
            }
            match phase {
                Phase::Opening => passage.go_on(OPENING, Instant::now()),
                Phase::Closing(until) => passage.go_on("stopping: what is under way is finished", until),
                Phase::Open(pipeline) => {
                    look.at(&pipeline, complaint.as_deref());
                    if std::mem::replace(&mut look.was_resting, pipeline.dispatch.is_resting())
                        && !look.was_resting
                    {
                        self.forgive();
                    }
                }
                Phase::Over => {}
            }
        }
    }

    /// Waits for the next beat, or for news.
    fn next(&self, beat: Duration) -> (Phase, bool, Option<String>) {
        let state = self.lock();
        let waited = self.0.news.wait_timeout_while(state, beat, |state| !state.is_new);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let is_new = std::mem::take(&mut state.is_new);
        (state.phase.clone(), is_new, state.complaint.clone())
    }
}

/// What was seen of an open house.
struct Look {
    period: Option<Duration>,
    proof: Option<Proof>,
    last_told: String,
    was_resting: bool,
}

impl Look {
    fn at(&mut self, pipeline: &Pipeline, complaint: Option<&str>) {
        self.prove(pipeline);
        let text = describe(pipeline, complaint);
        if text != self.last_told {
            systemd::status(&text);
            self.last_told = text;
        }
    }

    fn prove(&mut self, pipeline: &Pipeline) {
        let Some(period) = self.period else { return };
        if pipeline.dispatch.is_dead() {
            tracing::error!("the dispatcher is gone: PiCloud is to be restarted");
            return systemd::broken();
        }
        let Some(proof) = &mut self.proof else {
            // The house was opened just now; whoever opened it proved it by that.
            systemd::alive();
            self.proof = Some(Proof::ask(pipeline));
            return;
        };
        let missing = proof.missing(pipeline);
        if missing.is_empty() {
            systemd::alive();
            *proof = Proof::ask(pipeline);
        } else if proof.asked.elapsed() > period / 2 && !proof.is_told {
            proof.is_told = true;
            let missing = missing.join(", ");
            tracing::error!("no sign of life of {missing}: systemd restarts PiCloud soon, unless one comes");
        }
    }
}

/// What was asked of the pipeline, and what has come back.
struct Proof {
    asked: Instant,
    writer: Arc<AtomicBool>,
    event_loop: Arc<AtomicBool>,
    /// Writes to the card, when it was asked.
    writes: u64,
    is_told: bool,
}

impl Proof {
    fn ask(pipeline: &Pipeline) -> Proof {
        let (writer, event_loop) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (wrote, ran) = (writer.clone(), event_loop.clone());
        let (asked, writes) = (Instant::now(), writes(pipeline));
        // A store that is closed answers, too; that it is broken is for others to say.
        pipeline.store.probe(move |_| wrote.store(true, Relaxed));
        pipeline.runtime.spawn(async move { ran.store(true, Relaxed) });
        pipeline.dispatch.call_up();
        Proof { asked, writer, event_loop, writes, is_told: false }
    }

    fn missing(&mut self, pipeline: &Pipeline) -> Vec<&'static str> {
        let writes = writes(pipeline);
        let syncs = pipeline.store.card().syncing_for().is_some_and(|time| time < SYNC_MAX);
        let writes_on = std::mem::replace(&mut self.writes, writes) != writes;
        let parts = [
            ("the writer", self.writer.load(Relaxed) || syncs || writes_on),
            ("the dispatcher", pipeline.dispatch.looked_up(self.asked)),
            ("the benches", pipeline.dispatch.executor().is_live(Instant::now())),
            ("the event loop", self.event_loop.load(Relaxed)),
        ];
        parts.iter().filter(|(_, is_proved)| !is_proved).map(|(part, _)| *part).collect()
    }
}

fn writes(pipeline: &Pipeline) -> u64 {
    pipeline.store.card().writes.load(Relaxed)
}

/// How an open house is, in a line.
fn describe(pipeline: &Pipeline, complaint: Option<&str>) -> String {
    let Pipeline { store, dispatch, .. } = pipeline;
    let (ready, ..) = dispatch.waiting();
    let due = ready + dispatch.executor().load().0;
    let (scripts, dead) = (store.catalog().scripts.len(), store.load().dead_letters.load(Relaxed));
    let mut text = String::new();
    if dispatch.is_resting() {
        text += "SAFE MODE, no script runs until `picloud resume`; ";
    }
    if store.space().full(Instant::now()).is_some() {
        text += "CARD FULL; ";
    }
    text += &format!("{scripts} scripts, {due} due, {dead} dead");
    if let Some(complaint) = complaint {
        text += &format!("; {complaint}");
    }
    text
}

/// Opening or closing, which take what they take, as long as they get on.
struct Passage {
    io: String,
    moved: Instant,
}

impl Passage {
    fn new() -> Passage {
        Passage { io: String::new(), moved: Instant::now() }
    }

    /// Asks systemd for more time. What is to last until `until` gets on until then.
    fn go_on(&mut self, what: &str, until: Instant) {
        let (now, io) = (Instant::now(), io_done());
        if io != self.io {
            (self.io, self.moved) = (io, now);
        }
        if now.duration_since(self.moved) < STANDSTILL_MAX || now < until {
            systemd::extend(until.saturating_duration_since(now) + EXTENSION);
            systemd::alive();
            systemd::status(what);
        }
    }
}

/// What the process has read from the card and written to it, as proc_pid_io(5) counts it; a text to be compared. Its
/// other counters go up by being read.
fn io_done() -> String {
    let counters = fs::read_to_string("/proc/self/io").unwrap_or_default();
    counters
        .lines()
        .filter(|line| line.starts_with("read_bytes") || line.starts_with("write_bytes"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn to_look_is_not_to_get_on() {
        let counted = |done: &str| done.matches(": ").count();
        // Other tests of this process may write meanwhile, but not always.
        let stands = (0..100).any(|_| {
            let (once, again) = (io_done(), io_done());
            assert_eq!(counted(&once), 2, "{once}");
            once == again
        });
        assert!(stands);
        let before = io_done();
        let path = std::env::current_dir().unwrap().join(format!("target/moved-{}", std::process::id()));
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(&[1; 65536]).and_then(|()| file.sync_all()).unwrap();
        fs::remove_file(path).unwrap();
        assert_ne!(io_done(), before);
    }
}
