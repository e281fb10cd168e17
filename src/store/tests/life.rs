//! One life of the process as the reference saw it: what each batch asked for, when it was acknowledged, and hence
//! which states a cut of the power may leave.
//!
//! A batch is all or nothing. What was acknowledged is there: rows that were accepted, claims, changes, retries and
//! dead letters with their batch; relaxed rows and ends with the flush after it, or earlier. So a state is three
//! numbers: upto which batch everything else, upto which the relaxed rows, and upto which the ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::effects::{Acts, Changed, Fate, Values};
use super::found::Found;
use super::setup::Op;
use super::world::{Item, Logged, Orphan, World, put};
use crate::model::{DeadLetter, Row, UnixMs};
use crate::store::Settings;
use crate::store::apply::Ask;
use crate::store::log::BlockHead;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A command that the history asks for.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Enqueue {
        row: Arc<Row>,
        claimed: bool,
    },
    Relaxed(Arc<Row>),
    Claim(Vec<u128>),
    Done(Arc<Logged>),
    /// A run that ended with changes, or changes without a run. With `told`, somebody waits for them.
    Run {
        run: Option<(Arc<Row>, Arc<Logged>)>,
        acts: Arc<Acts>,
        told: bool,
    },
    Retry(Arc<Row>),
    Dead(Box<DeadLetter>, Arc<Logged>),
    Release(u128),
    Change(Op),
    Settled,
    Probe,
}

/// What the one who waited was told, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Told {
    /// It is as durable as promised. The position of the disk's journal.
    Yes(usize),
    /// The store goes on, but this was not done.
    Refused,
    /// The store is over.
    Broken,
}

/// One call of the applier.
pub(super) struct Batch<'a> {
    pub(super) plans: &'a [Plan],
    /// By the number of the plan; `None` where nobody was told.
    pub(super) told: &'a [Option<Told>],
    /// What became of the changes of runs.
    pub(super) fates: &'a [Fate],
    pub(super) ask: Ask,
    pub(super) began_at: usize,
    /// The position of the journal when it returned; `None` if it failed.
    pub(super) returned_at: Option<usize>,
}

/// What a batch came to.
#[derive(Clone, Debug, Default)]
struct Note {
    began_at: usize,
    /// From this position of the journal on it must be found after a cut.
    durable_at: Option<usize>,
    /// Without the relaxed rows and the ends.
    world: World,
    relaxed: Vec<Arc<Item<Row>>>,
    ended: Vec<Over>,
    /// All that waited went down with it.
    flushed: bool,
    /// The ends that waited went down with it.
    ends_down: bool,
    /// Nothing but relaxed rows and ends came of it.
    quiet: bool,
    now: UnixMs,
}

/// The end of a row, or of changes without one.
#[derive(Clone, Debug, Default)]
struct Over {
    record: Option<Arc<Logged>>,
    changed: Option<Arc<Changed>>,
}

/// All batches of one process.
pub(super) struct Life {
    settings: Settings,
    /// The first is the start.
    notes: Vec<Note>,
    /// When the file was open, by the journal; never, if not.
    opened_at: usize,
    /// What the start said of the rows that it found.
    orphans: Vec<Orphan>,
    /// When it last looked for sources that are too old.
    sources_looked_at: Option<UnixMs>,
    /// Blocks of the log that were ever seen.
    heads: BTreeMap<u64, BlockHead>,
    /// The values as runs see them: all that was accepted.
    values: Values,
    commit: u64,
}

/// How a file is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum View {
    /// After a cut at this position of the journal and a start.
    Cut(usize),
    /// By the process that writes it, after this many batches; the last one may have asked to see all.
    Live { settled: bool },
}

impl Life {
    /// Begins with the state that the start leaves, and what it has to say of the rows in it.
    pub(super) fn new(settings: &Settings, world: World, orphans: Vec<Orphan>) -> Life {
        let (values, commit) = (world.values.clone(), world.values.latest());
        let note = Note { world, ..Note::default() };
        let settings = settings.clone();
        Life {
            settings,
            notes: vec![note],
            opened_at: usize::MAX,
            orphans,
            sources_looked_at: None,
            heads: BTreeMap::new(),
            values,
            commit,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn orphans(&self) -> &[Orphan] {
        &self.orphans
    }

    pub(super) fn opened(&mut self, at: usize) {
        self.opened_at = at;
    }

    /// The state if all that was asked for is taken as done, but for relaxed rows and ends.
    pub(super) fn world(&self) -> &World {
        &self.last().world
    }

    fn last(&self) -> &Note {
        self.notes.last().unwrap()
    }

    pub(super) fn see(&mut self, found: &Found) {
        self.heads.extend(found.blocks.iter().map(|(number, (head, _))| (*number, *head)));
    }

    /// Takes a batch in. An error says what was answered that could not be.
    pub(super) fn note(&mut self, batch: &Batch<'_>) -> Result<(), String> {
        let mut world = self.last().world.clone();
        let mut note = Note { began_at: batch.began_at, now: batch.ask.now, ..Note::default() };
        let mut durable_at = Vec::new();
        let both = || batch.plans.iter().zip(batch.told);
        let mut overs = self.run(batch)?;
        // Changes are made before all else.
        for (plan, told) in both() {
            if let Plan::Change(op) = plan {
                let done = op.apply(&mut world);
                check_told(&format!("{op:?}"), done, *told, batch.returned_at.is_some())?;
                durable_at.extend(done.then_some(*told).flatten().and_then(when));
            }
        }
        let mut letters = Vec::new();
        for (plan, told) in both() {
            match plan {
                Plan::Change(_) | Plan::Settled | Plan::Probe => {}
                Plan::Relaxed(row) => note.relaxed.push(Item::new(row.as_ref().clone())),
                Plan::Enqueue { .. } if *told == Some(Told::Refused) => {}
                Plan::Enqueue { row, claimed } => {
                    put(&mut world.outbox, row.execution_id, row.as_ref().clone());
                    world.claimed.extend(claimed.then_some(row.execution_id.as_u128()));
                    durable_at.extend(told.and_then(when));
                }
                Plan::Claim(ids) => {
                    world.claimed.extend(ids);
                    durable_at.extend(told.and_then(when));
                }
                Plan::Done(record) => {
                    world.claimed.remove(&record.id);
                    note.ended.push(Over::of(record));
                }
                Plan::Run { told: waits, .. } => {
                    let over = overs.next().unwrap_or_default();
                    if let Some(record) = &over.record {
                        world.claimed.remove(&record.id);
                    }
                    let changed = over.changed.as_ref();
                    // Whoever waits, or queues, takes all along that waits.
                    if let Some(changed) = changed.filter(|changed| *waits || !changed.rows.is_empty()) {
                        note.flushed = true;
                        durable_at.extend(batch.returned_at);
                        for row in &changed.rows {
                            put(&mut world.outbox, row.execution_id, row.as_ref().clone());
                        }
                    }
                    note.ended.push(over);
                }
                Plan::Retry(row) => {
                    world.claimed.remove(&row.execution_id.as_u128());
                    put(&mut world.outbox, row.execution_id, row.as_ref().clone());
                    durable_at.extend(batch.returned_at);
                }
                Plan::Dead(letter, record) => {
                    world.claimed.remove(&record.id);
                    letters.push(letter.as_ref().clone());
                    note.ended.push(Over::of(record));
                    note.ends_down = true;
                    durable_at.extend(batch.returned_at);
                }
                Plan::Release(id) => drop(world.claimed.remove(id)),
            }
        }
        world.bury(&letters, &self.settings);
        let now = batch.ask.now;
        let day_due = self.sources_looked_at.is_none_or(|at| now.since(at) >= DAY);
        if world.setup.drop_sources(&self.settings, day_due, batch.ask.checkpoint, now) {
            self.sources_looked_at = Some(now);
        }
        let is_quiet = |(plan, told): (&Plan, &Option<Told>)| match plan {
            Plan::Relaxed(_) | Plan::Done(_) | Plan::Release(_) | Plan::Settled | Plan::Probe => true,
            Plan::Enqueue { .. } | Plan::Change(_) => *told == Some(Told::Refused),
            Plan::Claim(_) | Plan::Retry(_) | Plan::Dead(..) => false,
            // If it was not quiet, the batch was flushed.
            Plan::Run { .. } => true,
        };
        note.quiet = both().all(is_quiet) && !note.flushed;
        note.flushed |= batch.ask.flush || batch.ask.checkpoint;
        durable_at.extend(note.flushed.then_some(batch.returned_at).flatten());
        note.durable_at = durable_at.into_iter().min();
        note.world = world;
        self.notes.push(note);
        Ok(())
    }

    /// What became of the runs of a batch: each is accepted as if it had been made after those before it, and one that
    /// changes nothing stands as of when it read, first or again.
    fn run(&mut self, batch: &Batch<'_>) -> Result<std::vec::IntoIter<Over>, String> {
        let (mut overs, before) = (Vec::new(), self.values.clone());
        for (plan, fate) in batch.plans.iter().zip(batch.fates) {
            let Plan::Run { run, acts, .. } = plan else { continue };
            // The writer takes numbers too, for what it clears away.
            let number = match fate {
                Fate::Accepted(commit) if *commit > self.commit => *commit,
                Fate::Accepted(_) | Fate::Nothing | Fate::Refused | Fate::Unread => 0,
            };
            let changed = match (fate, acts.change(&self.values, number)) {
                (Fate::Accepted(_), Some(changed)) if number > 0 => Some(changed),
                (Fate::Nothing, None) => None,
                (Fate::Nothing, Some(_)) if acts.change(&before, 0).is_none() => None,
                (Fate::Refused, Some(changed)) if !changed.rows.is_empty() => None,
                (Fate::Unread, _) => None,
                (fate, next) => return Err(format!("{acts:?} came to {fate:?}, not to {next:?}")),
            };
            if let Some(changed) = &changed {
                self.values.take(changed);
                self.commit = number;
            }
            let record = run.as_ref().map(|(_, record)| record.clone());
            overs.push(Over { record, changed: changed.map(Arc::new) });
        }
        Ok(overs.into_iter())
    }

    /// The state that `found` is, and what a start that found it first has to say; or why it is none that may be.
    pub(super) fn explain(&self, found: &Found, view: View) -> Result<(World, Vec<Orphan>), String> {
        let mut whys = Vec::new();
        for (commit, relaxed, ended) in self.candidates(view) {
            let world = self.state(commit, relaxed, ended);
            let (world, orphans) = match view {
                View::Cut(_) => world.recovered(),
                View::Live { .. } => (world, Vec::new()),
            };
            let Some(why) = world.differs(found, self.notes[commit].now, self.settings.dead_letters_age_max)
            else {
                self.check_retention(found, &world, commit)?;
                return Ok((without_dropped(world, found), orphans));
            };
            whys.push(format!("after batch {commit} (relaxed rows of {relaxed}, ends of {ended}): {why}"));
        }
        whys.truncate(8);
        Err(format!("the file holds none of the states that it may:\n  {}", whys.join("\n  ")))
    }

    /// Whether a start may have said this about the rows that it found.
    pub(super) fn may_say(&self, orphans: &[Orphan], wanted: &[Orphan], at: usize) -> bool {
        // A start that was cut may have counted already, or not.
        orphans == wanted || (at <= self.opened_at && orphans == self.orphans)
    }

    /// Which states may be: upto which batch all, the relaxed rows, the ends. The likeliest first.
    fn candidates(&self, view: View) -> Vec<(usize, usize, usize)> {
        let last = self.notes.len() - 1;
        let (first, last) = match view {
            View::Live { .. } => (last, last),
            View::Cut(at) => {
                let durable = |note: &Note| note.durable_at.is_some_and(|durable_at| durable_at <= at);
                let first = self.notes.iter().rposition(durable).unwrap_or(0);
                let begun = self.notes.iter().rposition(|note| note.began_at < at).unwrap_or(0);
                (first, begun.max(first))
            }
        };
        let mut all = Vec::new();
        for commit in (first..=last).rev() {
            let upto =
                |note: &dyn Fn(&Note) -> bool| self.notes[..=commit].iter().rposition(note).unwrap_or(0);
            let flushed = match view {
                View::Live { settled: true } => commit,
                View::Live { settled: false } | View::Cut(_) => upto(&|note| note.flushed),
            };
            let ends_down = flushed.max(upto(&|note| note.ends_down));
            // What was only made visible goes down with whatever comes next, without the claims of that moment.
            // A batch without ends makes no difference; nor does one without relaxed rows.
            let quiet = self.notes[commit + 1..=last].iter().take_while(|note| note.quiet).count();
            let with = |from: usize, some: &dyn Fn(&Note) -> bool| -> Vec<usize> {
                (from..=commit + quiet).rev().filter(|at| *at == from || some(&self.notes[*at])).collect()
            };
            for ended in with(ends_down, &|note| !note.ended.is_empty()) {
                let relaxed = with(flushed, &|note| !note.relaxed.is_empty());
                all.extend(relaxed.into_iter().map(|relaxed| (commit, relaxed, ended)));
            }
        }
        all
    }

    fn state(&self, commit: usize, relaxed: usize, ended: usize) -> World {
        let mut world = self.notes[commit].world.clone();
        for item in self.notes[..=relaxed].iter().flat_map(|note| &note.relaxed) {
            world.outbox.insert(item.value.execution_id.as_u128(), item.clone());
        }
        for over in self.notes[..=ended].iter().flat_map(|note| &note.ended) {
            if let Some(changed) = &over.changed {
                world.values.take(changed);
            }
            if let Some(record) = &over.record {
                world.outbox.remove(&record.id);
                world.ended.insert(record.id);
                world.log.push(record.clone());
            }
        }
        world
    }

    /// The log is within its bounds, and nothing went that had room.
    fn check_retention(&self, found: &Found, world: &World, commit: usize) -> Result<(), String> {
        let mut records = world.log[world.log.len() - found.records().len()..].iter();
        for (number, (head, block)) in &found.blocks {
            let finished = records.by_ref().take(block.len()).map(|record| record.finished_at).max();
            if finished != Some(head.finished_max) {
                return Err(format!(
                    "block {number} says that its last record ended at {}",
                    head.finished_max
                ));
            }
        }
        let stored: u64 = found.blocks.values().map(|(head, _)| u64::from(head.stored_bytes)).sum();
        if stored > self.settings.log_bytes_max {
            return Err(format!("the log has {stored} bytes"));
        }
        let (Some((first, (front, _))), Some((_, (back, _)))) =
            (found.blocks.first_key_value(), found.blocks.last_key_value())
        else {
            return Ok(());
        };
        if back.finished_max.since(front.finished_max) > self.settings.log_age_max {
            return Err(format!("block {first} of the log is too old"));
        }
        let Some(dropped) = first.checked_sub(1).and_then(|number| self.heads.get(&number)) else {
            return Ok(());
        };
        let fits = stored + u64::from(dropped.stored_bytes) <= self.settings.log_bytes_max;
        let age = self.notes[commit].now.since(dropped.finished_max);
        if fits && age <= self.settings.log_age_max {
            return Err(format!("the block before {first} of the log was dropped without need"));
        }
        Ok(())
    }
}

impl Over {
    fn of(record: &Arc<Logged>) -> Over {
        Over { record: Some(record.clone()), changed: None }
    }
}

fn when(told: Told) -> Option<usize> {
    match told {
        Told::Yes(at) => Some(at),
        Told::Refused | Told::Broken => None,
    }
}

fn check_told(what: &str, done: bool, told: Option<Told>, returned: bool) -> Result<(), String> {
    let right = match told {
        Some(Told::Yes(_)) => done,
        Some(Told::Refused) => !done,
        Some(Told::Broken) | None => !returned,
    };
    if right { Ok(()) } else { Err(format!("{what} should be done: {done}, but the answer was {told:?}")) }
}

/// What retention has dropped is not expected back.
fn without_dropped(mut world: World, found: &Found) -> World {
    world.letters.retain(|id, _| found.letters.contains_key(id));
    world.values = std::mem::take(&mut world.values).without_swept(found);
    world.log.drain(..world.log.len() - found.records().len());
    world
}

/// The names of executions, for reports.
pub(super) fn name(id: u128) -> Uuid {
    Uuid::from_u128(id)
}
