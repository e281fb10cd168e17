//! The threads at the benches: how one finds its next run, makes it, and keeps watch while others are busy.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Finished, Job, Lane, Running, Shared, Verdict, WAIT_SLACK, leave, lock};
use crate::model::LogLine;
use crate::script::library::Resolved;
use crate::script::run::{Control, Fault, FaultKind, Input, Outcome};
use crate::script::waiting::{Last, Queue};
use crate::script::{Bench, stack_bytes};

/// A run that waited this long for a working bench gets another one.
const WATCH: Duration = Duration::from_millis(1);
/// How long a bench without work stays awake.
const LINGER: Duration = Duration::from_micros(30);
/// The watch ends after so many looks at an empty queue.
const WATCH_QUIET: u32 = 20;
/// A run whose reads are changed by others is made so often, all in all.
const RUNS_MAX: u32 = 20;
/// How long a bench goes without a thread before the next attempt, where there was none to be had.
const RELIEF_PAUSE: Duration = Duration::from_secs(1);

/// Gives benches whose threads have become too nice fresh ones, until the workshop is gone. A thread is as nice as the
/// one that starts it, so this is one that runs no scripts.
pub(super) fn relieve(spent: Receiver<Worker>) {
    for worker in spent {
        while let Err(error) = worker.put_to_bench() {
            tracing::error!(%error, "no thread to run scripts on; trying again");
            thread::sleep(RELIEF_PAUSE);
        }
    }
}

/// Who works at one bench.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
}

impl Worker {
    pub(super) fn start(self) -> std::io::Result<JoinHandle<()>> {
        let stack = stack_bytes(self.shared.settings.ceilings.memory_bytes);
        let builder = thread::Builder::new().name(format!("bench-{}", self.number)).stack_size(stack);
        builder.spawn(move || self.run())
    }

    /// Begins, in place of the thread that was here.
    fn put_to_bench(&self) -> std::io::Result<()> {
        let mut threads = lock(&self.shared.threads);
        // Whoever closes the workshop has taken the threads, to wait for them: then no more are needed.
        if let Some(own) = threads.get_mut(self.number) {
            *own = self.clone().start()?;
        }
        Ok(())
    }

    fn run(self) {
        // Most threads of a quiet device never run anything.
        let mut bench = None;
        let mut last = None;
        while let Some((lane, job)) = self.take(last) {
            let of = (lane, job.row.app_id);
            last = Some(of);
            let bench = bench.get_or_insert_with(|| self.bench());
            self.work(bench, of, job);
            if bench.is_spent() && self.is_relieved(last) {
                return;
            }
        }
    }

    /// Leaves the bench to a fresh thread, which is on its way. False if this one has to go on.
    fn is_relieved(&self, last: Option<Last>) -> bool {
        let mut queue = lock(&self.shared.queue);
        let relieved = !queue.closing && self.shared.relief.send(self.clone()).is_ok();
        if relieved {
            queue.give_back(last);
        }
        relieved
    }

    fn bench(&self) -> Bench {
        let shared = &self.shared;
        Bench::among(shared.places.clone(), leave(shared, self.number)).equipped(shared.messenger.clone())
    }

    /// The next run. `last` is the one that this bench just ended.
    fn take(&self, last: Option<Last>) -> Option<(Lane, Job)> {
        let shared = &*self.shared;
        let mut queue = lock(&shared.queue);
        queue.give_back(last);
        loop {
            if self.number >= shared.benches && queue.aside() == 0 && !queue.closing {
                queue = self.stand_by(queue);
                continue;
            }
            // Who is here counts as working: with all cores busy already, this one is the watch.
            if !queue.watched && shared.working(&queue) > shared.cores && !queue.closing {
                queue = self.keep_watch(queue);
            }
            if let Some(next) = queue.next(|app| shared.bound(app)) {
                // Whoever came while there was a watch was not announced to anyone else.
                shared.rouse(&queue);
                return Some(next);
            }
            if queue.closing {
                return None;
            }
            drop(queue);
            queue = self.linger();
            if queue.may_take() || queue.closing {
                continue;
            }
            if self.number >= shared.benches {
                queue = self.stand_by(queue);
                continue;
            }
            queue.asleep += 1;
            queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.asleep -= 1;
        }
    }

    /// Sleeps until a run is aside and another one waits.
    fn stand_by<'q>(&self, mut queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue>
    where
        Self: 'q,
    {
        queue.spare_asleep += 1;
        // What this one does not take is for others.
        self.shared.rouse(&queue);
        let mut queue = self.shared.wake_spare.wait(queue).unwrap_or_else(PoisonError::into_inner);
        queue.spare_asleep -= 1;
        queue
    }

    /// Gives way to whoever may bring the next run, for about as long as falling asleep and being woken would take.
    fn linger(&self) -> MutexGuard<'_, Queue> {
        let until = Instant::now() + LINGER;
        loop {
            thread::yield_now();
            let queue = lock(&self.shared.queue);
            if queue.may_take() || queue.closing || Instant::now() >= until {
                return queue;
            }
        }
    }

    /// Waits until a run is found waiting twice in a row, or nothing has waited for a while.
    fn keep_watch<'q>(&self, mut queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue> {
        let shared = &*self.shared;
        queue.watched = true;
        let mut quiet = 0;
        loop {
            let first = queue.first();
            queue = shared.watch.wait_timeout(queue, WATCH).unwrap_or_else(PoisonError::into_inner).0;
            let busy = queue.may_take();
            let stuck = busy && queue.first() == first;
            quiet = if busy { 0 } else { quiet + 1 };
            if stuck || quiet >= WATCH_QUIET || queue.closing {
                queue.watched = false;
                return queue;
            }
        }
    }

    fn work(&self, bench: &mut Bench, of: Last, mut job: Job) {
        let row = job.row.clone();
        let queue_wait = job.queued_at.elapsed();
        let timeout = Duration::from_millis(u64::from(row.timeout_ms));
        if row.is_sync() && queue_wait > timeout + WAIT_SLACK {
            return job.refuse(FaultKind::Timeout, "waited too long for a free bench");
        }
        let Resolved { program, version, limits } = match self.shared.world.library.of_row(&row) {
            Ok(resolved) => resolved,
            Err(fault) => {
                return job.end(Finished { version: 0, queue_wait, outcome: Outcome::refused(fault) });
            }
        };
        let control = Control::default();
        let deadline = Instant::now() + timeout;
        let (execution, ends_by) = (row.execution_id, deadline + WAIT_SLACK);
        let running = Running { execution, of, control: control.clone(), ends_by };
        *lock(&self.shared.desks[self.number]) = Some(running);
        crate::store::wedge::here("executor");
        for run in 0..RUNS_MAX {
            let world = Some(self.shared.world.clone());
            let input = Input { row: row.clone(), deadline, world };
            let mut outcome = bench.run(&program, input, &limits, &control);
            self.shared.tally.runs.fetch_add(1, Relaxed);
            if outcome.leaked_bytes > 0 {
                self.count_leak(&mut outcome);
            }
            let stale = matches!(&outcome.result, Err(fault) if fault.kind == FaultKind::Conflict);
            if !stale && (job.done)(Finished { outcome, version, queue_wait }) == Verdict::Ended {
                *lock(&self.shared.desks[self.number]) = None;
                return;
            }
            self.shared.tally.conflicts.fetch_add(1, Relaxed);
            give_way(run);
        }
        *lock(&self.shared.desks[self.number]) = None;
        let message = format!("others changed what this reads, {RUNS_MAX} times in a row");
        let fault = Fault { reason: Some("conflict"), ..Fault::new(FaultKind::Overloaded, message) };
        job.end(Finished { outcome: Outcome::refused(fault), version, queue_wait });
    }

    /// A run left bytes behind that nothing will free: its author is told, and past a bound the house.
    fn count_leak(&self, outcome: &mut Outcome) {
        let bytes = u64::try_from(outcome.leaked_bytes).unwrap_or(0);
        let offset_ms = u32::try_from(outcome.duration.as_millis()).unwrap_or(u32::MAX);
        let message =
            format!("this run left {bytes} bytes behind: closures that hold each other are never freed");
        outcome.logs.push(LogLine { level: "warn".into(), message, offset_ms });
        let before = self.shared.tally.leaked_bytes.fetch_add(bytes, Relaxed);
        let most = self.shared.settings.leaked_bytes_max;
        if before <= most && before + bytes > most {
            (self.shared.on_leak)(before + bytes);
        }
    }
}

/// Lets those go first who were faster: by each run a little longer, so that somebody always ends.
fn give_way(runs: u32) {
    match runs {
        0..4 => thread::yield_now(),
        _ => thread::sleep(Duration::from_micros(50 << runs.min(7))),
    }
}
