//! `picloud device health`: whether the new slot is well, as long as it is on probation.
//!
//! It is if the daemon takes requests and writes durably, has what it had before, and the device is in the network if it
//! was. Nobody else decides: what cannot be asked here is no reason to go back.

use std::thread;
use std::time::{Duration, Instant};

use super::install::{Daemon, NotReady};
use super::record::{self, Attempt, Before, Vitals};
use super::{Boot, Error, Place, State, disk, network};
use crate::model::UnixMs;

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is on probation.
    NotAsked,
    /// It is well, and boots from now on.
    Well,
    /// It is not, and why. Another boot may be better, if there are tries.
    Unwell(Vec<String>),
}

/// Decides on a slot on probation, after `time_max` at the latest; sooner if its daemon was given up.
///
/// # Errors
/// If what was decided cannot be written down.
pub fn health(place: &Place, daemon: &Daemon<'_>, time_max: Duration) -> Result<Verdict, Error> {
    let boot = Boot::read(place)?;
    // It may have been confirmed since it was booted.
    if !boot.is_on_probation() || State::read(&disk(place)?)?.pending != Some(boot.slot) {
        return Ok(Verdict::NotAsked);
    }
    let before = Before::read(place);
    let until = Instant::now() + time_max;
    loop {
        let (missing, is_over) = match (daemon.ready)() {
            Ok(()) => (missing(place, daemon, before.as_ref()), false),
            // What does not take requests needs not be asked more.
            Err(NotReady::Yet(why)) => (vec![format!("PiCloud is not ready: {why}")], false),
            Err(NotReady::Ever(why)) => (vec![why], true),
        };
        if missing.is_empty() {
            confirm(place)?;
            return Ok(Verdict::Well);
        }
        if is_over || Instant::now() >= until {
            if let Some(before) = before {
                Attempt { id: before.id, at: UnixMs::now(), reasons: missing.clone() }.write(place)?;
            }
            return Ok(Verdict::Unwell(missing));
        }
        thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
    }
}

/// What keeps a new slot whose daemon is ready from being well.
fn missing(place: &Place, daemon: &Daemon<'_>, before: Option<&Before>) -> Vec<String> {
    let mut missing = Vec::new();
    let had = before.map(|before| before.vitals).unwrap_or_default();
    match (daemon.vitals)() {
        Err(why) => missing.push(format!("PiCloud cannot write durably: {why}")),
        Ok(Vitals { routes, scripts, .. }) => {
            for (what, has, had) in [("routes", routes, had.routes), ("scripts", scripts, had.scripts)] {
                if has < had {
                    missing
                        .push(format!("PiCloud has {has} {what} that work, and had {had} before the update"));
                }
            }
        }
    }
    if before.is_some_and(|before| before.network) && !network::is_up(place) {
        missing.push("the device was in a network before the update, and is in none now".to_owned());
    }
    missing
}

/// `picloud device confirm`: this slot boots from now on.
///
/// # Errors
/// If that cannot be written.
pub fn confirm(place: &Place) -> Result<(), Error> {
    let boot = Boot::read(place)?;
    let disk = disk(place)?;
    record::confirm(place, &disk, boot, State::read(&disk)?)
}
