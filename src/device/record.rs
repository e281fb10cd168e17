//! What an update writes down: for the next boots below `data/update`, and for people below `run/picloud-device`.
//!
//! What stays is root's alone, since a copy of the store is among it. `update.json` in the run directory may be read by
//! everybody; the reports there, which have lines of the journal, by the daemon.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bundle::Manifest;
use super::{Boot, Error, Image, Place, Slot, State, files};
use crate::model::UnixMs;

/// Reports that are kept.
const REPORTS_MAX: usize = 10;

/// How far an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// There is none.
    Idle,
    /// It is uploaded.
    Receiving,
    /// It is fetched.
    Downloading,
    /// It is checked.
    Checking,
    /// It was checked and waits for root's helper.
    Waiting,
    /// The other slot is written.
    Writing,
    /// The other slot is read back.
    Verifying,
    /// A copy of the data is made.
    Saving,
    /// All is done but the reboot.
    Rebooting,
    /// The new slot runs and has to prove itself.
    Probation,
    /// The new slot proved itself.
    Done,
    /// The new slot was given up.
    RolledBack,
    /// It did not get as far as a reboot.
    Failed,
}

impl Phase {
    /// Whether root's helper is at work.
    pub fn is_installing(self) -> bool {
        matches!(self, Phase::Writing | Phase::Verifying | Phase::Saving | Phase::Rebooting)
    }
}

/// What everybody may know: `update.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How far it is.
    pub phase: Phase,
    /// The slot that runs.
    pub slot: Option<Slot>,
    /// The slot that is on probation.
    pub pending: Option<Slot>,
    /// The version that is installed or was.
    pub version: Option<String>,
    /// Its build.
    pub build: Option<String>,
    /// Bytes of the phase that are done.
    pub bytes: u64,
    /// Bytes of the phase.
    pub bytes_total: u64,
    /// Why it failed or was given up.
    pub error: Option<String>,
    /// As of when.
    pub at: UnixMs,
}

impl Progress {
    /// Nothing but what runs.
    pub fn idle(slot: Option<Slot>) -> Progress {
        Progress {
            phase: Phase::Idle,
            slot,
            pending: None,
            version: None,
            build: None,
            bytes: 0,
            bytes_total: 0,
            error: None,
            at: UnixMs::now(),
        }
    }

    /// What was told last; `None` if nobody did since the boot.
    pub fn read(place: &Place) -> Option<Progress> {
        files::read_json(&progress_path(place)).ok().flatten()
    }

    /// Tells it.
    pub(super) fn tell(&self, place: &Place) -> Result<(), Error> {
        files::make_directory(&place.run(), 0o755)?;
        files::write_json(&progress_path(place), self, 0o644)
    }
}

fn progress_path(place: &Place) -> PathBuf {
    place.run().join("update.json")
}

/// Held by the helper that installs; others look whether somebody has it.
pub(super) fn lock_path(place: &Place) -> PathBuf {
    place.run().join("update.lock")
}

/// What the running daemon says of itself: the answer to `POST /api/v1/health`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Routes that it serves.
    pub routes: u64,
    /// Scripts that it holds.
    pub scripts: u64,
    /// Bytes of its store.
    pub store_bytes: u64,
}

/// What there was before the update: what the new slot is held against, and the way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Of this update.
    pub id: Uuid,
    /// The slot that it came from.
    pub from: Slot,
    /// What ran there.
    pub from_version: String,
    /// The slot that it goes to.
    pub to: Slot,
    /// What is there.
    pub version: String,
    /// Its build.
    pub build: String,
    /// What the daemon had.
    pub vitals: Vitals,
    /// Whether the device was in a network.
    pub network: bool,
    /// When.
    pub at: UnixMs,
    /// Whether the new slot was chosen.
    #[serde(default)]
    pub switched: bool,
    /// How often the new slot came as far as to be counted.
    #[serde(default)]
    pub boots: u32,
    /// The id that the kernel gave to the last of them.
    #[serde(default)]
    pub boot_id: Option<String>,
}

impl Before {
    /// That of an update of `image`, which runs in `from`.
    pub(super) fn new(image: &Image, from: Slot, update: &Manifest, vitals: Vitals, network: bool) -> Before {
        Before {
            id: Uuid::now_v7(),
            from,
            from_version: image.name(),
            to: from.other(),
            version: update.version.clone(),
            build: update.build.clone(),
            vitals,
            network,
            at: UnixMs::now(),
            switched: false,
            boots: 0,
            boot_id: None,
        }
    }

    /// The update that is under way. What cannot be read is none: a boot goes on all the same.
    pub fn read(place: &Place) -> Option<Before> {
        files::read_json(&kept(place, "before.json")).ok().flatten()
    }

    pub(super) fn write(&self, place: &Place) -> Result<(), Error> {
        files::make_directory(&place.data().join("update"), 0o700)?;
        files::write_json(&kept(place, "before.json"), self, 0o600)
    }

    /// The copy of the store.
    pub fn copy(place: &Place) -> PathBuf {
        kept(place, "before.picloud.zst")
    }

    /// Ends the update: with its report nothing else of it is needed.
    pub(super) fn end(place: &Place) -> Result<(), Error> {
        files::remove_for_good(&Attempt::path(place))?;
        files::remove_for_good(&Before::copy(place))?;
        files::remove_for_good(&kept(place, "before.json"))
    }

    /// The new slot's name in `update.json`.
    pub(super) fn progress(&self, phase: Phase, boot: Boot) -> Progress {
        Progress {
            phase,
            version: Some(self.version.clone()),
            build: Some(self.build.clone()),
            ..Progress::idle(Some(boot.slot))
        }
    }
}

/// Boots in which one request may begin to be installed. Then the device seems to go off because of it.
const BOOTS_MAX: usize = 3;

/// The daemon's request begins to be installed in this boot.
///
/// # Errors
/// If it began in too many boots before, and none of them came to its end.
pub(super) fn begin_request(place: &Place) -> Result<(), Error> {
    let Some(id) = boot_id(place) else { return Ok(()) };
    let path = kept(place, "boots.json");
    let mut boots: Vec<String> = files::read_json(&path).ok().flatten().unwrap_or_default();
    if boots.last() != Some(&id) {
        boots.push(id);
        files::make_directory(&place.data().join("update"), 0o700)?;
        files::write_json(&path, &boots, 0o600)?;
    }
    if boots.len() <= BOOTS_MAX {
        return Ok(());
    }
    Err(Error::Nothing(format!(
        "the device went off {BOOTS_MAX} times while this update was installed: look at its power supply, and bring the update again"
    )))
}

/// The request came to its end, whatever that was.
pub(super) fn end_request(place: &Place) -> Result<(), Error> {
    files::remove_for_good(&kept(place, "boots.json"))
}

/// What the kernel calls this boot.
pub(super) fn boot_id(place: &Place) -> Option<String> {
    let id = std::fs::read_to_string(place.path("proc/sys/kernel/random/boot_id")).ok()?;
    Some(id.trim().to_owned())
}

fn kept(place: &Place, name: &str) -> PathBuf {
    place.data().join("update").join(name)
}

/// Why a boot of the new slot was no good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// Of this update.
    pub id: Uuid,
    /// When it was given up.
    pub at: UnixMs,
    /// What was missing.
    pub reasons: Vec<String>,
}

impl Attempt {
    fn path(place: &Place) -> PathBuf {
        kept(place, "attempt.json")
    }

    /// The last one of this update.
    pub(super) fn read(place: &Place, id: Uuid) -> Option<Attempt> {
        let found: Option<Attempt> = files::read_json(&Attempt::path(place)).ok().flatten();
        found.filter(|attempt| attempt.id == id)
    }

    pub(super) fn write(&self, place: &Place) -> Result<(), Error> {
        files::write_json(&Attempt::path(place), self, 0o600)
    }
}

/// How an update ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of this update.
    pub id: Uuid,
    /// When it ended.
    pub at: UnixMs,
    /// `done` or `rolled_back`.
    pub outcome: Phase,
    /// All of it in a sentence.
    pub message: String,
    /// What ran before.
    pub from_version: String,
    /// The version of the update.
    pub version: String,
    /// Its build.
    pub build: String,
    /// The slot that it was written to.
    pub slot: Slot,
    /// Why it was given up.
    pub reasons: Vec<String>,
    /// What became of the data, if they had to go back, too.
    pub store: Option<String>,
    /// The last lines of the journal of the new slot's last boot.
    pub journal: Vec<String>,
}

impl Report {
    /// That the new slot proved itself.
    pub(super) fn done(before: &Before) -> Report {
        let Before { id, from_version, version, build, to, .. } = before.clone();
        let message = format!("update to {version} ({build}) is done: slot {to} runs and is well");
        let (reasons, journal) = (Vec::new(), Vec::new());
        let (at, outcome, slot) = (UnixMs::now(), Phase::Done, to);
        Report { id, at, outcome, message, from_version, version, build, slot, reasons, store: None, journal }
    }

    /// That it did not.
    pub(super) fn rolled_back(before: &Before, reasons: Vec<String>, journal: Vec<String>) -> Report {
        let Before { version, build, from, .. } = before;
        let why = reasons.join("; ");
        let message = format!("update to {version} ({build}) was rolled back: {why}. Slot {from} runs again");
        Report { outcome: Phase::RolledBack, message, reasons, journal, ..Report::done(before) }
    }

    /// Those that are kept, newest first.
    pub fn kept(place: &Place) -> Vec<Report> {
        files::read_json(&kept(place, "reports.json")).ok().flatten().unwrap_or_default()
    }

    /// Those that the daemon may read; none before the helper of this boot published them.
    pub fn published(place: &Place) -> Vec<Report> {
        files::read_json(&published_path(place)).ok().flatten().unwrap_or_default()
    }

    /// Keeps it, once.
    pub(super) fn keep(&self, place: &Place) -> Result<(), Error> {
        let mut all = Report::kept(place);
        all.retain(|other| other.id != self.id);
        all.insert(0, self.clone());
        all.truncate(REPORTS_MAX);
        files::write_json(&kept(place, "reports.json"), &all, 0o600)?;
        files::write_json(&kept(place, "report.json"), self, 0o600)
    }

    /// Lets the daemon read those that are kept.
    pub(super) fn publish(place: &Place) -> Result<(), Error> {
        files::make_directory(&place.run(), 0o755)?;
        let path = published_path(place);
        files::write_json(&path, &Report::kept(place), 0o600)?;
        if place.daemon().exists() { files::give_to_owner_of(&place.daemon(), &path) } else { Ok(()) }
    }
}

fn published_path(place: &Place) -> PathBuf {
    place.run().join("reports.json")
}

/// Ends a probation well: from here on `slot` boots. Whatever is cut short here, the next boot finishes.
pub(super) fn confirm(place: &Place, disk: &std::path::Path, boot: Boot, state: State) -> Result<(), Error> {
    State { slot: boot.slot, pending: None, tries: 0, ..state }.write(disk)?;
    finish_done(place, boot)
}

/// Writes down that the new slot proved itself.
pub(super) fn finish_done(place: &Place, boot: Boot) -> Result<(), Error> {
    let Some(before) = Before::read(place) else { return Progress::idle(Some(boot.slot)).tell(place) };
    Report::done(&before).keep(place)?;
    Before::end(place)?;
    Report::publish(place)?;
    before.progress(Phase::Done, boot).tell(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A supply that is too weak to write a slot must not have it written for ever.
    #[test]
    fn an_update_that_takes_the_device_down_is_given_up() {
        let dir = crate::device::prepare::testing::TempDir::new();
        let place = Place::below(dir.path());
        begin_request(&place).unwrap();
        let id = place.path("proc/sys/kernel/random/boot_id");
        std::fs::create_dir_all(id.parent().unwrap()).unwrap();
        for boot in ["a\n", "b\n", "b\n", "c\n", "c\n"] {
            std::fs::write(&id, boot).unwrap();
            begin_request(&place).unwrap();
        }
        std::fs::write(&id, "d\n").unwrap();
        assert!(begin_request(&place).unwrap_err().to_string().contains("went off 3 times"));
        end_request(&place).unwrap();
        begin_request(&place).unwrap();
    }
}
