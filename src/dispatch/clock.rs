//! Whether the wall clock is good enough to strike by.
//!
//! A board without a battery starts at whatever instant it last knew. Schedules wait until something has set the clock,
//! because a tick at a wrong time is worse than a late one; nothing else waits.

use std::fs;
use std::path::Path;

use crate::model::{BUILD_EPOCH, UnixMs};

/// systemd-timesyncd.service(8) and systemd-time-wait-sync.service(8): it is there once the clock is set.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// The device tree's name of the board.
const BOARD: &str = "/proc/device-tree/model";

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
    /// Looks at the machine.
    pub(super) fn look(now: UnixMs) -> Known {
        let board = fs::read_to_string(BOARD).unwrap_or_default();
        Known { synchronised: is_synchronised(), has_battery: !board.contains("Raspberry Pi"), now }
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
        Known::look(UnixMs::now()).is_good(self)
    }
}

/// Whether something keeps the clock in step with the world.
pub(super) fn is_synchronised() -> bool {
    Path::new(SYNCHRONISED).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

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
