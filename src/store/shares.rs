//! How many async rows of each app are in the outbox, so that none fills it for the others.
//!
//! Counted by the writer: in with the row, out with it. Sync rows do not count: somebody waits for them, so there are
//! only as many as callers.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::{Error, Recovered, Store};
use crate::model::{App, Row};

/// The counts.
#[derive(Debug)]
pub(crate) struct Shares {
    rows: Mutex<HashMap<Uuid, u64>>,
    /// For an app that says nothing.
    usual_max: u64,
}

impl Store {
    /// Whether so many more async rows fit in their app's share.
    pub(crate) fn check_share(&self, app: Uuid, more: u64) -> Result<(), Error> {
        let shared = &self.shared;
        let own = shared.catalog.load().apps.get(&app).and_then(|app| app.limits.queue_rows);
        let (rows, rows_max) = (shared.shares.rows(app), own.unwrap_or(shared.shares.usual_max));
        if more == 0 || rows + more <= rows_max {
            return Ok(());
        }
        shared.load.queue_full_refusals.fetch_add(1, Relaxed);
        Err(Error::AppQueueFull { rows, rows_max })
    }
}

impl Shares {
    /// Of what a start found.
    pub(crate) fn of(found: &[Recovered], usual_max: u64) -> Shares {
        let mut rows = HashMap::new();
        found.iter().filter(|row| !row.sync).for_each(|row| *rows.entry(row.app_id).or_default() += 1);
        Shares { rows: Mutex::new(rows), usual_max }
    }

    /// Whether so many more async rows fit in the share of an app.
    pub(crate) fn has_room(&self, id: Uuid, app: Option<&Arc<App>>, more: u64) -> bool {
        let own = app.and_then(|app| app.limits.queue_rows);
        self.rows(id) + more <= own.unwrap_or(self.usual_max)
    }

    /// Counts a row that goes in.
    pub(crate) fn enter(&self, row: &Row) {
        if !row.is_sync() {
            *self.lock().entry(row.app_id).or_default() += 1;
        }
    }

    /// Counts an async row of this app that is out.
    pub(crate) fn leave(&self, app: Uuid) {
        let mut all = self.lock();
        if let Some(rows) = all.get_mut(&app) {
            *rows -= 1;
            if *rows == 0 {
                all.remove(&app);
            }
        }
    }

    /// Async rows of this app.
    pub(crate) fn rows(&self, app: Uuid) -> u64 {
        self.lock().get(&app).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, u64>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
