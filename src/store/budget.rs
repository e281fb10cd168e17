//! The write budget: what an operator allows the card to take each day, and what is done when it takes more.
//!
//! A token bucket of an eighth of the day's budget, filled by the monotonic clock. When it is empty the store is
//! thrifty: relaxed changes are flushed less often and less of the execution log is kept, until the bucket is
//! half full. Nothing that was promised is touched, so a budget that is too small for what is promised is
//! exceeded, and only said so. Nothing here wakes up by itself: whoever writes or looks brings the time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const DAY_MS: u128 = 24 * 3600 * 1000;
/// The bucket holds this part of a day's budget.
const BUCKET_PART: u128 = 8;
/// A thrifty store flushes relaxed changes this many times less often.
const FLUSH_FACTOR: u32 = 10;
/// But no less often than this.
const FLUSH_MAX: Duration = Duration::from_secs(10);
/// A thrifty store keeps this part of its log.
const LOG_PART: u64 = 4;

/// The budget and how it stands. Without one nothing is ever over.
#[derive(Debug)]
pub(crate) struct Budget {
    flush_interval: Duration,
    bucket: Option<Mutex<Bucket>>,
}

/// How the budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetView {
    /// Bytes per day; 0 if there is no budget.
    pub bytes_per_day: u64,
    /// Bytes that may be written at once before it is exceeded.
    pub left_bytes: u64,
    /// Whether it is exceeded and has not recovered.
    pub over: bool,
    /// The longest that a relaxed change stays in memory only.
    pub flush_interval: Duration,
}

/// Tokens are bytes times the milliseconds of a day, so that each millisecond brings a whole number of them.
#[derive(Debug)]
struct Bucket {
    bytes_per_day: u64,
    tokens: u128,
    filled: Instant,
    bytes_seen: u64,
    over: bool,
}

/// A change between within and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Over,
    Within,
}

impl Budget {
    /// A budget of so many bytes per day, 0 for none, over a store that flushes so often.
    pub(crate) fn new(bytes_per_day: u64, flush_interval: Duration, now: Instant) -> Budget {
        let bucket = (bytes_per_day > 0).then(|| Mutex::new(Bucket::new(bytes_per_day, now)));
        Budget { flush_interval, bucket }
    }

    /// Holds what was written against the budget: `bytes_written` since the start, by the card's meter.
    pub(crate) fn spend(&self, bytes_written: u64, now: Instant) {
        let Some(mut bucket) = self.lock() else { return };
        let turn = bucket.spend(bytes_written, now);
        let bytes_per_day = bucket.bytes_per_day;
        drop(bucket);
        let flush_interval_ms = self.flush_interval().as_millis();
        match turn {
            None => {}
            Some(Turn::Over) => tracing::warn!(
                bytes_per_day,
                flush_interval_ms,
                "the card's write budget is exceeded: relaxed calls are flushed less often and only a quarter of the execution log is kept"
            ),
            Some(Turn::Within) => tracing::info!(
                bytes_per_day,
                flush_interval_ms,
                "the card's write budget has recovered: relaxed calls are flushed and the execution log is kept as usual"
            ),
        }
    }

    /// Whether the store is thrifty.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_some_and(|bucket| bucket.over)
    }

    /// The longest that a relaxed change stays in memory only, as things stand.
    pub(crate) fn flush_interval(&self) -> Duration {
        if self.is_over() {
            (self.flush_interval * FLUSH_FACTOR).min(FLUSH_MAX).max(self.flush_interval)
        } else {
            self.flush_interval
        }
    }

    /// Bytes of the log to keep, of those that are kept as a rule.
    pub(crate) fn log_bytes(&self, bytes_max: u64) -> u64 {
        if self.is_over() { bytes_max / LOG_PART } else { bytes_max }
    }

    /// How it stands.
    pub(crate) fn view(&self) -> BudgetView {
        let flush_interval = self.flush_interval();
        match self.lock() {
            None => BudgetView { bytes_per_day: 0, left_bytes: 0, over: false, flush_interval },
            Some(bucket) => BudgetView {
                bytes_per_day: bucket.bytes_per_day,
                left_bytes: u64::try_from(bucket.tokens / DAY_MS).unwrap_or(u64::MAX),
                over: bucket.over,
                flush_interval,
            },
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Bucket>> {
        Some(self.bucket.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Bucket {
    fn new(bytes_per_day: u64, now: Instant) -> Bucket {
        let tokens = capacity(bytes_per_day);
        Bucket { bytes_per_day, tokens, filled: now, bytes_seen: 0, over: false }
    }

    fn spend(&mut self, bytes_written: u64, now: Instant) -> Option<Turn> {
        let bytes = bytes_written.saturating_sub(self.bytes_seen);
        let passed = now.saturating_duration_since(self.filled).as_millis();
        self.tokens += passed * u128::from(self.bytes_per_day);
        self.tokens =
            self.tokens.min(capacity(self.bytes_per_day)).saturating_sub(u128::from(bytes) * DAY_MS);
        // Less than a millisecond is not lost, but counts the next time.
        self.filled += Duration::from_millis(u64::try_from(passed).unwrap_or(u64::MAX));
        self.bytes_seen = self.bytes_seen.max(bytes_written);
        let over = if self.over { self.tokens < capacity(self.bytes_per_day) / 2 } else { self.tokens == 0 };
        let turned = over != self.over;
        self.over = over;
        turned.then_some(if over { Turn::Over } else { Turn::Within })
    }
}

fn capacity(bytes_per_day: u64) -> u128 {
    u128::from(bytes_per_day) * DAY_MS / BUCKET_PART
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_is_over_when_empty_and_within_when_half_full() {
        let start = Instant::now();
        // 1,000 bytes an hour; the bucket holds 3,000.
        let mut bucket = Bucket::new(24_000, start);
        for (hours, bytes_written, turn) in [
            (0, 2_999, None),
            (0, 3_000, Some(Turn::Over)),
            (1, 3_000, None),
            // What comes in is spent at once, and no debt is made.
            (2, 9_000, None),
            (3, 9_000, None),
            (4, 9_500, Some(Turn::Within)),
            (4, 9_500, None),
            // A long rest fills it to the brim and no further.
            (100, 12_499, None),
            (100, 12_500, Some(Turn::Over)),
            (102, 12_500, Some(Turn::Within)),
        ] {
            let seen = bucket.spend(bytes_written, start + HOUR * hours);
            assert_eq!(seen, turn, "after {hours} hours, {bytes_written} bytes");
        }
    }

    #[test]
    fn many_looks_fill_it_as_fast_as_one() {
        let start = Instant::now();
        let mut bucket = Bucket::new(24_000, start);
        bucket.spend(3_000, start);
        // 0.7 ms apart: each by itself is no whole millisecond.
        for look in 0..2_000_000u32 {
            bucket.spend(3_000, start + Duration::from_micros(700) * look);
        }
        let seconds = bucket.tokens / DAY_MS * 3600 / 1_000;
        assert!((1_396..=1_400).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_thrifty_store_flushes_less_often_and_keeps_less() {
        let now = Instant::now();
        for (flush_ms, budget, over_ms) in [(1_000, 1, 10_000), (100, 1, 1_000), (1_000, 0, 1_000)] {
            let budget = Budget::new(budget, Duration::from_millis(flush_ms), now);
            assert_eq!(budget.view().flush_interval, Duration::from_millis(flush_ms));
            assert_eq!(budget.log_bytes(4_000), 4_000);
            budget.spend(1_000_000, now);
            assert_eq!(budget.view().flush_interval, Duration::from_millis(over_ms));
            assert_eq!(budget.log_bytes(4_000), if budget.is_over() { 1_000 } else { 4_000 });
            assert_eq!(budget.view().over, over_ms > flush_ms);
        }
    }

    #[test]
    fn the_largest_budget_does_not_overflow() {
        let now = Instant::now();
        let mut bucket = Bucket::new(u64::MAX, now);
        assert_eq!(bucket.spend(u64::MAX / 8 + 1, now + HOUR), Some(Turn::Over));
        assert_eq!(bucket.spend(u64::MAX, now + HOUR * 24 * 365), None);
    }
}
