//! The schedule of backups. When the first is due says the age of the newest one; from then on only the monotonic
//! clock counts, so that a step of the wall clock neither skips nor repeats one.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::model::UnixMs;
use crate::store::Store;
use crate::store::backup::Backups;

/// After a backup that failed, the next try; a full card or a stick that is gone may be seen to by then.
const RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// When backups are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// From one to the next.
    pub(super) interval: Duration,
    /// From the start to the first, at least.
    pub(super) start_delay: Duration,
}

impl Schedule {
    /// How long after the start the first is due; `newest` is when the newest there is was made. One from the future
    /// says nothing.
    fn first(self, newest: Option<UnixMs>, now: UnixMs) -> Duration {
        let age = newest.filter(|newest| *newest <= now).map(|newest| now.since(newest));
        self.interval.saturating_sub(age.unwrap_or(self.interval)).max(self.start_delay)
    }

    /// Makes backups until the house closes.
    pub(super) async fn run(self, backups: Backups, store: Store) {
        let shelf = backups.clone();
        let newest =
            tokio::task::spawn_blocking(move || shelf.list().first().map(|kept| kept.manifest.created_at));
        let newest = newest.await.unwrap_or_default();
        let mut wait = self.first(newest, UnixMs::now());
        // What is in the newest backup is not known, so the first is always made.
        let mut saved = None;
        loop {
            tokio::time::sleep(wait).await;
            let changes = store.load().changes.load(Relaxed);
            wait = self.interval;
            if saved == Some(changes) {
                tracing::debug!("nothing changed since the last scheduled backup");
                continue;
            }
            if make(&backups, &store).await {
                saved = Some(changes);
            } else {
                wait = RETRY_AFTER.min(self.interval);
            }
        }
    }
}

/// Makes one; false if that failed.
async fn make(backups: &Backups, store: &Store) -> bool {
    let (backups, store) = (backups.clone(), store.clone());
    let made = tokio::task::spawn_blocking(move || backups.make(&store, UnixMs::now(), None)).await;
    match made {
        Ok(Ok(kept)) => {
            tracing::info!(backup = %kept.manifest.id, file = kept.file, bytes = kept.bytes, "a scheduled backup was made");
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a scheduled backup was not made");
            false
        }
        // The house closes.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_due_by_the_age_of_the_newest() {
        let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
        let schedule = Schedule { interval: 24 * hour, start_delay: 10 * minute };
        let now = UnixMs(1_000_000_000_000);
        let made = |ago: Duration| Some(UnixMs(now.0 - i64::try_from(ago.as_millis()).unwrap()));
        assert_eq!(schedule.first(None, now), 10 * minute);
        assert_eq!(schedule.first(made(hour), now), 23 * hour);
        assert_eq!(schedule.first(made(24 * hour - minute), now), 10 * minute);
        assert_eq!(schedule.first(made(100 * hour), now), 10 * minute);
        assert_eq!(schedule.first(Some(now.plus(hour)), now), 10 * minute, "the clock went back");
        let at_once = Schedule { interval: hour, start_delay: Duration::ZERO };
        assert_eq!(at_once.first(made(2 * hour), now), Duration::ZERO);
    }
}
