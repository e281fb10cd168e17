//! What can be done with a backup while no daemon runs: check it, and make it the store of the next start.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use super::{device_seal, first_run, parts};
use crate::config::Config;
use crate::model::UnixMs;
use crate::store::backup::{self, BackupError, Keep, State};
use crate::store::{SCHEMA, schema_of};

/// Checks the backup in `file`, and that it is the file whose hash stands beside it, if one does. Gives its manifest.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_backup(file: &Path) -> Result<Value, String> {
    let mut backup = File::open(file).map_err(|error| error.to_string())?;
    backup::check_hash_beside(file, &mut backup).map_err(|error| error.to_string())?;
    let manifest = backup::check(&mut backup).map_err(|error| error.to_string())?;
    serde_json::to_value(manifest).map_err(|error| error.to_string())
}

/// Makes a store of the backup in `file`, which the next start on the configured data directory opens, on trial as
/// after any restore. What is there may be damaged; a daemon that has it open is left alone.
///
/// # Errors
/// What is in the way, in words. Nothing was changed.
pub fn restore(config: &Config, file: &Path) -> Result<Value, String> {
    stage(config, file).map_err(|error| error.to_string())
}

/// Lets this program open the store again if a newer one brought it to its own schema: puts the copy back that the
/// newer one made before it did so, else the backup in `file`. Says what it did; `None` if there is nothing to do.
///
/// # Errors
/// What is in the way, in words. The store is as it was.
pub fn go_back(config: &Config, file: &Path) -> Result<Option<String>, String> {
    let store = parts::premises(config).store();
    let found = schema_of(&store).map_err(|error| error.to_string())?;
    let Some(found) = found.filter(|found| *found > SCHEMA) else { return Ok(None) };
    let mut copy = store.clone().into_os_string();
    copy.push(format!(".schema-{SCHEMA}"));
    let copy = PathBuf::from(copy);
    let done = format!("the data were brought to schema {found}, and are as they were before that:");
    if copy.exists() {
        let _lock = parts::premises(config).lock().map_err(|error| error.to_string())?;
        fs::rename(&copy, &store)
            .and_then(|()| backup::sync_directory(&config.server.data_dir))
            .map_err(|error| format!("{}: {error}", copy.display()))?;
        return Ok(Some(format!(
            "{done} what was accepted since the first start of the newer version is gone"
        )));
    }
    if [State::Restoring, State::Trial].contains(&parts::premises(config).report().state) {
        return Ok(Some(format!("{done} the copy from before the update is restored by the next start")));
    }
    restore(config, file)?;
    Ok(Some(format!("{done} what was accepted since the copy before the update is gone")))
}

fn stage(config: &Config, file: &Path) -> Result<Value, BackupError> {
    let failed = |error: io::Error| BackupError::Failed(error.to_string());
    let mut backup = File::open(file).map_err(failed)?;
    backup::check_hash_beside(file, &mut backup)?;
    let (premises, data_dir) = (parts::premises(config), &config.server.data_dir);
    fs::create_dir_all(data_dir).map_err(failed)?;
    let _lock = premises.lock()?;
    premises.check_unused()?;
    if [State::Restoring, State::Trial].contains(&premises.report().state) {
        let why = "an earlier restore waits for the next start of PiCloud; start it first";
        return Err(BackupError::Failed(why.into()));
    }
    // Whoever can write to this directory has every key to the device.
    let keys = first_run::key_in_file(data_dir, Uuid::now_v7(), UnixMs::now()).into_iter().collect();
    // What the store held cannot be asked for: it may be damaged, and is about to be replaced.
    let sealer = device_seal::sealer(data_dir, || Ok(false));
    let sealer = Some(sealer.map_err(|error| BackupError::Failed(error.to_string()))?);
    let key_file = device_seal::path(data_dir);
    if key_file.exists() {
        give_to_owner(&key_file, data_dir).map_err(failed)?;
    }
    let keep = Keep { keys, wear: None, sealer };
    let manifest = premises.build(keep).run(&mut backup)?;
    give_to_owner(&premises.new_store(), data_dir).map_err(failed)?;
    let report = premises.begin(manifest.id, manifest.created_at, UnixMs::now())?;
    for file in [premises.journal(), premises.lock_file()] {
        give_to_owner(&file, data_dir).map_err(failed)?;
    }
    serde_json::to_value(report).map_err(|error| BackupError::Failed(error.to_string()))
}

/// The daemon may run as somebody else than the person who restores.
fn give_to_owner(file: &Path, directory: &Path) -> io::Result<()> {
    let (own, theirs) = (fs::symlink_metadata(file)?, fs::metadata(directory)?);
    if (own.uid(), own.gid()) == (theirs.uid(), theirs.gid()) {
        return Ok(());
    }
    // Of a link it is the link that changes hands, and not what it leads to.
    lchown(file, Some(theirs.uid()), Some(theirs.gid()))
}
