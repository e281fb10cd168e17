//! The scripts of the device as programs: found in the catalog, compiled once, kept within bounds.

use std::sync::Arc;

use uuid::Uuid;

use super::{Fault, FaultKind, Limits, Program, Programs};
use crate::model::{Row, Script};
use crate::store::{Error, Store};

/// Where programs come from.
pub struct Library {
    programs: Programs,
    store: Store,
    limits: Limits,
}

/// A program that is to run now.
pub(super) struct Resolved {
    pub(super) program: Arc<Program>,
    pub(super) version: u32,
    pub(super) limits: Limits,
}

impl Library {
    /// Compiled programs of up to `cache_bytes`; `limits` hold where a script says nothing.
    pub fn new(store: Store, cache_bytes: usize, limits: Limits) -> Library {
        Library { programs: Programs::new(cache_bytes), store, limits }
    }

    /// What this row runs now.
    pub(super) fn of_row(&self, row: &Row) -> Result<Resolved, Fault> {
        let catalog = self.store.catalog();
        let script = catalog.scripts.get(&row.script_id).ok_or_else(|| gone(row.script_id))?;
        let version = row.pinned_version.unwrap_or(script.active_version);
        let limits = self.limits.with(&script.sandbox);
        Ok(Resolved { program: self.program(script.id, version)?, version, limits })
    }

    /// The script of an app with this name.
    pub(super) fn by_name(&self, app: Uuid, name: &str) -> Option<Arc<Script>> {
        let catalog = self.store.catalog();
        catalog.scripts.values().find(|script| script.app_id == app && script.name.as_str() == name).cloned()
    }

    /// The program of a script's active version.
    pub(super) fn active(&self, script: &Script) -> Result<Arc<Program>, Fault> {
        self.program(script.id, script.active_version)
    }

    fn program(&self, script: Uuid, version: u32) -> Result<Arc<Program>, Fault> {
        if let Some(program) = self.programs.find(script, version) {
            return Ok(program);
        }
        let house = |error: Error| {
            tracing::error!(%script, version, %error, "a script could not be read");
            Fault::new(FaultKind::Platform, "internal error")
        };
        let stored = self.store.read().and_then(|snapshot| snapshot.version(script, version));
        let stored = stored.map_err(house)?.ok_or_else(|| gone(script))?;
        let program = super::compile(&stored.source)
            .map_err(|error| Fault::new(FaultKind::Validation, error.to_string()))?;
        let program = Arc::new(program);
        self.programs.insert(script, version, program.clone());
        Ok(program)
    }
}

fn gone(script: Uuid) -> Fault {
    Fault::new(FaultKind::Gone, format!("script not found: {script}"))
}
