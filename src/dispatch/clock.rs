//! Whether the wall clock is good enough to strike by.
//!
//! A board without a battery starts at whatever instant it last knew. Schedules wait until something has set the clock,
//! because a tick at a wrong time is worse than a late one; nothing else waits.

use std::fs;
use std::path::Path;

use crate::model::{BUILD_EPOCH, UnixMs};

/// systemd-timesyncd.service(8) and systemd-time-wait-sync.service(8): it is there once the clock is set.
const SYNCHRONISED: &str = "run/systemd/timesync/synchronized";
/// What the appliance's helper tells that sets the clock where no time server can be reached.
const HELPER: &str = "run/picloud-device/clock.json";
/// The device tree's name of the board. `/proc/device-tree` leads to it, too, but a sandbox hides that.
const BOARD: &str = "sys/firmware/devicetree/base/model";

/// Where all of that lies.
const ROOT: &str = "/";

/// What schedules wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockRule {
    /// For a synchronised clock where there is no battery; else for one that is not in the past.
    Auto,
    /// For a synchronised clock.
    Synchronised,
    /// For nothing.
    Trusted,
}

/// What is known of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) synchronised: bool,
    pub(super) has_battery: bool,
    pub(super) now: UnixMs,
}

impl Known {
    /// Looks at the machine whose files lie below `root`.
    pub(super) fn look(root: &Path, now: UnixMs) -> Known {
        let board = fs::read_to_string(root.join(BOARD)).unwrap_or_default();
        Known { synchronised: is_set(root), has_battery: !board.contains("Raspberry Pi"), now }
    }

    /// Whether schedules may strike.
    pub(super) fn is_good(self, rule: ClockRule) -> bool {
        match rule {
            ClockRule::Trusted => true,
            ClockRule::Synchronised => self.synchronised,
            ClockRule::Auto => self.synchronised || (self.has_battery && self.now >= BUILD_EPOCH),
        }
    }
}

impl ClockRule {
    /// Whether the wall clock is good enough by this rule, now.
    pub fn is_met(self) -> bool {
        Known::look(Path::new(ROOT), UnixMs::now()).is_good(self)
    }
}

/// Whether something keeps the clock in step with the world.
pub(super) fn is_synchronised() -> bool {
    is_set(Path::new(ROOT))
}

fn is_set(root: &Path) -> bool {
    let by_helper = || {
        let told = fs::read(root.join(HELPER)).unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&told).is_ok_and(|told| told["synchronised"] == true)
    };
    root.join(SYNCHRONISED).exists() || by_helper()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_known_by_what_a_sandbox_shows() {
        let dir = std::env::temp_dir().join(format!("picloud-clock-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        #[track_caller]
        fn check(root: &Path, synchronised: bool, has_battery: bool) {
            let known = Known { synchronised, has_battery, now: UnixMs(7) };
            assert_eq!(Known::look(root, UnixMs(7)), known);
        }
        check(&dir, false, true);
        put("sys/firmware/devicetree/base/model", "Some Other Board\0");
        check(&dir, false, true);
        put("sys/firmware/devicetree/base/model", "Raspberry Pi 4 Model B Rev 1.4\0");
        check(&dir, false, false);
        put("run/picloud-device/clock.json", r#"{"synchronised":false}"#);
        check(&dir, false, false);
        put("run/picloud-device/clock.json", r#"{"synchronised":true}"#);
        check(&dir, true, false);
        put("run/picloud-device/clock.json", "{");
        check(&dir, false, false);
        put("run/systemd/timesync/synchronized", "");
        check(&dir, true, false);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn schedules_wait_for_a_clock_that_may_be_wrong() {
        let (past, present) = (UnixMs(600_000), UnixMs(1_790_000_000_000));
        for (synchronised, has_battery, now, good) in [
            // In the order auto, synchronised, trusted.
            (false, true, present, [true, false, true]),
            (false, true, past, [false, false, true]),
            (false, false, present, [false, false, true]),
            (true, false, present, [true, true, true]),
            (true, true, past, [true, true, true]),
        ] {
            let known = Known { synchronised, has_battery, now };
            let rules = [ClockRule::Auto, ClockRule::Synchronised, ClockRule::Trusted];
            assert_eq!(rules.map(|rule| known.is_good(rule)), good, "{known:?}");
        }
    }
}
