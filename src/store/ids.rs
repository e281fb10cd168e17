//! Ids that sort by time, whatever the clock does.
//!
//! A board without a clock of its own starts in the past; ids made then must still come after those in the file,
//! because lists, cursors and the order of recovery go by them. So ids go on from the latest one that is known,
//! and the clock only moves them forward (RFC 9562 6.2).

use std::sync::{Arc, Mutex, PoisonError};

use uuid::{ContextV7, Timestamp, Uuid};

use crate::model::UnixMs;

/// Where all ids of one file come from.
#[derive(Clone)]
pub struct Ids {
    context: Arc<Mutex<ContextV7>>,
}

impl Ids {
    /// Ids that come after `latest`.
    pub fn after(latest: Uuid) -> Ids {
        let ids = Ids { context: Arc::new(Mutex::new(ContextV7::new())) };
        if let Some(at) = latest.get_timestamp() {
            let (seconds, nanos) = at.to_unix();
            // The next millisecond, so that the rest of the id does not matter.
            ids.next(seconds, nanos.saturating_add(1_000_000));
        }
        ids
    }

    /// The next id; it carries `now`, unless an earlier one was later.
    pub fn at(&self, now: UnixMs) -> Uuid {
        let millis = u64::try_from(now.0).unwrap_or(0);
        self.next(millis / 1000, u32::try_from(millis % 1000 * 1_000_000).unwrap_or(0))
    }

    fn next(&self, seconds: u64, nanos: u32) -> Uuid {
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        Uuid::new_v7(Timestamp::from_unix(&*context, seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn ids_rise_whatever_the_clock_does() {
        let start = 1_790_000_000_000;
        let steps = [0, 0, 1, HOUR_MS, -5 * HOUR_MS, -start, 1, 0, 3 * HOUR_MS, start, start + 2 * HOUR_MS];
        let (ids, mut last) = (Ids::after(Uuid::nil()), Uuid::nil());
        for step in steps {
            for _ in 0..100 {
                let id = ids.at(UnixMs(start + step));
                assert!(id > last, "{id} after {last}, step {step}");
                last = id;
            }
        }
    }

    #[test]
    fn ids_go_on_after_the_latest_in_the_file() {
        let latest = Ids::after(Uuid::nil()).at(UnixMs(1_790_000_000_000));
        for boot in [0, 1_000, 1_790_000_000_000, 1_790_000_000_001] {
            let id = Ids::after(latest).at(UnixMs(boot));
            assert!(id > latest, "{id} is not after {latest}");
            assert_eq!(id.get_version_num(), 7);
        }
    }
}
