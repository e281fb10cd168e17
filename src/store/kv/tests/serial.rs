//! Any interleaving of runs against a model that keeps every instant there ever was.
//!
//! Whatever a run has seen so far must have been so at one instant since it began to look, also if it is refused later;
//! and what it commits must rest on the present. It is refused only if somebody changed what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::bench::Bench;
use super::*;

/// Runs that are open at once.
const RUNS: usize = 4;
const NAMES: &[&str] = &["a", "a/", "a/1", "a/2", "a/3", "b", "b/1", "c"];
const PREFIXES: &[&str] = &["", "a", "a/", "a/2", "b/", "d"];
/// The writer looks for expired values as often.
const TICK: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
enum Step {
    Look(usize, Look),
    /// The number of ticks after which it expires, if it does.
    Put(usize, &'static str, Option<u32>),
    Delete(usize, &'static str),
    GoBack(usize),
    Commit(usize),
    /// The writer takes what was accepted.
    Write,
    /// The same, and looks for what has expired.
    Flush,
    Tick,
    /// Who changed what is forgotten, as with very many changes.
    Forget,
}

#[derive(Clone, Debug)]
enum Look {
    Key(&'static str),
    List { prefix: &'static str, after: Option<&'static str>, limit: usize },
}

/// A value, and the commit that set it; of a run's own there is none yet.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    value: u32,
    version: Option<u64>,
    expires_at: Option<UnixMs>,
}

type Values = BTreeMap<&'static str, Held>;
/// What a run wrote: a value, or that there is none.
type Written = BTreeMap<&'static str, Option<Held>>;

/// One instant, and what the commit that began it had touched.
#[derive(Debug, Default)]
struct Instant {
    values: Values,
    touched: BTreeSet<&'static str>,
}

/// What a run was told, over what it had written by then.
struct Seen {
    /// The instant at which it looked.
    at: usize,
    look: Look,
    written: Written,
    items: Vec<(String, Held)>,
    next: Option<String>,
}

struct Run {
    view: View,
    /// The instant at which it first looked.
    since: Option<usize>,
    /// Whether changes have been forgotten since.
    forgot: bool,
    seen: Vec<Seen>,
    written: Written,
}

struct World {
    bench: Bench,
    instants: Vec<Instant>,
    runs: Vec<Option<Run>>,
    puts: u32,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let run = || 0..RUNS;
    let name = || prop::sample::select(NAMES);
    let look = prop_oneof![
        name().prop_map(Look::Key),
        (prop::sample::select(PREFIXES), prop::option::of(name()), 1usize..5)
            .prop_map(|(prefix, after, limit)| Look::List { prefix, after, limit }),
    ];
    let step = prop_oneof![
        8 => (run(), look).prop_map(|(run, look)| Step::Look(run, look)),
        6 => (run(), name(), prop::option::weighted(0.2, 1u32..3))
            .prop_map(|(run, name, ticks)| Step::Put(run, name, ticks)),
        3 => (run(), name()).prop_map(|(run, name)| Step::Delete(run, name)),
        1 => run().prop_map(Step::GoBack),
        6 => run().prop_map(Step::Commit),
        2 => Just(Step::Write),
        1 => Just(Step::Flush),
        1 => Just(Step::Tick),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_are_serialisable_and_each_sees_one_instant(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.end();
    }
}

impl World {
    fn new() -> World {
        let runs = (0..RUNS).map(|_| None).collect();
        World { bench: Bench::new(), instants: vec![Instant::default()], runs, puts: 0 }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Look(run, look) => self.look(run, look),
            Step::Put(run, name, ticks) => self.put(run, name, ticks),
            Step::Delete(run, name) => self.delete(run, name),
            Step::GoBack(run) => {
                let run = self.run(run);
                run.view.clear();
                run.written.clear();
            }
            Step::Commit(run) => self.commit(run),
            Step::Write => self.write(false),
            Step::Flush => self.write(true),
            Step::Tick => self.bench.now = self.bench.now.plus(TICK),
            Step::Forget => {
                self.bench.store.shared.fronts.app(APP).lock().forget();
                self.runs.iter_mut().flatten().for_each(|run| run.forgot |= run.since.is_some());
            }
        }
    }

    fn end(mut self) {
        (0..RUNS).for_each(|run| self.commit(run));
        self.write(true);
        assert_eq!(self.file(), self.present().values);
    }

    fn present(&self) -> &Instant {
        self.instants.last().unwrap()
    }

    fn run(&mut self, run: usize) -> &mut Run {
        let view = || self.bench.store.view(APP, self.bench.now);
        let begin =
            || Run { view: view(), since: None, forgot: false, seen: vec![], written: Written::new() };
        self.runs[run].get_or_insert_with(begin)
    }

    fn look(&mut self, run: usize, look: Look) {
        let present = self.instants.len() - 1;
        let at = run;
        let run = self.run(run);
        run.since.get_or_insert(present);
        match run.ask(present, look) {
            Ok(seen) => run.seen.push(seen),
            Err(ViewError::Stale) => return self.refused(at, "a look"),
            Err(error) => panic!("{error}"),
        }
        let run = self.runs[at].as_ref().unwrap();
        let since = &self.instants[run.since.unwrap()..];
        assert!(
            since.iter().any(|instant| run.is_of(instant)),
            "what run {at} saw was never so: {:?}",
            run.seen.iter().map(|seen| (&seen.look, &seen.items)).collect::<Vec<_>>()
        );
    }

    /// A run is made again only if somebody changed what it saw.
    fn refused(&mut self, at: usize, what: &str) {
        let run = self.runs[at].take().unwrap();
        let is_changed = |seen: &Seen| {
            let mut later = self.instants[seen.at + 1..].iter().flat_map(|instant| &instant.touched);
            later.any(|name| seen.depends_on(name))
        };
        assert!(run.forgot || run.seen.iter().any(is_changed), "{what} of run {at} was refused without need");
    }

    fn put(&mut self, run: usize, name: &'static str, ticks: Option<u32>) {
        self.puts += 1;
        let (value, now) = (self.puts, self.bench.now);
        let expires_at = ticks.map(|ticks| now.plus(TICK * ticks));
        let run = self.run(run);
        put_until(&mut run.view, name, &value.to_string(), expires_at);
        run.written.insert(name, Some(Held { value, version: None, expires_at }));
    }

    /// A delete is also a look: it says whether there was anything.
    fn delete(&mut self, run: usize, name: &'static str) {
        self.look(run, Look::Key(name));
        let Some(run) = &mut self.runs[run] else { return };
        let is_there = !run.seen.last().unwrap().items.is_empty();
        assert_eq!(run.view.delete(&key(name)).unwrap(), is_there);
        if is_there {
            run.written.insert(name, None);
        }
    }

    fn commit(&mut self, at: usize) {
        let Some(run) = &mut self.runs[at] else { return };
        let emptied = self.bench.store.view(APP, run.view.now());
        let view = std::mem::replace(&mut run.view, emptied);
        // Who changed nothing has nothing to commit; what it saw was one instant.
        let Some(effects) = view.into_effects(None) else {
            assert!(run.written.is_empty());
            self.runs[at] = None;
            return;
        };
        match self.bench.store.commit(effects, |told| told.unwrap()) {
            Ok(commit) => {
                let run = self.runs[at].take().unwrap();
                assert!(run.is_of_values(&self.present().values), "run {at} saw what is not so any more");
                self.accepted(commit, run.written);
            }
            Err(Refused::Conflict) => self.refused(at, "the commit"),
            Err(refused) => panic!("{refused:?}"),
        }
    }

    fn accepted(&mut self, commit: u64, written: Written) {
        let mut values = self.present().values.clone();
        let touched = written.keys().copied().collect();
        for (name, held) in written {
            match held {
                Some(held) => drop(values.insert(name, Held { version: Some(commit), ..held })),
                None => drop(values.remove(name)),
            }
        }
        self.instants.push(Instant { values, touched });
    }

    /// The file holds the present then, but for values that nobody begins to see any more.
    fn write(&mut self, flush: bool) {
        if flush {
            self.bench.flush()
        } else {
            self.bench.write()
        }
        self.bench.check_usage(APP);
        let (file, now) = (self.file(), self.bench.now);
        let mut values = self.present().values.clone();
        let gone: BTreeSet<_> = values.keys().copied().filter(|name| !file.contains_key(name)).collect();
        for name in &gone {
            let held = values.remove(name).unwrap();
            assert!(held.expires_at.is_some_and(|at| at <= now), "{name} was lost");
        }
        assert_eq!(file, values);
        if !gone.is_empty() {
            self.instants.push(Instant { values, touched: gone });
        }
    }

    fn file(&self) -> Values {
        let held = |(name, entry): (String, super::super::Entry)| {
            let name = *NAMES.iter().find(|known| **known == name).unwrap();
            let value = serde_json::from_slice(&entry.value).unwrap();
            (name, Held { value, version: Some(entry.commit), expires_at: entry.expires_at })
        };
        self.bench.file(APP).into_iter().map(held).collect()
    }
}

impl Run {
    fn ask(&mut self, at: usize, look: Look) -> Result<Seen, ViewError> {
        let (items, next) = match look {
            Look::Key(name) => {
                (self.view.get(&key(name))?.map(|found| (key(name), found)).into_iter().collect(), None)
            }
            Look::List { prefix: begin, after, limit } => {
                let Listed { items, next } =
                    self.view.list(&prefix(begin), after.map(key).as_ref(), limit)?;
                (items, next)
            }
        };
        let held = |found: &Found| Held {
            value: serde_json::from_slice(&found.value).unwrap(),
            version: found.version,
            expires_at: found.expires_at,
        };
        let items = items.iter().map(|(key, found)| (key.as_str().to_owned(), held(found))).collect();
        let next = next.map(|key| key.as_str().to_owned());
        Ok(Seen { at, look, written: self.written.clone(), items, next })
    }

    fn is_of(&self, instant: &Instant) -> bool {
        self.is_of_values(&instant.values)
    }

    /// Whether all that it saw is so there.
    fn is_of_values(&self, values: &Values) -> bool {
        self.seen.iter().all(|seen| seen.is_of(values, self.view.now()))
    }
}

impl Seen {
    /// Whether this key is, or would be, where it looked.
    fn depends_on(&self, name: &str) -> bool {
        match self.look {
            Look::Key(key) => key == name && !self.written.contains_key(key),
            Look::List { prefix, after, .. } => {
                name.starts_with(prefix) && after.is_none_or(|after| name > after)
            }
        }
    }

    fn is_of(&self, values: &Values, now: UnixMs) -> bool {
        let mut all = values.clone();
        all.retain(|_, held| held.expires_at.is_none_or(|at| at > now));
        for (name, held) in &self.written {
            match held {
                Some(held) => drop(all.insert(name, held.clone())),
                None => drop(all.remove(name)),
            }
        }
        let all = all.into_iter().map(|(name, held)| (name.to_owned(), held));
        match self.look {
            Look::Key(key) => all.filter(|(name, _)| name == key).eq(self.items.iter().cloned()),
            Look::List { prefix, after, limit } => {
                let mut all = all
                    .filter(|(name, _)| name.starts_with(prefix))
                    .filter(|(name, _)| after.is_none_or(|after| &**name > after));
                let upto = |name: &str| self.next.as_deref().is_none_or(|next| name <= next);
                self.items.len() <= limit
                    && all.by_ref().take_while(|(name, _)| upto(name)).eq(self.items.iter().cloned())
                    && self.next.as_deref().is_none_or(|next| after.is_none_or(|after| next > after))
            }
        }
    }
}
