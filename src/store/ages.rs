//! How old things are, on a board whose clock may be wrong.
//!
//! A clock that jumps years ahead must not make everything old at once. So ages go by an instant that moves with
//! the monotonic clock from the latest that the file knows, and never runs ahead of the wall clock. What the wall
//! clock says beyond that counts from the next start on, when there are records that bear it out. Ages can come
//! out too small by this, never too large: things are kept longer, and bounds in bytes still hold.

use std::time::Duration;

use crate::model::UnixMs;

/// Stamps before this are of a clock that was never set (2025-01-01T00:00:00Z): they tell no age.
const SET_FROM: UnixMs = UnixMs(1_735_689_600_000);

/// The present, as far as ages are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ages {
    latest: UnixMs,
}

impl Ages {
    /// `latest` is the latest instant that the file knows; in a new one it is the present.
    pub(crate) fn from(latest: Option<UnixMs>, wall: UnixMs) -> Ages {
        Ages { latest: latest.unwrap_or(wall) }
    }

    /// The present after this uptime, when the wall clock says `wall`.
    pub(crate) fn now(&self, wall: UnixMs, uptime: Duration) -> UnixMs {
        wall.min(self.latest.plus(uptime))
    }
}

/// Whether a clock that was set made this stamp.
pub(crate) fn is_set(at: UnixMs) -> bool {
    at >= SET_FROM
}

/// Whether what was stamped `at` is older than `age_max_ms` at `now`.
pub(crate) fn is_over(at: UnixMs, age_max_ms: i64, now: UnixMs) -> bool {
    is_set(at) && now.0.saturating_sub(at.0) > age_max_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 3_600_000;
    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    /// A record of 10 days ago, kept 30, after an hour, by a wall clock that is off by this.
    #[track_caller]
    fn check(off_ms: i64, old_at: i64, over: bool) {
        let ages = Ages::from(Some(NOW), NOW);
        let now = ages.now(UnixMs(NOW.0 + off_ms), Duration::from_secs(3600));
        assert_eq!(is_over(UnixMs(old_at), 30 * DAY_MS, now), over, "off by {off_ms}");
    }

    #[test]
    fn no_step_of_the_clock_makes_things_old() {
        for off_ms in [0, DAY_MS, 40 * DAY_MS, 50 * 365 * DAY_MS, -DAY_MS, -NOW.0, i64::MAX - NOW.0] {
            check(off_ms, NOW.0 - 10 * DAY_MS, false);
            // Stamped by a clock that was never set.
            check(off_ms, 60_000, false);
        }
        check(0, NOW.0 - 31 * DAY_MS, true);
        check(40 * DAY_MS, NOW.0 - 31 * DAY_MS, true);
        check(-2 * DAY_MS, NOW.0 - 31 * DAY_MS, false);
    }

    #[test]
    fn ages_pass_with_the_time_that_the_device_runs() {
        let ages = Ages::from(None, NOW);
        let after = |days: u64| ages.now(UnixMs(i64::MAX), Duration::from_secs(days * 24 * 3600));
        assert!(!is_over(NOW, 30 * DAY_MS, after(30)));
        assert!(is_over(NOW, 30 * DAY_MS, after(31)));
    }
}
