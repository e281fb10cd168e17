//! How often an app may be called: so many requests a second, with bursts of a second's worth.
//!
//! Only apps with a limit are known here. Instead of a bucket that fills, each has the instant at which its next
//! request would be due if they came evenly; a burst runs ahead of it by a second at most (the generic cell rate
//! algorithm of ITU-T I.371).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// More apps than there can be at once: those that are gone are forgotten.
const APPS_KEPT: usize = 2_000;
const SECOND: Duration = Duration::from_secs(1);

/// The gate of all apps, cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates(Arc<Mutex<HashMap<Uuid, Instant>>>);

impl Rates {
    /// Lets a request of this app pass, or says when to come back. 0 a second is any number.
    pub(super) fn pass(&self, app: Uuid, per_second: u32, now: Instant) -> Result<(), Duration> {
        if per_second == 0 {
            return Ok(());
        }
        let mut apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if apps.len() >= APPS_KEPT {
            apps.retain(|_, due_at| *due_at > now);
        }
        let due_at = apps.entry(app).or_insert(now);
        *due_at = next(*due_at, per_second, now)?;
        Ok(())
    }
}

/// When the request after this one is due; an error says how much too early this one is.
fn next(due_at: Instant, per_second: u32, now: Instant) -> Result<Instant, Duration> {
    let interval = SECOND / per_second;
    let due_at = due_at.max(now);
    let ahead = due_at.duration_since(now) + interval;
    if ahead <= SECOND { Ok(due_at + interval) } else { Err(ahead - SECOND) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the requests that come at these milliseconds pass.
    #[track_caller]
    fn check(per_second: u32, at_ms: &[u64], passed: usize) {
        let (rates, start) = (Rates::default(), Instant::now());
        let pass =
            |ms: &&u64| rates.pass(Uuid::nil(), per_second, start + Duration::from_millis(**ms)).is_ok();
        assert_eq!(at_ms.iter().filter(pass).count(), passed, "{per_second} a second, {at_ms:?}");
    }

    #[test]
    fn a_seconds_worth_may_come_at_once() {
        check(0, &[0; 50], 50);
        check(1, &[0, 0, 0], 1);
        check(1, &[0, 999, 1000], 2);
        check(10, &[0; 50], 10);
        check(10, &[0; 10], 10);
        check(3, &[0, 0, 0, 0, 333, 334, 334], 4);
        check(1_000_000, &[0; 50], 50);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut late = vec![5_000; 12];
        late.insert(0, 0);
        check(10, &late, 11);
    }

    #[test]
    fn apps_do_not_share_a_rate() {
        let (rates, now) = (Rates::default(), Instant::now());
        let app = Uuid::from_u128;
        assert!(rates.pass(app(1), 1, now).is_ok() && rates.pass(app(2), 1, now).is_ok());
        assert_eq!(rates.pass(app(1), 1, now), Err(SECOND));
        assert_eq!(rates.pass(app(1), 1, now + SECOND / 4), Err(SECOND / 4 * 3));
        assert!(rates.pass(app(1), 100, now).is_err(), "a higher limit counts from the next second on");
    }

    #[test]
    fn apps_that_are_gone_are_forgotten() {
        let (rates, now) = (Rates::default(), Instant::now());
        for number in 0..5_000 {
            assert!(
                rates.pass(Uuid::from_u128(number), 1, now + SECOND * u32::try_from(number).unwrap()).is_ok()
            );
        }
        assert!(rates.0.lock().unwrap().len() <= APPS_KEPT);
    }
}
