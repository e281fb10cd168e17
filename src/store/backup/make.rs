//! Making a backup: one snapshot, table by table, while the store goes on.

use std::io::Write;
use std::sync::mpsc;

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableHandle};
use uuid::Uuid;

use super::BackupError;
use super::format::{Manifest, Packer};
use crate::model::UnixMs;
use crate::store::tables::{self, META, META_DEVICE_KEY, SESSIONS, TableKey, TableVisitor};
use crate::store::{Error, SCHEMA, Sealer, Store};

/// Writes all that was posted to `store` until now into `out`, as a backup with this id; `now` is when. Blocks; must
/// not be called on the event loop. The writer is asked once to make visible what waits, and not held up. With a
/// `sealer`, the key that opens the secrets goes along.
///
/// # Errors
/// If the store is closed or broken, or `out` fails. What was written by then is no backup.
pub(super) fn export<W: Write>(
    store: &Store,
    id: Uuid,
    now: UnixMs,
    sealer: Option<&Sealer>,
    out: W,
) -> Result<(W, Manifest), ExportError> {
    let (tell, told) = mpsc::channel();
    // Nobody but us waits for it.
    store.settled(move |settled| drop(tell.send(settled)));
    told.recv().unwrap_or(Err(Error::Closed))?;
    let snapshot = store.read()?;
    let mut rows = Rows { from: snapshot.tables(), to: Packer::new(out, SCHEMA)?, sealer, failed: None };
    let visited = tables::each_table(&mut rows);
    if let Some(error) = rows.failed {
        return Err(ExportError::Out(error));
    }
    visited?;
    Ok(rows.to.finish(id, now, sealer.is_some())?)
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
    sealer: Option<&'a Sealer>,
    failed: Option<std::io::Error>,
}

impl<W: Write> Rows<'_, W> {
    fn put(&mut self, written: impl FnOnce(&mut Packer<W>) -> std::io::Result<()>) -> Result<(), Error> {
        written(&mut self.to).map_err(|error| {
            let why = Error::Card(error.to_string());
            self.failed = Some(error);
            why
        })
    }

    /// Writes the device's key once its place among the facts has come: keys ascend.
    fn put_device_key(&mut self, before: Option<&[u8]>) -> Result<(), Error> {
        let place = META_DEVICE_KEY.as_bytes();
        match self.sealer.take_if(|_| before.is_none_or(|next| next > place)) {
            Some(sealer) => self.put(|to| to.row(place, sealer.key())),
            None => Ok(()),
        }
    }
}

impl<W: Write> TableVisitor for Rows<'_, W> {
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error> {
        // Whoever is logged in is so on this device, today.
        if definition.name() == SESSIONS.name() {
            return Ok(());
        }
        self.put(|to| to.table(definition.name()))?;
        let facts = definition.name() == META.name();
        for entry in self.from.open_table(definition)?.iter()? {
            let (key, value) = entry?;
            let key = K::write(&key.value());
            if facts {
                self.put_device_key(Some(&key))?;
            }
            self.put(|to| to.row(&key, value.value()))?;
        }
        if facts { self.put_device_key(None) } else { Ok(()) }
    }
}
