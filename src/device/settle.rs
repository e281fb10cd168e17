//! `picloud device settle`: early in each boot, what became of an update is written down, and what it left is put right.
//!
//! It runs before the daemon, and does nothing twice that was done: a cut at any instant is made good by the next boot.

use std::path::Path;

use super::install::forget_request;
use super::record::{self, Attempt, Before, Phase, Progress, Report};
use super::{Boot, Error, Place, State, disk};

/// How data go back that a newer slot brought to its own schema; nothing to do is `None`.
pub type GoBack<'a> = &'a dyn Fn(&Path) -> Result<Option<String>, String>;
/// The last lines of the journal of the boot with this id.
pub type Journal<'a> = &'a dyn Fn(&str) -> Vec<String>;

/// Puts things right. Gives a sentence for the journal.
///
/// # Errors
/// If the state cannot be read or written, or the data cannot go back.
pub fn settle(place: &Place, go_back: GoBack<'_>, journal: Journal<'_>) -> Result<String, Error> {
    let boot = Boot::read(place)?;
    let disk = disk(place)?;
    let state = State::read(&disk)?;
    Report::publish(place)?;
    let slot = boot.slot;
    let before = Before::read(place);
    if boot.is_on_probation() && state.pending == Some(slot) {
        return probation(place, boot, before);
    }
    let proved = state.pending.is_none() && state.slot == slot;
    match before {
        Some(before) if before.to == slot && proved => {
            record::finish_done(place, boot)?;
            Ok(format!("slot {slot} runs and is confirmed"))
        }
        Some(before) if before.to != slot && (before.switched || state.pending.is_some()) => {
            let reasons = reasons(place, &before, &state);
            let given_up = given_up(place, boot, &before, reasons, go_back, journal);
            // The data may not have gone back, but the slot that they do not fit is not tried again all the same.
            clear(&disk, state)?;
            given_up
        }
        Some(before) if before.to != slot => {
            // U-Boot was never told: the request is still there and will be taken up again.
            Before::end(place)?;
            Progress::idle(Some(slot)).tell(place)?;
            Ok(format!("the update to {} was interrupted before its first boot", before.version))
        }
        _ => {
            let error = (state.pending.is_none() && state.slot != slot).then(|| {
                let meant = state.slot;
                format!("slot {meant} could not be loaded, so slot {slot} runs; an update makes slot {meant} whole again")
            });
            clear(&disk, state)?;
            let told = error.clone().unwrap_or_else(|| format!("slot {slot} runs; no update is under way"));
            Progress { error, ..Progress::idle(Some(slot)) }.tell(place)?;
            Ok(told)
        }
    }
}

/// The new slot has come this far: that is counted.
fn probation(place: &Place, boot: Boot, before: Option<Before>) -> Result<String, Error> {
    let slot = boot.slot;
    let Some(mut before) = before else {
        let progress =
            Progress { phase: Phase::Probation, pending: Some(slot), ..Progress::idle(Some(slot)) };
        progress.tell(place)?;
        return Ok(format!("slot {slot} runs on probation, and nobody wrote down why"));
    };
    before.switched = true;
    before.boots += 1;
    before.boot_id = record::boot_id(place);
    before.write(place)?;
    // A cut right after U-Boot was told leaves it.
    forget_request(place)?;
    Progress { pending: Some(slot), ..before.progress(Phase::Probation, boot) }.tell(place)?;
    Ok(format!("slot {slot} runs on probation, boot {}", before.boots))
}

/// Why the new slot does not run, as far as anybody knows.
fn reasons(place: &Place, before: &Before, state: &State) -> Vec<String> {
    let to = before.to;
    match (Attempt::read(place, before.id), before.boots) {
        (Some(attempt), _) => attempt.reasons,
        (None, 0) if state.pending.is_some() => {
            vec![format!("slot {to} could not be loaded")]
        }
        (None, 0) => vec![format!("slot {to} gave no sign of life in 3 boots")],
        (None, boots) => {
            vec![format!("slot {to} started {boots} times, and never came as far as to say how it is")]
        }
    }
}

fn given_up(
    place: &Place,
    boot: Boot,
    before: &Before,
    reasons: Vec<String>,
    go_back: GoBack<'_>,
    journal: Journal<'_>,
) -> Result<String, Error> {
    let lines = before.boot_id.as_deref().map(journal).unwrap_or_default();
    let mut report = Report::rolled_back(before, reasons, lines);
    let went_back = go_back(&Before::copy(place));
    report.store = match &went_back {
        Ok(done) => done.clone(),
        Err(why) => Some(format!("the data could not go back to the schema of this version: {why}")),
    };
    report.keep(place)?;
    Report::publish(place)?;
    let error = Some(report.message.clone());
    Progress { error, ..before.progress(Phase::RolledBack, boot) }.tell(place)?;
    match went_back {
        Ok(_) => {
            Before::end(place)?;
            Ok(report.message)
        }
        // The copy stays, and the next boot tries again.
        Err(why) => Err(Error::Daemon { doing: "get its data back", why }),
    }
}

/// Nothing is on probation any more.
fn clear(disk: &Path, state: State) -> Result<(), Error> {
    if state.pending.is_none() {
        return Ok(());
    }
    State { pending: None, tries: 0, ..state }.write(disk)
}
