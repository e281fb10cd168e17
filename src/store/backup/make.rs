//! Making a backup: one snapshot, table by table, while the store goes on.

use std::io::Write;
use std::sync::mpsc;

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableHandle};
use uuid::Uuid;

use super::BackupError;
use super::format::{Manifest, Packer};
use crate::model::UnixMs;
use crate::store::tables::{self, TableKey, TableVisitor};
use crate::store::{Error, SCHEMA, Store};

/// Writes all that was posted to `store` until now into `out`, as a backup with this id; `now` is when. Blocks; must
/// not be called on the event loop. The writer is asked once to make visible what waits, and not held up.
///
/// # Errors
/// If the store is closed or broken, or `out` fails. What was written by then is no backup.
pub(super) fn export<W: Write>(
    store: &Store,
    id: Uuid,
    now: UnixMs,
    out: W,
) -> Result<(W, Manifest), ExportError> {
    let (tell, told) = mpsc::channel();
    // Nobody but us waits for it.
    store.settled(move |settled| drop(tell.send(settled)));
    told.recv().unwrap_or(Err(Error::Closed))?;
    let snapshot = store.read()?;
    let mut rows = Rows { from: snapshot.tables(), to: Packer::new(out, SCHEMA)?, failed: None };
    let visited = tables::each_table(&mut rows);
    if let Some(error) = rows.failed {
        return Err(ExportError::Out(error));
    }
    visited?;
    Ok(rows.to.finish(id, now)?)
}

/// Why an export ended early.
#[derive(Debug)]
pub enum ExportError {
    /// The store failed.
    Store(Error),
    /// What it was written into failed.
    Out(std::io::Error),
}

impl From<Error> for ExportError {
    fn from(error: Error) -> ExportError {
        ExportError::Store(error)
    }
}

impl From<std::io::Error> for ExportError {
    fn from(error: std::io::Error) -> ExportError {
        ExportError::Out(error)
    }
}

impl From<ExportError> for BackupError {
    fn from(error: ExportError) -> BackupError {
        match error {
            ExportError::Store(error) => BackupError::Store(error),
            ExportError::Out(error) => BackupError::Failed(format!("the backup cannot be written: {error}")),
        }
    }
}

struct Rows<'a, W: Write> {
    from: &'a ReadTransaction,
    to: Packer<W>,
    failed: Option<std::io::Error>,
}

impl<W: Write> TableVisitor for Rows<'_, W> {
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error> {
        let stop = |error: std::io::Error, failed: &mut Option<std::io::Error>| {
            let why = Error::Card(error.to_string());
            *failed = Some(error);
            Err(why)
        };
        if let Err(error) = self.to.table(definition.name()) {
            return stop(error, &mut self.failed);
        }
        for entry in self.from.open_table(definition)?.iter()? {
            let (key, value) = entry?;
            if let Err(error) = self.to.row(&K::write(&key.value()), value.value()) {
                return stop(error, &mut self.failed);
            }
        }
        Ok(())
    }
}
