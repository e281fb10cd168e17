//! The waiting room of the workshop: two lanes of runs, a turn for each app in them, and who may have a bench.

use uuid::Uuid;

use super::executor::{Job, Lane};
use super::run::FaultKind;
use super::turns::{Turns, is_fair};

/// After so many sync runs in a row a waiting async run gets its turn.
const SYNC_TURNS: u32 = 8;
/// From so many benches on, an app that says nothing leaves some to the others.
const BENCHES_SHARED: usize = 4;

/// Runs that wait, and what is known of those that do not.
pub(super) struct Queue {
    sync: Turns<Job>,
    background: Turns<Job>,
    background_running: usize,
    sync_turns: u32,
    at_work: AtWork,
    aside_max: usize,
    pub(super) asleep: usize,
    pub(super) spare_asleep: usize,
    pub(super) watched: bool,
    pub(super) closing: bool,
}

/// Runs that were taken and have not ended, by app. As few as there are benches.
struct AtWork {
    benches: usize,
    taken: usize,
    /// Runs that wait for something else: they are not among the taken.
    aside: usize,
    apps: Vec<OfApp>,
}

struct OfApp {
    app: Uuid,
    runs: usize,
    /// Runs that wait for something else; they are not among `runs`.
    aside: usize,
    bound: Bound,
}

/// How many benches an app may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bound {
    runs: usize,
    /// Whether the last bench that is left may be one of them.
    last: bool,
    /// Whether a run that waits for something else still counts.
    strict: bool,
}

/// Why a run may not even wait.
pub(super) struct TurnedAway {
    pub(super) kind: FaultKind,
    pub(super) why: &'static str,
    /// Whether there would have been room for another app.
    pub(super) own_share: bool,
}

/// The run that a bench ended: its lane and its app.
pub(super) type Last = (Lane, Uuid);

impl Bound {
    /// So many, whatever that leaves to others.
    pub(super) fn of(runs: usize) -> Bound {
        Bound { runs: runs.max(1), last: true, strict: true }
    }

    /// For an app that says nothing: a quarter of the benches is left to others, and the last to one that has none.
    pub(super) fn usual(benches: usize) -> Bound {
        let runs = benches - benches / 4;
        Bound { runs, last: benches < BENCHES_SHARED, strict: false }
    }
}

impl AtWork {
    /// Whether this app may have one more bench, of so many that are left to its lane.
    fn may(&self, app: &Uuid, left: usize) -> bool {
        let own = self.apps.iter().find(|own| own.app == *app);
        left > 0 && own.is_none_or(|own| own.counted() < own.bound.runs && (own.bound.last || left > 1))
    }

    fn begin(&mut self, app: Uuid, bound: Bound) {
        self.taken += 1;
        match self.apps.iter_mut().find(|own| own.app == app) {
            Some(own) => (own.runs, own.bound) = (own.runs + 1, bound),
            None => self.apps.push(OfApp { app, runs: 1, aside: 0, bound }),
        }
    }

    fn end(&mut self, app: Uuid) {
        self.taken -= 1;
        if let Some(at) = self.apps.iter().position(|own| own.app == app) {
            self.apps[at].runs -= 1;
            if self.apps[at].runs + self.apps[at].aside == 0 {
                self.apps.swap_remove(at);
            }
        }
    }

    /// Whether a run of this app may step aside. No app takes more than three quarters of that room.
    fn may_step_aside(&self, app: Uuid, most: usize) -> bool {
        let of_app = self.apps.iter().find(|own| own.app == app).map_or(0, |own| own.aside);
        self.aside < most && of_app < most - most / 4
    }

    fn step(&mut self, app: Uuid, step: Step) {
        let Some(own) = self.apps.iter_mut().find(|own| own.app == app) else { return };
        match step {
            Step::Aside => {
                (self.taken, own.runs) = (self.taken - 1, own.runs - 1);
                (self.aside, own.aside) = (self.aside + 1, own.aside + 1);
            }
            Step::Back => {
                (self.taken, own.runs) = (self.taken + 1, own.runs + 1);
                (self.aside, own.aside) = (self.aside - 1, own.aside - 1);
            }
        }
    }
}

impl OfApp {
    /// Runs that its bound counts.
    fn counted(&self) -> usize {
        self.runs + if self.bound.strict { self.aside } else { 0 }
    }
}

/// What a run does that waits for something else.
#[derive(Clone, Copy)]
enum Step {
    Aside,
    Back,
}

impl Queue {
    /// An empty one for so many benches, whose runs may leave them to others while they wait, so many at once.
    pub(super) fn new(benches: usize, aside_max: usize) -> Queue {
        Queue {
            sync: Turns::default(),
            background: Turns::default(),
            background_running: 0,
            sync_turns: 0,
            at_work: AtWork { benches, taken: 0, aside: 0, apps: Vec::with_capacity(benches + aside_max) },
            aside_max,
            asleep: 0,
            spare_asleep: 0,
            watched: false,
            closing: false,
        }
    }

    /// Lets a run wait, or gives it back with the reason why not. At most `sync_max` sync runs wait.
    pub(super) fn push(&mut self, lane: Lane, job: Job, sync_max: usize) -> Result<(), (Job, TurnedAway)> {
        let away = |kind, why, own_share| TurnedAway { kind, why, own_share };
        if self.closing {
            return Err((job, away(FaultKind::Drain, "PiCloud is stopping", false)));
        }
        let app = job.row.app_id;
        if lane == Lane::Async {
            self.background.push(app, job);
            return Ok(());
        }
        let waiting = self.sync.len();
        if waiting >= sync_max {
            return Err((job, away(FaultKind::Overloaded, "too many runs are waiting", false)));
        }
        if !is_fair(self.sync.len_of(app), waiting, sync_max) {
            return Err((job, away(FaultKind::Overloaded, "too many runs of this app are waiting", true)));
        }
        self.sync.push(app, job);
        Ok(())
    }

    /// The next run, if a bench may take it now; `bound` says how many its app may have.
    pub(super) fn next(&mut self, bound: impl FnOnce(Uuid) -> Bound) -> Option<(Lane, Job)> {
        let (lane, app, job) = if self.sync_turns >= SYNC_TURNS {
            self.next_async().or_else(|| self.next_sync())?
        } else {
            self.next_sync().or_else(|| self.next_async())?
        };
        self.at_work.begin(app, bound(app));
        Some((lane, job))
    }

    fn next_sync(&mut self) -> Option<(Lane, Uuid, Job)> {
        let left = self.left(Lane::Sync);
        let (app, job) = self.sync.pop(|app| self.at_work.may(app, left))?;
        self.sync_turns = self.sync_turns.saturating_add(1);
        Some((Lane::Sync, app, job))
    }

    fn next_async(&mut self) -> Option<(Lane, Uuid, Job)> {
        let left = self.left(Lane::Async);
        let (app, job) = self.background.pop(|app| self.at_work.may(app, left))?;
        self.sync_turns = 0;
        self.background_running += 1;
        Some((Lane::Async, app, job))
    }

    /// Notes the end of a run.
    pub(super) fn give_back(&mut self, last: Option<Last>) {
        if let Some((lane, app)) = last {
            self.at_work.end(app);
            self.background_running -= usize::from(lane == Lane::Async);
        }
    }

    /// A run waits for something else, and its place is free for another meanwhile. False if there are too many such:
    /// then it keeps its place.
    pub(super) fn step_aside(&mut self, (lane, app): Last) -> bool {
        if self.closing || !self.at_work.may_step_aside(app, self.aside_max) {
            return false;
        }
        self.at_work.step(app, Step::Aside);
        self.background_running -= usize::from(lane == Lane::Async);
        true
    }

    /// A run that stepped aside goes on, also where all places were taken meanwhile.
    pub(super) fn step_back(&mut self, (lane, app): Last) {
        self.at_work.step(app, Step::Back);
        self.background_running += usize::from(lane == Lane::Async);
    }

    /// Whether a bench that asks gets a run.
    pub(super) fn may_take(&self) -> bool {
        let (sync, background) = self.first();
        sync.is_some() || background.is_some()
    }

    /// The runs that would be next, by id.
    pub(super) fn first(&self) -> (Option<Uuid>, Option<Uuid>) {
        let of = |lane, waiting: &Turns<Job>| {
            let left = self.left(lane);
            waiting.peek(|app| self.at_work.may(app, left)).map(|job| job.row.execution_id)
        };
        (of(Lane::Sync, &self.sync), of(Lane::Async, &self.background))
    }

    /// Benches that runs of this lane may still have. Async runs leave one to sync runs.
    fn left(&self, lane: Lane) -> usize {
        let AtWork { benches, taken, .. } = self.at_work;
        match lane {
            Lane::Sync => benches.saturating_sub(taken),
            Lane::Async => {
                benches.saturating_sub(taken).min((benches - 1).saturating_sub(self.background_running))
            }
        }
    }

    /// Takes out one that waits.
    pub(super) fn take(&mut self, execution: Uuid) -> Option<Job> {
        let of = |job: &Job| job.row.execution_id == execution;
        self.sync.remove(of).or_else(|| self.background.remove(of))
    }

    /// Takes out all that wait.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        let mut all = self.sync.drain();
        all.append(&mut self.background.drain());
        all
    }

    /// Runs that wait.
    pub(super) fn len(&self) -> usize {
        self.sync.len() + self.background.len()
    }

    /// Runs that were taken and have not ended, but for those that stepped aside.
    pub(super) fn taken(&self) -> usize {
        self.at_work.taken
    }

    /// Runs that stepped aside.
    pub(super) fn aside(&self) -> usize {
        self.at_work.aside
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::super::executor::Verdict;
    use super::*;
    use crate::model::Row;
    use crate::model::testing;

    fn job(app: u8) -> Job {
        let row = Row { app_id: Uuid::from_u128(app.into()), ..testing::row() };
        Job { row: Arc::new(row), done: Box::new(|_| Verdict::Ended), queued_at: Instant::now() }
    }

    /// Apps that get a bench of those that wait, by their letters; capitals wait async.
    #[track_caller]
    fn check(benches: usize, bound: Option<usize>, come: &str, go: &str) {
        let mut queue = Queue::new(benches, 4);
        for letter in come.bytes() {
            let lane = if letter.is_ascii_uppercase() { Lane::Async } else { Lane::Sync };
            assert!(queue.push(lane, job(letter), 100).is_ok());
        }
        let bound = bound.map_or(Bound::usual(benches), Bound::of);
        let mut seen = String::new();
        while queue.taken() < benches
            && let Some((_, job)) = queue.next(|_| bound)
        {
            seen.push(char::from(job.row.app_id.as_bytes()[15]));
        }
        assert_eq!(seen, go, "{benches} benches, {bound:?}, {come}");
        assert_eq!(queue.len() + queue.taken(), come.len());
    }

    #[test]
    fn benches_are_shared_by_the_apps() {
        check(4, None, "aaaaa", "aaa");
        check(4, None, "aaaaab", "aba");
        check(8, None, "aaaaaaaaa", "aaaaaa");
        check(2, None, "aaa", "aa");
        // Two that take all they can leave the last to a third.
        check(4, None, "aaaabbbb", "aba");
        check(4, None, "aaaabbbbc", "abc");
        check(4, None, "aaaabbbbcd", "abcd");
        check(4, Some(1), "aabb", "ab");
        check(4, Some(9), "aaaaa", "aaaa");
    }

    #[test]
    fn async_runs_leave_a_bench() {
        check(4, None, "AAAAA", "AA");
        check(4, None, "AAAAAB", "AB");
        check(4, None, "AAAAABC", "ABC");
        check(4, Some(4), "AAAAA", "AAA");
        check(4, None, "AAAAb", "bAA");
        check(2, None, "AB", "A");
    }

    #[test]
    fn a_bench_that_is_given_back_is_taken_again() {
        let mut queue = Queue::new(4, 4);
        for _ in 0..4 {
            assert!(queue.push(Lane::Sync, job(b'a'), 100).is_ok());
        }
        let app = Uuid::from_u128(b'a'.into());
        for _ in 0..3 {
            assert!(queue.next(|_| Bound::usual(4)).is_some());
        }
        assert!(!queue.may_take() && queue.first() == (None, None));
        queue.give_back(Some((Lane::Sync, app)));
        assert!(queue.may_take() && queue.next(|_| Bound::usual(4)).is_some());
        for _ in 0..3 {
            queue.give_back(Some((Lane::Sync, app)));
        }
        assert!(queue.taken() == 0 && queue.at_work.apps.is_empty());
    }

    /// Who gets the benches, and who gets those of `a` when all of its runs step aside; all of them come back.
    #[track_caller]
    fn check_aside(bound: Bound, come: &str, first: &str, then: &str) {
        let mut queue = Queue::new(4, 4);
        for letter in come.bytes() {
            assert!(queue.push(Lane::Sync, job(letter), 100).is_ok());
        }
        let take = |queue: &mut Queue| -> String {
            let next =
                |queue: &mut Queue| Some(char::from(queue.next(|_| bound)?.1.row.app_id.as_bytes()[15]));
            std::iter::from_fn(|| next(queue)).collect()
        };
        assert_eq!(take(&mut queue), first, "{bound:?}, {come}");
        let a = (Lane::Sync, Uuid::from_u128(b'a'.into()));
        let runs = first.matches('a').count();
        assert_eq!((0..runs).filter(|_| queue.step_aside(a)).count(), runs);
        let beside = take(&mut queue);
        assert_eq!(beside, then, "{bound:?}, {come}");
        assert_eq!((queue.aside(), queue.taken()), (runs, first.len() - runs + then.len()));
        (0..runs).for_each(|_| queue.step_back(a));
        assert_eq!((queue.aside(), queue.taken()), (0, first.len() + then.len()));
        for letter in first.bytes().chain(beside.bytes()) {
            queue.give_back(Some((Lane::Sync, Uuid::from_u128(letter.into()))));
        }
        assert!(queue.taken() == 0 && queue.at_work.apps.is_empty());
    }

    #[test]
    fn who_steps_aside_leaves_a_bench() {
        check_aside(Bound::usual(4), "aaaaaaa", "aaa", "aaa");
        check_aside(Bound::usual(4), "aaaabbb", "aba", "ba");
        // Whom its operator bounds is bounded, whatever its runs wait for.
        check_aside(Bound::of(3), "aaaaaaa", "aaa", "");
        check_aside(Bound::of(2), "aaaabbb", "abab", "");
        check_aside(Bound::of(2), "aaab", "aba", "");
    }

    #[test]
    fn a_bound_may_change_while_a_run_is_aside() {
        let a = (Lane::Sync, Uuid::from_u128(b'a'.into()));
        for (before, after) in [(Bound::usual(4), Bound::of(2)), (Bound::of(2), Bound::usual(4))] {
            let mut queue = Queue::new(4, 4);
            for _ in 0..2 {
                assert!(queue.push(Lane::Sync, job(b'a'), 100).is_ok());
            }
            assert!(queue.next(|_| before).is_some() && queue.step_aside(a));
            assert!(queue.next(|_| after).is_some());
            queue.step_back(a);
            assert_eq!(queue.taken(), 2);
            (0..2).for_each(|_| queue.give_back(Some(a)));
            assert!(queue.taken() == 0 && queue.at_work.apps.is_empty());
        }
    }

    #[test]
    fn no_app_takes_all_the_room_aside() {
        let mut queue = Queue::new(4, 4);
        for letter in *b"aaaab" {
            assert!(queue.push(Lane::Sync, job(letter), 100).is_ok());
        }
        while queue.next(|_| Bound { runs: 4, last: true, strict: false }).is_some() {}
        let app = |letter: u8| (Lane::Sync, Uuid::from_u128(letter.into()));
        let mut steps = |letter: u8| queue.step_aside(app(letter));
        assert_eq!([b'a', b'a', b'b', b'a'].map(&mut steps), [true, true, true, true]);
        queue.step_back(app(b'b'));
        assert!(!queue.step_aside(app(b'a')), "one more run of a is at work");
    }

    #[test]
    fn one_app_does_not_fill_the_waiting_room() {
        let mut queue = Queue::new(4, 4);
        let mut in_a_row =
            |app: u8| (0..8).take_while(|_| queue.push(Lane::Sync, job(app), 8).is_ok()).count();
        assert_eq!([b'a', b'b', b'c'].map(&mut in_a_row), [7, 1, 0]);
        let refused = queue.push(Lane::Sync, job(b'd'), 8).err().map(|(_, away)| away.own_share);
        assert_eq!(refused, Some(false), "it is full");
        assert_eq!(queue.drain().len(), 8);
        queue.closing = true;
        assert!(queue.push(Lane::Async, job(b'a'), 8).is_err());
    }
}
