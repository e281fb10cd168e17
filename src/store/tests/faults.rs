//! The disk fails instead of losing its power: each operation in turn, once or from then on, for want of room or for
//! good. Nothing panics, nobody is told a thing that the next start does not find, everybody else is refused, and
//! that start finds a state that was promised.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use super::chance::Chance;
use super::disk::{Cutter, Disk, Fault};
use super::history::{self, Beginning, examine};
use super::life::Life;
use super::plans::Plans;
use super::player::{self, Player};
use crate::store::apply::Sabotage;
use crate::store::{Error, Hooks, Settings, Store};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What a run with a fault left.
struct End {
    life: Life,
    /// Whether the fault was reached, and the store gave up for it.
    gave_up: bool,
}

/// Plays one life on a failing disk.
fn play(disk: &Disk, settings: &Settings, from: &Beginning, batches: usize) -> Result<End, String> {
    let (world, orphans) = from.world.clone();
    let mut player =
        match Player::start(disk.clone(), settings, from.world.clone(), from.plans.clone(), Sabotage::None) {
            Ok(player) => player,
            Err(_) if disk.has_failed() => {
                return Ok(End { life: Life::new(settings, world, orphans), gave_up: true });
            }
            Err(why) => return Err(why),
        };
    let error = player.play(batches, true)?;
    let gave_up = error.is_some();
    match error {
        None | Some(Error::Card(_)) => {}
        Some(other) => return Err(format!("it gave up with {other:?}")),
    }
    if gave_up && !disk.has_failed() {
        return Err("it gave up on a sound disk".into());
    }
    Ok(End { life: player.stop().life, gave_up })
}

/// Lets operation after operation fail until a run reaches none of them.
#[track_caller]
fn check(errno: i32, lasting: bool) {
    let (mut runs, mut gave_up, mut operations) = (0, 0, 0);
    for (seed, lives, batches) in [(11, 0, 6), (12, 2, 8), (13, 2, 8)] {
        let (settings, from) = history::beginning(seed, lives);
        for at in 0.. {
            let disk = Disk::recording(from.image.clone(), Some(Fault { at, lasting, errno }));
            let again = format!("seed {seed}, operation {at}, error {errno}, lasting: {lasting}");
            let end = catch_unwind(AssertUnwindSafe(|| play(&disk, &settings, &from, batches)));
            let End { life, gave_up: over } =
                end.expect(&again).unwrap_or_else(|why| panic!("{again}: {why}"));
            let reached = disk.has_failed();
            let (image, journal) = (disk.image(), disk.take_journal());
            let mut cutter = Cutter::new(from.image.clone(), &journal);
            let mut chance = Chance::new(seed ^ u64::try_from(at).unwrap() << 8);
            let cuts = (0..2).map(|_| cutter.cut(journal.len(), &mut chance));
            for image in cuts.chain([image]) {
                let found = examine(image, &settings, &life, journal.len());
                found.unwrap_or_else(|why| panic!("{again}: {why}"));
            }
            (runs, gave_up) = (runs + 1, gave_up + usize::from(over));
            if !reached {
                operations += at;
                break;
            }
        }
    }
    assert!(gave_up > 100, "only {gave_up} of {runs} runs met their fault");
    let _ = writeln!(
        std::io::stderr(),
        "faults: error {errno}, lasting: {lasting}: {operations} operations failed in {runs} runs, {gave_up} gave up"
    );
}

#[test]
fn a_disk_that_fails_once() {
    check(EIO, false);
}

#[test]
fn a_disk_that_fails_for_good() {
    check(EIO, true);
}

#[test]
fn a_disk_that_is_full_for_a_moment() {
    check(ENOSPC, false);
}

#[test]
fn a_disk_that_is_full() {
    check(ENOSPC, true);
}

/// The same with the writer's own thread: it says so once, and refuses all that comes later.
#[track_caller]
fn check_writer(errno: i32, lasting: bool) {
    let (settings, from) = history::beginning(21, 1);
    let disk = Disk::recording(from.image.clone(), None);
    let opened = player::open(&disk, &settings).unwrap();
    let (store, _, startable) = Store::assemble(opened, &settings).unwrap();
    let said = Arc::new(AtomicUsize::new(0));
    let counted = said.clone();
    let hooks = Hooks {
        catalog: Box::new(|_| {}),
        enqueued: Box::new(|_| {}),
        broken: Box::new(move |error| {
            assert!(matches!(error, Error::Card(_)), "{error}");
            counted.fetch_add(1, SeqCst);
        }),
    };
    startable.start(hooks).unwrap();
    let mut plans = Plans::new(Chance::new(1), None);
    let mut enqueue = || {
        let (tell, told) = mpsc::channel();
        store.enqueue(plans.row(None), false, move |accepted| tell.send(accepted).unwrap());
        told.recv().unwrap()
    };
    enqueue().unwrap();
    disk.fail(lasting, errno);
    assert!(matches!(enqueue(), Err(Error::Card(_))));
    for _ in 0..3 {
        assert!(enqueue().is_err());
    }
    let (tell, told) = mpsc::channel();
    store.probe(move |proved| tell.send(proved).unwrap());
    assert!(told.recv().unwrap().is_err());
    let (tell, told) = mpsc::channel();
    store.settled(move |settled| tell.send(settled).unwrap());
    assert!(told.recv().unwrap().is_err());
    let (tell, told) = mpsc::channel();
    store.change(|_| Ok(()), move |changed| drop(tell.send(changed)));
    assert!(!matches!(told.recv(), Ok(Ok(()))));
    assert!(!store.enqueue_relaxed(plans.row(None)));
    store.close();
    assert!(store.is_broken());
    assert!(matches!(store.read(), Err(Error::Closed)));
    assert_eq!(said.load(SeqCst), 1);
}

#[test]
fn the_writer_gives_up_once_and_for_all() {
    for (errno, lasting) in [(EIO, false), (EIO, true), (ENOSPC, false), (ENOSPC, true)] {
        check_writer(errno, lasting);
    }
}
