//! How many async rows of each app are in the outbox, so that none fills it for the others.
//!
//! Counted by the writer: in with the row, out with it. Sync rows do not count: somebody waits for them, so there are
//! only as many as callers.

use std::collections::HashMap;

use uuid::Uuid;

use super::catalog::Catalog;
use super::{Error, Recovered};
use crate::model::Row;

/// The counts.
#[derive(Debug)]
pub(crate) struct Shares {
    rows: HashMap<Uuid, u64>,
    usual_max: u64,
}

impl Shares {
    /// Of what a start found. An app that says nothing may have `usual_max`.
    pub(crate) fn of(found: &[Recovered], usual_max: u64) -> Shares {
        let mut shares = Shares { rows: HashMap::new(), usual_max };
        found.iter().filter(|row| !row.sync).for_each(|row| shares.add(row.app_id));
        shares
    }

    /// Whether one more row fits in its app's share.
    pub(crate) fn check(&self, row: &Row, catalog: &Catalog) -> Result<(), Error> {
        if row.is_sync() {
            return Ok(());
        }
        let own = catalog.apps.get(&row.app_id).and_then(|app| app.limits.queue_rows);
        let (rows, rows_max) = (self.rows(row.app_id), own.unwrap_or(self.usual_max));
        if rows < rows_max { Ok(()) } else { Err(Error::AppQueueFull { rows, rows_max }) }
    }

    /// Counts a row that goes in.
    pub(crate) fn enter(&mut self, row: &Row) {
        if !row.is_sync() {
            self.add(row.app_id);
        }
    }

    /// Counts an async row of this app that is out.
    pub(crate) fn leave(&mut self, app: Uuid) {
        if let Some(rows) = self.rows.get_mut(&app) {
            *rows -= 1;
            if *rows == 0 {
                self.rows.remove(&app);
            }
        }
    }

    /// Async rows of this app.
    pub(crate) fn rows(&self, app: Uuid) -> u64 {
        self.rows.get(&app).copied().unwrap_or(0)
    }

    fn add(&mut self, app: Uuid) {
        *self.rows.entry(app).or_default() += 1;
    }
}
