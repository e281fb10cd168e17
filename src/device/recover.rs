//! `picloud device recover`: PiCloud was given up, and a restart of the device may bring it back.
//!
//! It may: what a stuck driver or a card that the kernel set to read only kept from working begins anew, and the initrd mends
//! the data partition. It must not become a loop, which wears the card and takes the page away that tells what is wrong. So a
//! device that was only just started stays as it is, and so does one that was restarted often. That is counted by how long
//! each boot lasted, since the clock may be set meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Boot, Error, Image, Place, State, disk, files};

/// What failed sooner after the start than this would fail again.
const UPTIME_MIN: Duration = Duration::from_secs(10 * 60);
/// So many restarts
const RESTARTS_MAX: usize = 3;
/// within so long are enough; where they cannot be counted, one.
const WITHIN: Duration = Duration::from_secs(60 * 60);
/// Exit statuses that a restart changes nothing about: wrong arguments, a wrong configuration (sysexits.h).
const BEYOND_HELP: [&str; 2] = ["64", "78"];

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The device restarts, and the how manieth time that is within the last hour.
    Restart(usize),
    /// It stays, and why.
    Stay(String),
}

/// How many seconds the boots lasted that ended with a restart of this kind, the newest last.
#[derive(Default, Serialize, Deserialize)]
struct Restarts {
    after_seconds: Vec<u64>,
}

impl Restarts {
    fn path(place: &Place) -> PathBuf {
        place.data().join("update/restarts.json")
    }

    /// Those within [`WITHIN`]: the newest is as long ago as this boot at least, the one before as long as both, ..
    fn recent(&self, uptime: Duration) -> usize {
        let mut ago = uptime;
        let recent = self.after_seconds.iter().rev().take_while(|seconds| {
            let counts = ago < WITHIN;
            ago = ago.saturating_add(Duration::from_secs(**seconds));
            counts
        });
        recent.count()
    }
}

/// Decides, and writes down that it restarts. `exit_status` is what PiCloud ended with, if that is known.
///
/// # Errors
/// If this is no appliance, or nobody knows how long it is up.
pub fn recover(place: &Place, exit_status: Option<&str>) -> Result<Recovery, Error> {
    Image::here(place)?;
    let boot = Boot::read(place)?;
    if boot.is_on_probation() && State::read(&disk(place)?)?.pending == Some(boot.slot) {
        return Ok(stay("the slot is on probation, and who watches over that decides"));
    }
    if exit_status.is_some_and(|status| BEYOND_HELP.contains(&status)) {
        return Ok(stay("its arguments or its configuration are wrong, and have to be mended"));
    }
    let uptime = uptime(place)?;
    if uptime < UPTIME_MIN {
        let minutes = UPTIME_MIN.as_secs() / 60;
        return Ok(stay(&format!(
            "the device was started less than {minutes} minutes ago, so another start would not help"
        )));
    }
    let path = Restarts::path(place);
    // A file that nobody understands must not keep a device from being mended.
    let mut restarts: Restarts = files::read_json(&path).ok().flatten().unwrap_or_default();
    let recent = restarts.recent(uptime);
    if recent >= RESTARTS_MAX {
        return Ok(stay(&format!(
            "it was restarted {recent} times within the last hour, and that did not help"
        )));
    }
    restarts.after_seconds.push(uptime.as_secs());
    let surplus = restarts.after_seconds.len().saturating_sub(RESTARTS_MAX);
    restarts.after_seconds.drain(..surplus);
    match files::write_json(&path, &restarts, 0o600) {
        // A card that is read only is what a restart mends.
        Err(why) if uptime < WITHIN => Ok(stay(&format!(
            "the device is up for less than an hour, and its restarts cannot be counted: {why}"
        ))),
        _ => Ok(Recovery::Restart(recent + 1)),
    }
}

fn stay(why: &str) -> Recovery {
    Recovery::Stay(why.to_owned())
}

/// How long the device is up (proc_uptime(5)).
fn uptime(place: &Place) -> Result<Duration, Error> {
    let path = place.path("proc/uptime");
    let text = std::fs::read_to_string(&path).map_err(|why| Error::io("read", &path, why))?;
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse().ok());
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| Error::io("understand", &path, std::io::ErrorKind::InvalidData.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Folder;

    const MINUTE: u64 = 60;

    /// A device that is up for so many seconds.
    fn device(uptime_seconds: u64) -> Folder {
        let folder = Folder::new();
        let image = r#"{"compatible":"picloud-rpi-arm64","version":"0.1.0","build":"2026-11-27T00:00:00Z","slot_bytes":536870912,"development":true}"#;
        folder.file("usr/lib/picloud/image.json", image.as_bytes());
        folder.file("proc/cmdline", b"ro picloud.slot=A picloud.pending=");
        std::fs::create_dir_all(folder.path().join("data/update")).unwrap();
        is_up(&folder, uptime_seconds);
        folder
    }

    fn is_up(folder: &Folder, seconds: u64) {
        folder.file("proc/uptime", format!("{seconds}.07 12.30\n").as_bytes());
    }

    #[track_caller]
    fn stays(folder: &Folder, status: Option<&str>, word: &str) {
        let decided = recover(&folder.place(), status).unwrap();
        assert!(matches!(&decided, Recovery::Stay(why) if why.contains(word)), "{decided:?}");
    }

    #[test]
    fn what_failed_at_once_stays_and_what_ran_restarts() {
        stays(&device(10 * MINUTE - 1), None, "less than 10 minutes");
        assert_eq!(recover(&device(10 * MINUTE).place(), Some("1")).unwrap(), Recovery::Restart(1));
        stays(&device(90 * MINUTE), Some("78"), "configuration");
        stays(&device(90 * MINUTE), Some("64"), "configuration");
    }

    #[test]
    fn the_fourth_restart_within_an_hour_does_not_come() {
        let device = device(30 * MINUTE);
        for (count, minutes) in [(1, 30), (2, 11), (3, 11)] {
            is_up(&device, minutes * MINUTE);
            assert_eq!(recover(&device.place(), None).unwrap(), Recovery::Restart(count));
        }
        is_up(&device, 11 * MINUTE);
        stays(&device, None, "3 times");
        // Thirty-seven minutes later the first of the three is an hour ago, and none more is kept.
        is_up(&device, 38 * MINUTE);
        assert_eq!(recover(&device.place(), None).unwrap(), Recovery::Restart(3));
        is_up(&device, 60 * MINUTE);
        assert_eq!(recover(&device.place(), None).unwrap(), Recovery::Restart(1));
    }

    #[test]
    fn a_record_that_nobody_understands_is_none() {
        let device = device(20 * MINUTE);
        device.file("data/update/restarts.json", b"{\"after_seconds\": [");
        assert_eq!(recover(&device.place(), None).unwrap(), Recovery::Restart(1));
    }

    #[test]
    fn what_cannot_be_counted_happens_once_an_hour() {
        let device = device(59 * MINUTE);
        // A directory stands where the record goes.
        std::fs::create_dir_all(device.path().join("data/update/restarts.json/x")).unwrap();
        stays(&device, None, "cannot be counted");
        is_up(&device, 60 * MINUTE);
        assert_eq!(recover(&device.place(), None).unwrap(), Recovery::Restart(1));
    }

    #[test]
    fn a_slot_on_probation_and_another_computer_are_left_alone() {
        let folder = device(90 * MINUTE);
        folder.file("proc/cmdline", b"ro picloud.slot=B picloud.pending=B");
        let card = folder.file("card", &vec![0; 8 * 1024 * 1024]);
        folder.file("run/picloud-device/disk", card.to_str().unwrap().as_bytes());
        let state = State { pending: Some(super::super::Slot::B), tries: 2, ..State::default() };
        state.write(&card).unwrap();
        stays(&folder, None, "on probation");
        std::fs::remove_file(folder.path().join("usr/lib/picloud/image.json")).unwrap();
        assert!(matches!(recover(&folder.place(), None), Err(Error::NoAppliance)));
    }
}
