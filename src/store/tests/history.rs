//! One history: several lives of the process, each cut from its power at every point, one of the cuts the beginning
//! of the next life.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use super::chance::Chance;
use super::disk::{Cutter, Disk, Event};
use super::found::Found;
use super::life::{Life, Plan, Told, View, name};
use super::plans::{LETTERS_AGE_MAX, Plans};
use super::player::{self, Player, Remains};
use super::schemas;
use super::world::{Orphan, World, wrong_orphan};
use crate::store::apply::Sabotage;
use crate::store::{Bounds, Settings};

/// How long a history is, and on what it is played.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) lives: usize,
    pub(super) batches: usize,
    pub(super) sabotage: Sabotage,
}

/// What came of a history that went well.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    pub(super) cuts: usize,
    /// Of where something was written, and of what was found.
    pub(super) digest: u64,
}

/// What went wrong, and where.
#[derive(Debug)]
pub(super) struct Failure {
    seed: u64,
    life: usize,
    /// The position of the journal at which the power was cut, if it was.
    pub(super) cut: Option<(usize, usize)>,
    /// Cuts until then.
    pub(super) cuts: usize,
    pub(super) why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "history {}, life {}", self.seed, self.life)?;
        match self.cut {
            Some((at, of)) => write!(f, ", power cut at {at} of {of}: {}", self.why)?,
            None => write!(f, ": {}", self.why)?,
        }
        write!(f, "\nagain: scripts/power-cuts --seed {} --cuts 1", self.seed)
    }
}

/// Bounds so small that histories run into all of them.
fn settings(chance: &mut Chance) -> Settings {
    Settings {
        path: PathBuf::from("a disk in memory"),
        cache_bytes: [0, 64 * 1024, 4 * 1024 * 1024][chance.below(3)],
        flush_interval: Duration::from_secs(1),
        outbox_rows_max: 24,
        outbox_bytes_max: 40 * 1024,
        app_queue_rows_max: u64::MAX,
        log_bytes_max: 16 * 1024,
        log_age_max: Duration::from_secs(1_800),
        dead_letters_max: 6,
        dead_letters_bytes_max: 12 * 1024,
        dead_letters_age_max: LETTERS_AGE_MAX,
        dead_letters_alert_at: 4,
        versions_bytes_max: 2 * 1024,
        versions_age_max: Duration::from_secs(20 * 3_600),
        sync_delay: Duration::ZERO,
        write_budget_bytes_per_day: 0,
        kv_bytes_max: 1024 * 1024,
        timeout_async: Duration::from_secs(30),
        space: Bounds { low_bytes: 0, inodes_low: 0, reserve_bytes: 0 },
    }
}

/// A history under way.
struct History {
    seed: u64,
    shape: Shape,
    settings: Settings,
    chance: Chance,
    cuts: usize,
    digest: DefaultHasher,
    /// Rows that were acknowledged and are due since.
    owed: BTreeSet<u128>,
}

/// Where a life begins.
pub(super) struct Beginning {
    pub(super) image: Vec<u8>,
    /// What the start has to leave, and to say.
    pub(super) world: (World, Vec<Orphan>),
    pub(super) plans: Plans,
}

/// Plays the history of a seed and cuts it everywhere.
pub(super) fn run(seed: u64, shape: &Shape) -> Result<Report, Failure> {
    let (mut history, mut beginning) = History::new(seed, shape);
    for number in 0..shape.lives {
        let mut at = None;
        let life = catch_unwind(AssertUnwindSafe(|| history.live(beginning, &mut at)));
        let life = life.unwrap_or_else(|panic| Err(format!("panic: {}", message(panic.as_ref()))));
        beginning = life.map_err(|why| Failure { seed, life: number, cut: at, cuts: history.cuts, why })?;
    }
    let (last, cuts) = (shape.lives, history.cuts);
    history.finish(beginning).map_err(|why| Failure { seed, life: last, cut: None, cuts, why })?;
    Ok(Report { cuts, digest: history.digest.finish() })
}

/// What some lives lead to, for tests that go on from there.
pub(super) fn beginning(seed: u64, lives: usize) -> (Settings, Beginning) {
    let (mut history, mut beginning) =
        History::new(seed, &Shape { lives, batches: 12, sabotage: Sabotage::None });
    for _ in 0..lives {
        beginning = history.live(beginning, &mut None).unwrap();
    }
    (history.settings, beginning)
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?")
}

impl History {
    fn new(seed: u64, shape: &Shape) -> (History, Beginning) {
        let mut chance = Chance::new(seed);
        let settings = settings(&mut chance);
        let fixture = schemas::first_file(seed);
        let begun_at = fixture.as_ref().map(|(_, world)| world.latest());
        let plans = Plans::new(player::fork(&mut chance), begun_at);
        let (image, world) = fixture.unwrap_or_default();
        let (digest, shape, owed) = (DefaultHasher::new(), shape.clone(), BTreeSet::new());
        let history = History { seed, shape, settings, chance, cuts: 0, digest, owed };
        (history, Beginning { image, world: world.recovered(), plans })
    }

    /// Plays a life and cuts it everywhere; one of the cuts is where the next one begins.
    fn live(&mut self, from: Beginning, at: &mut Option<(usize, usize)>) -> Result<Beginning, String> {
        let disk = Disk::recording(from.image.clone(), None);
        let start = Player::start(disk, &self.settings, from.world, from.plans, self.shape.sabotage);
        let mut player = start?;
        let close = self.chance.percent(30);
        if let Some(error) = player.play(self.shape.batches, close)? {
            return Err(format!("the store gave up: {error}"));
        }
        let Remains { disk, life, plans, told } = player.stop();
        let journal = disk.take_journal();
        self.note(&journal);
        let chosen = self.chance.below(journal.len() + 1);
        let (mut next, mut cutter) = (None, Cutter::new(from.image, &journal));
        for position in 0..=journal.len() {
            *at = Some((position, journal.len()));
            let mut chance = Chance::new(self.seed ^ u64::try_from(self.cuts).unwrap() << 32);
            let image = cutter.cut(position, &mut chance);
            let copy = (position == chosen).then(|| image.clone());
            let world = examine(image, &self.settings, &life, position)?;
            self.cuts += 1;
            let held =
                (world.0.outbox.keys(), world.0.letters.keys(), world.0.log.iter().map(|record| record.id));
            held.0.chain(held.1).copied().chain(held.2).for_each(|id| id.hash(&mut self.digest));
            if let Some(image) = copy {
                self.check_owed(&told, &world.0, position)?;
                next = Some(Beginning { image, world, plans: plans.clone() });
            }
        }
        *at = None;
        next.ok_or_else(|| "no cut was chosen".to_owned())
    }

    /// Not the bytes themselves: the totals of the card's wear go by the clock.
    fn note(&mut self, journal: &[Event]) {
        for event in journal {
            match event {
                Event::Write { offset, data } => (offset, data.len()).hash(&mut self.digest),
                Event::SetLen(len) => len.hash(&mut self.digest),
                Event::Replace(other) => other.len().hash(&mut self.digest),
                Event::Sync => 0_u8.hash(&mut self.digest),
            }
        }
    }

    /// Every row that was acknowledged before the cut is due or has ended, whatever the model of states says.
    fn check_owed(&mut self, answers: &[(Plan, Told)], world: &World, cut: usize) -> Result<(), String> {
        for (plan, told) in answers {
            if let (Plan::Enqueue { row, .. }, Told::Yes(at)) = (plan, told)
                && *at <= cut
            {
                self.owed.insert(row.execution_id.as_u128());
            }
        }
        for id in &self.owed {
            if world.outbox.contains_key(id) == world.ended.contains(id) {
                return Err(format!("{} was accepted; it is due or ended, or both", name(*id)));
            }
        }
        Ok(())
    }

    /// After the last cut all work that is left runs, and ends once.
    fn finish(&mut self, from: Beginning) -> Result<(), String> {
        let disk = Disk::plain(from.image);
        let start = Player::start(disk, &self.settings, from.world, from.plans, Sabotage::None);
        let mut player = start?;
        if let Some(error) = player.drain()? {
            return Err(format!("the store gave up: {error}"));
        }
        let Remains { disk, life, .. } = player.stop();
        let (world, _) = examine(disk.image(), &self.settings, &life, usize::MAX)?;
        if !world.outbox.is_empty() {
            return Err(format!("{} rows never ended", world.outbox.len()));
        }
        self.check_owed(&[], &world, usize::MAX)
    }
}

/// Starts on what a cut left, and holds it against the reference: what that start left, and said.
pub(super) fn examine(
    image: Vec<u8>,
    settings: &Settings,
    life: &Life,
    at: usize,
) -> Result<(World, Vec<Orphan>), String> {
    let mut opened = player::open(&Disk::plain(image), settings)?;
    match opened.db.check_integrity() {
        Ok(true) => {}
        other => return Err(format!("check_integrity says {other:?}")),
    }
    let found = Found::read(&opened.db)?;
    let (world, orphans) = life.explain(&found, View::Cut(at))?;
    let said = player::orphans(&opened.recovered);
    if !life.may_say(&said, &orphans, at) {
        return Err(wrong_orphan(&said, &orphans));
    }
    if !found.claimed.is_empty() {
        return Err("the start left claims of the process before".into());
    }
    let weights = found.weights();
    let counted = player::counted(&opened);
    if counted != weights {
        return Err(format!("the start counts {counted:?}, there are {weights:?}"));
    }
    if !world.setup.is_in_memory(&opened.catalog) {
        return Err("the catalog in memory is another".into());
    }
    Ok((world, said))
}
