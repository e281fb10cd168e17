//! How long the writer gathers before a commit on a slow card.
//!
//! A plain loop makes a convoy: whoever was answered by one sync comes back while the next is under way, and
//! misses it, so that each caller rides every second one. So the writer waits a fraction of a sync for those who
//! are likely to come: as many as the last commit answered, and as many as came meanwhile. It never waits when it
//! serves one caller alone, nor on a card that syncs faster than it is worth. PostgreSQL's `commit_delay` is the
//! model, but the delay follows the card.

use std::time::Duration;

/// Cards faster than this are not waited for: a sleep is not shorter.
const SLOW_FROM: Duration = Duration::from_millis(1);
/// The longest wait is this part of a sync.
const WAIT_PART: u32 = 4;
/// A wait ends when for this part of a sync nobody came.
const QUIET_PART: u32 = 8;
/// A sync counts this part of the mean.
const MEAN_PART: u32 = 8;

/// What the last commits were like.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    sync: Duration,
    answered: usize,
}

/// How to wait for the rest of a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gather {
    /// No longer than this in all.
    pub(crate) at_most: Duration,
    /// No longer than this if nobody comes.
    pub(crate) quiet: Duration,
    /// No longer than until this many wait.
    pub(crate) crowd: usize,
}

impl Pace {
    /// A durable commit that answered so many took this long.
    pub(crate) fn committed(&mut self, answered: usize, took: Duration) {
        self.answered = answered;
        self.sync = match self.sync {
            Duration::ZERO => took,
            mean => mean - mean / MEAN_PART + took / MEAN_PART,
        };
    }

    /// What to wait for when `came` callers came during the last commit; `None`: nothing.
    pub(crate) fn gather(&self, came: usize) -> Option<Gather> {
        let crowd = self.answered + came;
        if crowd <= 1 || self.answered == 0 || self.sync < SLOW_FROM {
            return None;
        }
        Some(Gather { at_most: self.sync / WAIT_PART, quiet: self.sync / QUIET_PART, crowd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_millis(16);

    #[track_caller]
    fn check(answered: usize, took: Duration, came: usize, crowd: Option<usize>) {
        let mut pace = Pace::default();
        pace.committed(answered, took);
        assert_eq!(pace.gather(came).map(|gather| gather.crowd), crowd);
    }

    #[test]
    fn it_waits_for_those_who_are_likely_to_come() {
        check(16, SYNC, 16, Some(32));
        check(1, SYNC, 1, Some(2));
        check(128, SYNC, 0, Some(128));
        // Alone, or nobody was answered.
        check(1, SYNC, 0, None);
        check(0, SYNC, 1, None);
        check(0, SYNC, 9, None);
        check(16, Duration::from_micros(120), 16, None);
    }

    #[test]
    fn the_wait_follows_the_card() {
        let mut pace = Pace::default();
        pace.committed(9, SYNC);
        let gather = pace.gather(1).unwrap();
        assert_eq!((gather.at_most, gather.quiet), (SYNC / 4, SYNC / 8));
        for _ in 0..100 {
            pace.committed(9, SYNC * 3);
        }
        let slower = pace.gather(1).unwrap();
        assert!(slower.at_most > gather.at_most * 2, "{slower:?}");
        assert_eq!(Pace::default().gather(5), None);
    }
}
