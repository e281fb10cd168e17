//! Plays one life of the process on a disk: the applier with its commands, one batch after the other, on one thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use redb::Database;
use uuid::Uuid;

use super::chance::Chance;
use super::disk::Disk;
use super::effects::{Acts, Fate};
use super::found::{Found, Weights};
use super::life::{Batch, Life, Plan, Told, View};
use super::plans::Plans;
use super::setup::Op;
use super::world::{Logged, Orphan, World, wrong_orphan};
use crate::model::Row;
use crate::store::apply::{Ask, Sabotage};
use crate::store::backend::CardMeter;
use crate::store::compact::{self, Seen};
use crate::store::kv::{self, Refused, ViewError};
use crate::store::open::{Opened, open_on};
use crate::store::queue::{Command, Reply};
use crate::store::{ChangeError, End, Error, Hooks, Load, Recovered, Settings, Startable, Store};

/// Opens what is on a disk, as a start of the process does.
pub(super) fn open(disk: &Disk, settings: &Settings) -> Result<Opened, String> {
    open_on(disk.clone(), settings, Arc::new(CardMeter::default()), |_| Ok(()))
        .map_err(|error| format!("it does not open: {error}"))
}

pub(super) fn orphans(recovered: &[Recovered]) -> Vec<Orphan> {
    let orphan = |row: &Recovered| Orphan {
        id: row.execution_id.as_u128(),
        began: row.began,
        crashes: row.crashes,
        sync: row.sync,
        due_at: row.due_at,
        wait_max: row.wait_max,
    };
    recovered.iter().map(orphan).collect()
}

/// A process that has the file open.
pub(super) struct Player {
    disk: Disk,
    store: Store,
    startable: Startable,
    hooks: Hooks,
    enqueued: Arc<Mutex<Vec<Arc<Row>>>>,
    plans: Plans,
    life: Life,
    /// A copy of the file under way, and its disk.
    copy: Option<(Disk, Database, Option<Seen>)>,
    /// All that was acknowledged.
    told: Vec<(Plan, Told)>,
}

/// What is left of a process.
pub(super) struct Remains {
    /// The one that it used last.
    pub(super) disk: Disk,
    pub(super) life: Life,
    pub(super) plans: Plans,
    /// All that was acknowledged.
    pub(super) told: Vec<(Plan, Told)>,
}

/// Writes down what one was told, with the position of the journal.
type Tell = Box<dyn FnOnce(fn(usize) -> Told) + Send>;

/// The answers of one batch, by the number of the plan.
type Answers = Arc<Mutex<Vec<Option<Told>>>>;

impl Player {
    /// Opens the disk, on which the start has to find `world` and say `orphans`.
    pub(super) fn start(
        disk: Disk,
        settings: &Settings,
        (world, orphans_wanted): (World, Vec<Orphan>),
        plans: Plans,
        sabotage: Sabotage,
    ) -> Result<Player, String> {
        let mut life = Life::new(settings, world, orphans_wanted);
        let opened = open(&disk, settings)?;
        life.opened(disk.position());
        let said = orphans(&opened.recovered);
        if said != life.orphans() {
            return Err(wrong_orphan(&said, life.orphans()));
        }
        let assembled = Store::assemble(opened, settings).map_err(|error| error.to_string());
        let (store, _, mut startable) = assembled?;
        startable.applier.sabotage = sabotage;
        let enqueued = Arc::new(Mutex::new(Vec::new()));
        let heard = enqueued.clone();
        let hooks = Hooks {
            catalog: Box::new(|_| {}),
            enqueued: Box::new(move |rows| heard.lock().unwrap().extend(rows)),
            broken: Box::new(|_| {}),
        };
        let mut player =
            Player { disk, store, startable, hooks, enqueued, plans, life, copy: None, told: Vec::new() };
        let rows = player.life.world().outbox.values().map(|item| item.value.clone());
        player.plans.found(rows.map(Arc::new).collect());
        Ok(player)
    }

    /// Plays some batches and perhaps closes. The store's error if it gave up, which only a fault may make it do.
    pub(super) fn play(&mut self, batches: usize, close: bool) -> Result<Option<Error>, String> {
        for _ in 0..batches {
            let (plans, ask) = self.plans.batch(self.life.world());
            if let Some(error) = self.step(&plans, ask)? {
                return Ok(Some(error));
            }
            if self.plans.wants_compaction() && !self.disk.is_faulty() {
                self.compact().map_err(|error| format!("compaction: {error}"))?;
            }
        }
        if close { self.close() } else { Ok(None) }
    }

    /// Ends all work that there is and closes the file, as a shutdown does.
    pub(super) fn drain(&mut self) -> Result<Option<Error>, String> {
        for _ in 0..2 {
            let (plans, ask) = self.plans.draining();
            if let Some(error) = self.step(&plans, ask)? {
                return Ok(Some(error));
            }
        }
        self.close()
    }

    /// Begins a copy of the file, as the compaction does, or makes the last pass of it and goes on with the copy.
    fn compact(&mut self) -> Result<(), Error> {
        let whole = AtomicBool::new(false);
        let revisions = self.startable.revisions();
        let Some((disk, db, mut seen)) = self.copy.take() else {
            let disk = Disk::recording(Vec::new(), None);
            let db = Database::builder().create_with_backend(disk.clone());
            let db = db.map_err(|error| Error::Card(error.to_string()))?;
            let mut seen = None;
            compact::pass(&self.startable.db, &db, &revisions, &mut seen, &whole)?;
            self.copy = Some((disk, db, seen));
            return Ok(());
        };
        compact::pass(&self.startable.db, &db, &revisions, &mut seen, &whole)?;
        self.disk.give_way_to(&disk);
        self.disk = disk;
        self.startable.db = Arc::new(db);
        self.store.exchange(self.startable.db.clone());
        Ok(())
    }

    /// Lets the file go, as it is: the file is closed when this returns.
    pub(super) fn stop(self) -> Remains {
        let Player { disk, life, plans, told, .. } = self;
        Remains { disk, life, plans, told }
    }

    fn close(&mut self) -> Result<Option<Error>, String> {
        let now = self.plans.now();
        self.step(&[], Ask { flush: true, checkpoint: true, now })
    }

    fn step(&mut self, plans: &[Plan], ask: Ask) -> Result<Option<Error>, String> {
        let full = expected_refusals(plans, self.store.load(), self.life.settings());
        let answers: Answers = Arc::new(Mutex::new(vec![None; plans.len()]));
        let mut commands: Vec<Command> =
            plans.iter().enumerate().map(|(number, plan)| self.command(number, plan, &answers)).collect();
        let fates = self.run(plans, &mut commands, &answers)?;
        let began_at = self.disk.position();
        let result = self.startable.applier.apply(&self.startable.db, &mut commands, ask, &self.hooks);
        drop(commands);
        let told = answers.lock().unwrap().clone();
        let returned_at = result.is_ok().then(|| self.disk.position());
        self.life.note(&Batch { plans, told: &told, fates: &fates, ask, began_at, returned_at })?;
        let answered = plans.iter().zip(&told).filter_map(|(plan, told)| Some((plan.clone(), (*told)?)));
        self.told.extend(answered);
        check_answers(plans, &told, &fates, &full, result.is_ok())?;
        if let Err(error) = result {
            return Ok(Some(error));
        }
        let enqueued = std::mem::take(&mut *self.enqueued.lock().unwrap());
        self.plans.heard(plans, &told, &fates, enqueued)?;
        self.look(plans.iter().any(|plan| matches!(plan, Plan::Settled))).map(|()| None)
    }

    /// Holds what a reader sees now against the reference.
    fn look(&mut self, settled: bool) -> Result<(), String> {
        if self.disk.is_faulty() {
            return Ok(());
        }
        let found = Found::read(&self.startable.db)?;
        self.life.see(&found);
        self.life
            .explain(&found, View::Live { settled })
            .map_err(|why| format!("seen by a reader: {why}"))?;
        check_load(&found, self.store.load())?;
        if !self.life.world().setup.is_in_memory(&self.store.catalog()) {
            return Err("the catalog in memory is another".into());
        }
        Ok(())
    }

    /// Makes the runs of a batch as benches do: all read before the first of them commits, and who comes too late is
    /// made again. What they post takes the places of their plans.
    fn run(&self, plans: &[Plan], commands: &mut [Command], answers: &Answers) -> Result<Vec<Fate>, String> {
        let mut fates = vec![Fate::Nothing; plans.len()];
        let runs = plans.iter().enumerate().filter_map(|(number, plan)| match plan {
            Plan::Run { run, acts, told } => Some((number, run, acts, *told)),
            _ => None,
        });
        let viewed: Vec<_> = runs.map(|run| (run, self.view(run.2))).collect();
        for ((number, run, acts, told), view) in viewed {
            let tell = told.then(|| self.reply(number, answers));
            let (fate, command) = self.commit(run.as_ref(), view, tell)?;
            let (fate, command) = match fate {
                Some(fate) => (fate, command),
                None => {
                    let tell = told.then(|| self.reply(number, answers));
                    let (fate, command) = self.commit(run.as_ref(), self.view(acts), tell)?;
                    (fate.ok_or("a run that is alone came too late")?, command)
                }
            };
            fates[number] = fate;
            commands[number] = command;
        }
        Ok(fates)
    }

    fn view(&self, acts: &Acts) -> Result<kv::View, ViewError> {
        let mut view = self.store.view(acts.app, acts.now);
        acts.make(&mut view).map(|()| view)
    }

    /// Ends a run with what it changed, or without that if it is refused; `None` if it has to be made again.
    fn commit(
        &self,
        run: Option<&(Arc<Row>, Arc<Logged>)>,
        view: Result<kv::View, ViewError>,
        told: Option<Reply>,
    ) -> Result<(Option<Fate>, Command), String> {
        let plain = || match run {
            Some((_, record)) => end(record.id, End::Done(record.encoded())),
            None => Command::Probe(Box::new(|_| {})),
        };
        let effects = match view {
            Ok(view) => view.into_effects(None),
            Err(ViewError::Stale) => return Ok((None, plain())),
            Err(ViewError::Store(_)) if self.disk.has_failed() => return Ok((Some(Fate::Unread), plain())),
            Err(error) => return Err(error.to_string()),
        };
        let Some(effects) = effects else { return Ok((Some(Fate::Nothing), plain())) };
        let posted = match (run, told) {
            (Some((row, record)), told) => {
                let settlement = || kv::Settlement { end: End::Done(record.encoded()), told };
                self.store.settle_with(row, effects, settlement)
            }
            (None, told) => {
                let told = told.ok_or("an operator waits")?;
                self.store.commit(effects, told).map(drop)
            }
        };
        match posted {
            Ok(()) => {
                let command = self.store.take_posted().pop().ok_or("nothing was posted")?;
                let commit = command.commit_number().ok_or("something else was posted")?;
                Ok((Some(Fate::Accepted(commit)), command))
            }
            Err(Refused::Conflict) => Ok((None, plain())),
            Err(Refused::Store(Error::OutboxFull { .. })) => Ok((Some(Fate::Refused), plain())),
            Err(Refused::Store(_)) if self.disk.has_failed() => Ok((Some(Fate::Unread), plain())),
            Err(Refused::Store(error)) => Err(error.to_string()),
            Err(Refused::KvFull(why)) => Err(why),
        }
    }

    fn command(&self, number: usize, plan: &Plan, answers: &Answers) -> Command {
        let tell = self.tell(number, answers);
        match plan.clone() {
            Plan::Enqueue { row, claimed } => Command::Enqueue { row, claimed, reply: reply(tell) },
            Plan::Relaxed(row) => Command::EnqueueRelaxed(row),
            Plan::Claim(ids) => {
                let ids = ids.into_iter().map(Uuid::from_u128).collect();
                Command::Claim { ids, reply: reply(tell) }
            }
            Plan::Done(record) => end(record.id, End::Done(record.encoded())),
            Plan::Retry(row) => end(row.execution_id.as_u128(), End::Retry(row)),
            Plan::Dead(letter, record) => end(record.id, End::Dead(letter, record.encoded())),
            Plan::Release(id) => end(id, End::Release),
            Plan::Change(op) => change(op, tell),
            Plan::Settled => Command::Settled(reply(tell)),
            Plan::Probe => Command::Probe(reply(tell)),
            // Its place; what is posted for it comes here.
            Plan::Run { .. } => Command::Probe(Box::new(|_| {})),
        }
    }
}

impl Player {
    fn tell(&self, number: usize, answers: &Answers) -> Tell {
        let (answers, disk) = (answers.clone(), self.disk.clone());
        Box::new(move |told: fn(usize) -> Told| {
            answers.lock().unwrap()[number] = Some(told(disk.position()));
        })
    }

    fn reply(&self, number: usize, answers: &Answers) -> Reply {
        reply(self.tell(number, answers))
    }
}

fn reply(tell: Tell) -> Reply {
    Box::new(move |result| {
        tell(match result {
            Ok(()) => Told::Yes,
            Err(error) if error.is_refusal() => |_| Told::Refused,
            Err(_) => |_| Told::Broken,
        });
    })
}

fn end(id: u128, end: End) -> Command {
    Command::Settle { id: Uuid::from_u128(id), of: None, end, effects: None, told: None }
}

/// The command that [`Store::change`] posts.
fn change(op: Op, tell: Tell) -> Command {
    Command::Change(Box::new(move |desk| {
        let made = op.make(desk);
        let wrote = match &made {
            Ok(()) => Ok(true),
            Err(ChangeError::Store(error)) => Err(error.clone()),
            Err(_) => Ok(false),
        };
        let reply: Reply = Box::new(move |committed| {
            tell(match (committed, made) {
                (Err(_), _) | (_, Err(ChangeError::Store(_))) => |_| Told::Broken,
                (Ok(()), Err(_)) => |_| Told::Refused,
                (Ok(()), Ok(())) => Told::Yes,
            });
        });
        (reply, wrote)
    }))
}

/// Which rows find the outbox full.
fn expected_refusals(plans: &[Plan], load: &Load, settings: &Settings) -> BTreeMap<usize, bool> {
    let (mut rows, mut bytes) = (load.outbox_rows.load(Relaxed), load.outbox_bytes.load(Relaxed));
    let mut full = BTreeMap::new();
    for (number, plan) in plans.iter().enumerate() {
        if let Plan::Enqueue { row, .. } = plan {
            let weight = u64::try_from(crate::store::codec::encode(row.as_ref()).len()).unwrap();
            let over = rows + 1 > settings.outbox_rows_max || bytes + weight > settings.outbox_bytes_max;
            if !over {
                (rows, bytes) = (rows + 1, bytes + weight);
            }
            full.insert(number, over);
        }
    }
    full
}

/// Everyone is told, and rightly. A change whose batch fails hears nothing: its reply is dropped.
fn check_answers(
    plans: &[Plan],
    told: &[Option<Told>],
    fates: &[Fate],
    full: &BTreeMap<usize, bool>,
    done: bool,
) -> Result<(), String> {
    for (number, (plan, told)) in plans.iter().zip(told).enumerate() {
        let right = match plan {
            Plan::Enqueue { .. } if full[&number] => *told == Some(Told::Refused),
            Plan::Enqueue { .. } | Plan::Claim(_) | Plan::Settled if !done => *told == Some(Told::Broken),
            Plan::Enqueue { .. } | Plan::Claim(_) | Plan::Settled | Plan::Probe => {
                matches!(told, Some(Told::Yes(_)))
            }
            Plan::Change(_) if !done => matches!(told, None | Some(Told::Broken)),
            Plan::Change(_) => matches!(told, Some(Told::Yes(_) | Told::Refused)),
            Plan::Run { told: true, .. } if matches!(fates[number], Fate::Accepted(_)) => {
                matches!((told, done), (Some(Told::Yes(_)), true) | (Some(Told::Broken), false))
            }
            Plan::Run { .. } => told.is_none(),
            Plan::Relaxed(_) | Plan::Done(_) | Plan::Retry(_) | Plan::Dead(..) | Plan::Release(_) => true,
        };
        if !right {
            return Err(format!("a wrong answer, {told:?}, to {plan:?}; the batch was done: {done}"));
        }
    }
    Ok(())
}

/// What a start counted.
pub(super) fn counted(opened: &Opened) -> Weights {
    let count = |number: u64| usize::try_from(number).unwrap();
    Weights {
        outbox_rows: opened.recovered.len(),
        outbox_bytes: count(opened.outbox_bytes),
        letters: count(opened.letters.rows),
        letters_bytes: count(opened.letters.bytes),
        log_bytes: count(opened.tail.stored_bytes()),
        versions_bytes: count(opened.sources.bytes),
    }
}

/// The counters, which bound the file, are those of the tables.
fn check_load(found: &Found, load: &Load) -> Result<(), String> {
    let count = |counter: &AtomicU64| usize::try_from(counter.load(Relaxed)).unwrap();
    let counted = Weights {
        outbox_rows: count(&load.outbox_rows),
        outbox_bytes: count(&load.outbox_bytes),
        letters: count(&load.dead_letters),
        letters_bytes: count(&load.dead_letters_bytes),
        log_bytes: count(&load.log_bytes),
        versions_bytes: count(&load.versions_bytes),
    };
    let weights = found.weights();
    if counted == weights {
        Ok(())
    } else {
        Err(format!("the store counts {counted:?}, there are {weights:?}"))
    }
}

/// A stream for one purpose.
pub(super) fn fork(chance: &mut Chance) -> Chance {
    Chance::new(chance.next())
}
