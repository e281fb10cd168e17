//! Latencies in buckets that are at most 1/64 wide, from nanoseconds to centuries, in 30 KiB.

use std::time::Duration;

/// Buckets for each doubling, and the power of two that this is.
const STEPS: usize = 64;
const STEPS_LOG2: u32 = 6;

/// How often which latency was seen.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Histogram {
    /// Nothing seen.
    pub(crate) fn new() -> Histogram {
        Histogram { buckets: vec![0; STEPS * 60], count: 0 }
    }

    /// Counts one latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(nanos);
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    /// Latencies seen.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The latency that `percent` of all do not exceed; zero if there are none.
    pub(crate) fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            *count > 0 && seen >= rank
        });
        found.map_or(Duration::ZERO, |bucket| Duration::from_nanos(lower_bound(bucket)))
    }
}

/// Values below [`STEPS`] have a bucket each; from there on each doubling is cut into as many.
fn bucket(nanos: u64) -> usize {
    let doublings = nanos.checked_ilog2().unwrap_or(0).saturating_sub(STEPS_LOG2);
    let step = usize::try_from(nanos >> doublings).unwrap_or(usize::MAX);
    usize::try_from(doublings).unwrap_or(usize::MAX) * STEPS + step
}

/// The least value of a bucket.
fn lower_bound(bucket: usize) -> u64 {
    let doublings = (bucket / STEPS).saturating_sub(1);
    let step = u64::try_from(bucket - doublings * STEPS).unwrap_or(u64::MAX);
    step << doublings
}
