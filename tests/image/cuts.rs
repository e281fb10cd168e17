//! The plug is pulled at every write, of a first start and of an update: see [`crate::writes`].
//!
//! What holds for all cuts is seen in the log itself: where the writes go. Then cuts are looked at, spread over all writes:
//! the data partition is mended by what the initrd runs, and the store of the daemon opens with all that it had answered by
//! then. Of an update each cut within the state is looked at: U-Boot is never told of a slot that is not whole. Some cards
//! are booted for good.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Kit;
use crate::card::{Card, Part, run};
use crate::checks::restart;
use crate::pi::{Pi, SHELL, until, with_daemon};
use crate::updates::{BROUGHT, bring, bundle};
use crate::writes::Log;

/// Cuts whose data are looked at.
const LOOKS: usize = 400;
/// Cards that are booted after a cut of a first start.
const BOOTS: usize = 3;
/// What is answered before it is cut.
const CALLS: usize = 20;

/// What was answered, and how many writes there were by then.
struct Promised(Vec<(usize, u64)>);

impl Promised {
    /// Calls a script that counts.
    fn take(log: &Log, pi: &mut Pi) -> Promised {
        let calls = (0..CALLS).map(|_| {
            let count = Promised::take_one(pi);
            (log.writes().len(), count)
        });
        Promised(calls.collect())
    }

    /// One call: how many there were.
    fn take_one(pi: &Pi) -> u64 {
        let words = ["-s", "-m", "30", "-X", "POST", &format!("{}/accept", pi.url())];
        let output = Command::new("curl").args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }

    /// What a card that was cut after so many writes must have.
    fn by(&self, writes: usize) -> Option<u64> {
        self.0.iter().rev().find(|(by, _)| *by <= writes).map(|(_, count)| *count)
    }
}

/// A fresh card that is switched on, set up and called; with every write in a log.
fn begin(kit: &Kit, card: &Card) -> (Log, Pi, Promised) {
    let log = Log::begin(kit, card);
    let mut pi = Pi::boot_with(kit, &log.drive(card), &card.path);
    pi.until_answers("/hello/you");
    let key = pi.key();
    let script = kit.work.join("accept.rhai");
    fs::write(&script, "kv::incr(\"n\")").unwrap();
    pi.manage(&key, &["deploy", script.to_str().unwrap(), "--route", "POST /accept"]);
    let promised = Promised::take(&log, &mut pi);
    (log, pi, promised)
}

pub(crate) fn first_start(kit: &Kit) {
    let card = Card::flash(kit, "cuts", 2, SHELL);
    let (log, mut pi, promised) = begin(kit, &card);
    restart(&mut pi);
    pi.pull();
    let writes = log.writes();
    for write in &writes {
        assert!(matches!(write.part(), Part::Table | Part::Data), "{:?} is written", write.part());
    }
    let mut tables = writes.iter().filter(|write| write.at == 0);
    assert!(tables.next().is_some() && tables.next().is_none(), "the table is written once, a sector");

    let mut replay = log.replay(kit, "cuts.replayed", &writes);
    for look in 1..=LOOKS {
        let until = writes.len() * look / LOOKS;
        replay.until(until);
        look_at_data(kit, &replay.card, promised.by(until));
    }
    println!("    {} writes, {LOOKS} cuts looked at, {CALLS} answers promised", writes.len());
    for boot in 0..BOOTS {
        let until = writes.len() * (2 * boot + 1) / (2 * BOOTS);
        let mut replay = log.replay(kit, "cuts.boot", &writes);
        replay.until(until);
        let mut pi = Pi::boot(kit, &replay.card);
        let took = pi.until_answers("/hello/you");
        println!("    cut after {until} writes: it answers after {took:.0?}");
    }
}

pub(crate) fn update(kit: &Kit) {
    let newer = bundle(kit, "newer", "99.0.0", |_| {});
    let card = Card::flash(kit, "cut-update", 2, SHELL);
    card.put(&newer, BROUGHT);
    let (log, mut pi, promised) = begin(kit, &card);
    let from = pi.log().len();
    bring(&mut pi);
    pi.until_logs("PiCloud: slot B", from);
    pi.until_answers("/hello/you");
    until("the confirmation", || (card.state(0)?.contains("slot=B")).then_some(()));
    until("the second copy", || (card.state(0) == card.state(1)).then_some(()));
    pi.pull();
    let writes = log.writes();
    let at = |part: Part| {
        writes.iter().enumerate().filter(move |(_, write)| write.part() == part).map(|(at, _)| at)
    };
    assert_eq!(at(Part::Boot).count() + at(Part::SlotA).count(), 0, "what boots is not touched");
    let (told, written) = (at(Part::State).next().unwrap(), at(Part::SlotB).next_back().unwrap());
    assert!(written < told, "U-Boot is told when all is written");

    // All that the state can be: nothing, the new slot on trial, the new slot.
    let mut replay = log.replay(kit, "cut-update.replayed", &writes);
    let mut seen = Vec::new();
    for cut in at(Part::State) {
        replay.until(cut + 1);
        let whole = |copy| replay.card.state(copy);
        let state = whole(0).or(whole(1));
        assert!(state.is_some(), "a copy of the state is whole");
        if seen.last() != state.as_ref() {
            seen.extend(state);
        }
    }
    println!(
        "    {} writes, {} of the state, which goes {}",
        writes.len(),
        at(Part::State).count(),
        seen.join(" > ")
    );
    // The slot is not written any more by then, so this is what each of these cuts has.
    let hash = |path: &Path| run("sha256sum", &[path.to_str().unwrap()])[..64].to_owned();
    assert_eq!(hash(&replay.card.partition(3)), hash(&newer.with_extension("p2")), "the slot is whole");

    let mut replay = log.replay(kit, "cut-update.replayed", &writes);
    for look in 1..=LOOKS {
        let until = writes.len() * look / LOOKS;
        replay.until(until);
        look_at_data(kit, &replay.card, promised.by(until));
    }
    println!("    {LOOKS} cuts looked at, {CALLS} answers promised");
    let confirmed = at(Part::State).next_back().unwrap();
    for (what, until, slot) in [
        ("while the slot is written", usize::midpoint(at(Part::SlotB).next().unwrap(), written), "A"),
        ("within the first copy of the state", told + 1, "A"),
        ("while the new slot is on trial", usize::midpoint(told, confirmed), "B"),
        ("within the last copy of the confirmation", confirmed, "B"),
    ] {
        let mut replay = log.replay(kit, "cut-update.boot", &writes);
        replay.until(until);
        let mut pi = Pi::boot(kit, &replay.card);
        let took = pi.until_answers("/hello/you");
        assert_eq!(Promised::take_one(&pi), CALLS as u64 + 1, "{what}: all that was answered is there");
        // It is settled by itself.
        settled(&replay.card, slot);
        println!("    cut {what}, after {until} writes: slot {slot} answers after {took:.0?}");
    }
}

/// Waits until nothing is on trial, and a slot is the one that boots.
fn settled(card: &Card, slot: &str) {
    until("the state to be settled", || {
        let state = card.state(0)?;
        (state.contains(&format!("slot={slot}")) && !state.contains("pending=B")).then_some(())
    });
}

/// The data partition of a card that was cut: it is mended as the initrd does it, and has what was promised.
fn look_at_data(kit: &Kit, card: &Card, promised: Option<u64>) {
    let data = card.partition(4);
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let fsck =
        Command::new("e2fsck").args(["-p", data.to_str().unwrap()]).env("PATH", &path).output().unwrap();
    // 1 is «mended».
    assert!(fsck.status.code().is_some_and(|code| code <= 1), "{}", String::from_utf8_lossy(&fsck.stdout));
    let Some(promised) = promised else { return };
    // The store, with the program of this machine.
    let place = kit.work.join("cuts.data");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    run("debugfs", &["-R", &format!("rdump /picloud {}", place.display()), data.to_str().unwrap()]);
    let held = with_daemon(&place.join("picloud"), |pi| pi("/api/v1/apps/default/kv/n"));
    let held: u64 = serde_json::from_str::<serde_json::Value>(&held).unwrap()["value"].as_u64().unwrap_or(0);
    assert!(held >= promised, "{promised} were answered, {held} are there");
}
