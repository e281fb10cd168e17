//! What the card has taken in all the time that this file is in use.
//!
//! The meter of the card counts from the start of the process; here its figures are added to those of earlier
//! processes. They are kept in the file, but only along with commits that are made anyway: what a process wrote
//! after its last checkpoint and did not come to note, and the last commit of each process, is missing from the
//! totals, which are therefore a little low. Time is time of operation, by the monotonic clock: a device without
//! a clock of its own has no better one, and a card that is off does not wear.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::Error;
use super::backend::CardMeter;
use super::codec::{self, Stored};
use super::tables::{META, META_WEAR};
use super::{Load, Store};
use crate::model::UnixMs;

/// The rate is that of so many seconds of operation.
const DAY_SECONDS: u64 = 24 * 3600;
/// Samples are so far apart at least.
const SAMPLE_SECONDS: u64 = 3600;
/// A day of them, and one before it.
const SAMPLES_MAX: usize = 25;
/// A device that is never quiet notes its totals with the first flush after this time.
const NOTE_EVERY: Duration = Duration::from_secs(3600);

/// Totals over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wear {
    /// When counting began, by the wall clock of that time.
    pub since: UnixMs,
    /// Seconds of operation.
    pub seconds: u64,
    /// Bytes written to the file.
    pub bytes_written: u64,
    /// Bytes that the store was asked to keep, before compression.
    pub logical_bytes: u64,
    /// Calls of fdatasync.
    pub syncs: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Seconds of operation and bytes written until then, oldest first, an hour apart.
    samples: Vec<(u64, u64)>,
}

impl Stored for Wear {
    const VERSION: u8 = 1;
    const WHAT: &'static str = "wear of the card";
}

impl Wear {
    /// Bytes written per day at the rate of the last day of operation, or of what there is of it, and how many
    /// seconds that is.
    pub fn bytes_per_day(&self) -> (u64, u64) {
        let from = self.seconds.saturating_sub(DAY_SECONDS);
        let (seconds_then, bytes_then) = self.at(from);
        let seconds = self.seconds.saturating_sub(seconds_then).max(1);
        let bytes = u128::from(self.bytes_written.saturating_sub(bytes_then));
        let per_day = bytes * u128::from(DAY_SECONDS) / u128::from(seconds);
        (u64::try_from(per_day).unwrap_or(u64::MAX), seconds)
    }

    /// Bytes written for each byte kept, if any was.
    pub fn amplification(&self) -> Option<f64> {
        (self.logical_bytes > 0).then(|| float(self.bytes_written) / float(self.logical_bytes))
    }

    /// Years that a card of so many terabytes has left at this rate; `None` if nothing wears it.
    pub fn years_left(&self, endurance_tbw: u64) -> Option<f64> {
        let left = endurance_tbw.saturating_mul(1_000_000_000_000).saturating_sub(self.bytes_written);
        let (per_day, _) = self.bytes_per_day();
        (per_day > 0).then(|| float(left) / float(per_day) / 365.25)
    }

    /// The last sample up to `second`, moved there on the line to the next one.
    fn at(&self, second: u64) -> (u64, u64) {
        let after = self.samples.partition_point(|(seconds, _)| *seconds <= second);
        let (t0, b0) = after.checked_sub(1).and_then(|at| self.samples.get(at)).copied().unwrap_or((0, 0));
        let (t1, b1) = self.samples.get(after).copied().unwrap_or((self.seconds, self.bytes_written));
        if t0 > second || t1 <= t0 {
            return (t0, b0);
        }
        let passed = u128::from(b1.saturating_sub(b0)) * u128::from(second - t0) / u128::from(t1 - t0);
        (second, b0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    fn sample(&mut self) {
        if self
            .samples
            .last()
            .is_some_and(|(seconds, _)| self.seconds < seconds.saturating_add(SAMPLE_SECONDS))
        {
            return;
        }
        self.samples.push((self.seconds, self.bytes_written));
        // One sample must stand at the day's beginning or before it.
        while self.samples.len() > SAMPLES_MAX
            && self.samples[1].0.saturating_add(DAY_SECONDS) <= self.seconds
        {
            self.samples.remove(0);
        }
    }
}

/// What this process counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    bytes_written: u64,
    logical_bytes: u64,
    syncs: u64,
    commits: u64,
}

/// The totals of earlier processes, to which this one's are added.
#[derive(Debug)]
pub(crate) struct Odometer(Mutex<Drive>);

#[derive(Debug)]
struct Drive {
    before: Wear,
    started: Instant,
    noted: Instant,
}

impl Odometer {
    /// Goes on from what the file knows.
    pub(crate) fn after(mut before: Wear, now: Instant) -> Odometer {
        if before.since == UnixMs::default() {
            before.since = UnixMs::now();
        }
        Odometer(Mutex::new(Drive { before, started: now, noted: now }))
    }

    /// The totals now.
    pub(crate) fn read(&self, meter: &CardMeter, load: &Load, now: Instant) -> Wear {
        let counted = Counted {
            bytes_written: meter.bytes_written.load(Relaxed),
            logical_bytes: load.logical_bytes.load(Relaxed),
            syncs: meter.syncs.load(Relaxed),
            commits: load.commits.load(Relaxed),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(counted, now)
    }

    /// Whether the totals are to be noted with a durable commit that is no checkpoint.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let drive = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(drive.noted) >= NOTE_EVERY
    }

    /// Puts the totals into `txn`.
    pub(crate) fn note(
        &self,
        txn: &WriteTransaction,
        meter: &CardMeter,
        load: &Load,
        now: Instant,
    ) -> Result<(), Error> {
        let wear = self.read(meter, load, now);
        txn.open_table(META)?.insert(META_WEAR, codec::encode(&wear).as_slice())?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).noted = now;
        Ok(())
    }
}

impl Drive {
    fn read(&mut self, counted: Counted, now: Instant) -> Wear {
        let mut wear = self.before.clone();
        wear.seconds = wear.seconds.saturating_add(now.saturating_duration_since(self.started).as_secs());
        wear.bytes_written = wear.bytes_written.saturating_add(counted.bytes_written);
        wear.logical_bytes = wear.logical_bytes.saturating_add(counted.logical_bytes);
        wear.syncs = wear.syncs.saturating_add(counted.syncs);
        wear.commits = wear.commits.saturating_add(counted.commits);
        wear.sample();
        self.before.samples.clone_from(&wear.samples);
        wear
    }
}

impl Store {
    /// What the card has taken in all the time that the file is in use.
    pub fn wear(&self) -> Wear {
        self.shared.odometer.read(&self.shared.meter, &self.shared.load, Instant::now())
    }
}

/// The totals that a file knows. They are only told, so what cannot be read keeps no device from starting:
/// counting begins anew.
pub(crate) fn read(txn: &WriteTransaction) -> Result<Wear, Error> {
    let meta = txn.open_table(META)?;
    let Some(bytes) = meta.get(META_WEAR)? else { return Ok(Wear::default()) };
    Ok(codec::decode(bytes.value()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the totals of the card's wear begin anew");
        Wear::default()
    }))
}

/// The same number with a fraction; exact up to 2^53.
fn float(number: u64) -> f64 {
    Duration::from_secs(number).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(before: Wear) -> (Drive, Instant) {
        let now = Instant::now();
        (Drive { before, started: now, noted: now }, now)
    }

    fn read(drive: &mut Drive, started: Instant, seconds: u64, bytes_written: u64) -> Wear {
        let counted = Counted { bytes_written, logical_bytes: bytes_written / 4, syncs: 1, commits: 2 };
        drive.read(counted, started + Duration::from_secs(seconds))
    }

    #[test]
    fn a_process_goes_on_where_the_last_one_ended() {
        let (mut first, started) = drive(Wear::default());
        let kept = read(&mut first, started, 100, 1_000);
        let (mut second, started) = drive(codec::decode(&codec::encode(&kept)).unwrap());
        let wear = read(&mut second, started, 50, 500);
        assert_eq!((wear.seconds, wear.bytes_written, wear.logical_bytes), (150, 1_500, 375));
        assert_eq!((wear.syncs, wear.commits), (2, 4));
        assert!(wear.amplification().is_some_and(|factor| (factor - 4.0).abs() < 1e-9));
    }

    #[test]
    fn a_young_store_is_judged_by_what_there_is() {
        let (mut drive, started) = drive(Wear::default());
        assert_eq!(read(&mut drive, started, 0, 0).bytes_per_day(), (0, 1));
        assert_eq!(read(&mut drive, started, 0, 0).years_left(20), None);
        let wear = read(&mut drive, started, 60, 6_000);
        assert_eq!(wear.bytes_per_day(), (100 * DAY_SECONDS, 60));
        let years = Wear { bytes_written: 0, ..wear }.years_left(20);
        assert_eq!(years, None);
    }

    #[test]
    fn the_rate_is_that_of_the_last_day() {
        let (mut drive, started) = drive(Wear::default());
        let mut wear = Wear::default();
        // Three days of 1,000 bytes an hour, then two of 10.
        for hour in 0..=120u64 {
            let bytes = hour.min(72) * 1_000 + hour.saturating_sub(72) * 10;
            wear = read(&mut drive, started, hour * 3600, bytes);
            assert!(wear.samples.len() <= SAMPLES_MAX, "{}", wear.samples.len());
        }
        assert_eq!(wear.bytes_per_day(), (240, DAY_SECONDS));
        // A day in which nothing came to be sampled.
        assert_eq!(
            read(&mut drive, started, 160 * 3600, wear.bytes_written).bytes_per_day(),
            (0, DAY_SECONDS)
        );
    }

    #[test]
    fn years() {
        let wear = Wear { seconds: DAY_SECONDS, bytes_written: 1_000_000_000_000, ..Wear::default() };
        let left = wear.years_left(20).unwrap();
        assert!((left - 19.0 / 365.25).abs() < 1e-9, "{left}");
        assert_eq!(wear.years_left(1), Some(0.0));
    }

    #[test]
    fn a_note_is_owed_each_hour() {
        let now = Instant::now();
        let odometer = Odometer::after(Wear::default(), now);
        assert!(!odometer.is_due(now + Duration::from_secs(3599)));
        assert!(odometer.is_due(now + NOTE_EVERY));
        assert_ne!(odometer.read(&CardMeter::default(), &Load::default(), now).since, UnixMs::default());
    }
}
