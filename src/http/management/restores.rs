//! Restores: a backup is checked whole and made into a store beside the one that serves; then the house reopens
//! with it.
//!
//! What replaces what, and what a cut leaves, is for the store's room to know. Here a client is told: 422 and why,
//! with nothing changed; or 202 once the new store is complete on the card.

use std::fs::{self, File};
use std::io::Seek;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::backups::refused;
use super::input::Call;
use super::{Office, Outcome, blocking, broken, not_allowed};
use crate::http::body::{Stream, Unread};
use crate::http::reply::{self, Refusal};
use crate::model::UnixMs;
use crate::store::backup::{BackupError, Backups, Keep, Manifest, Premises, Report, Trial};
use crate::store::{Sealer, Store};

/// Bytes of an upload that are written at once.
const WRITE_BYTES: usize = 256 * 1024;

/// What the desks for secrets, backups and restores hold.
#[derive(Clone)]
pub struct Custody {
    /// The shelf.
    pub backups: Backups,
    /// Where stores are.
    pub premises: Premises,
    /// What secrets are sealed with.
    pub sealer: Sealer,
    /// Whether the store has served yet.
    pub trial: Trial,
    /// Asks the house to reopen with the new store.
    pub reopen: mpsc::UnboundedSender<()>,
    /// SHA-256 of the key in the data directory, which goes on working.
    pub admin_key: Option<[u8; 32]>,
    /// Bytes of an upload.
    pub upload_bytes_max: u64,
    /// Time in which some of an upload must come.
    pub upload_time_max: Duration,
    /// Set from the first byte of a restore on.
    pub restoring: Arc<AtomicBool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FromShelf {
    backup_id: Uuid,
}

/// Only one restore at a time. It is over when this goes, unless the house reopens.
struct Turn {
    restoring: Arc<AtomicBool>,
    reopens: bool,
}

impl Turn {
    fn take(custody: &Custody) -> Result<Turn, Refusal> {
        if custody.restoring.swap(true, Relaxed) {
            return Err(refused(BackupError::Busy("another restore")));
        }
        Ok(Turn { restoring: custody.restoring.clone(), reopens: false })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.restoring.store(self.reopens, Relaxed);
    }
}

impl Office {
    pub(super) async fn restore(&self, call: Call) -> Outcome {
        match call.method {
            Method::GET => {
                let premises = self.custody.premises.clone();
                Ok(reply::json(StatusCode::OK, &view(&blocking(move || premises.report()).await?)))
            }
            Method::POST => self.restore_from(call).await,
            _ => not_allowed("GET, POST"),
        }
    }

    async fn restore_from(&self, call: Call) -> Outcome {
        let turn = Turn::take(&self.custody)?;
        let (store, custody, trial) = (self.store.clone(), self.custody.clone(), self.custody.trial.clone());
        // Two restores at once would be in each other's way; whoever can ask for the second was served by the first.
        blocking(move || trial.end(UnixMs::now())).await?.map_err(refused)?;
        let keep = Keep::of(&self.store, custody.sealer.clone(), custody.admin_key, Some(call.key_id));
        let keep = keep.map_err(|error| broken(&error))?;
        let report = match call.content_type.as_str() {
            "" | "application/json" => {
                let FromShelf { backup_id } = call.json().await?;
                blocking(move || {
                    let mut download = custody.backups.open(backup_id)?;
                    download.check_hash()?;
                    stage(&store, &custody, &mut download.file, keep, turn)
                })
                .await?
            }
            "application/zstd" | "application/octet-stream" => {
                let mut upload = self.receive(call).await?;
                blocking(move || stage(&store, &custody, &mut upload.file, keep, turn)).await?
            }
            other => {
                let message = format!(
                    "{other:?} is no backup: send application/zstd, or application/json with a backup_id"
                );
                return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
            }
        };
        Ok(reply::json(StatusCode::ACCEPTED, &view(&report.map_err(refused)?)))
    }

    /// Writes the body into a file. What is left of it after an error goes.
    async fn receive(&self, call: Call) -> Result<Upload, Refusal> {
        let Custody { premises, upload_bytes_max, upload_time_max, .. } = self.custody.clone();
        let mut parts = Stream::new(call.into_body(), upload_bytes_max, upload_time_max).map_err(unread)?;
        let (own, bytes) = (premises.clone(), parts.bytes_at_least());
        let (path, file) = blocking(move || own.upload(bytes)).await?.map_err(refused)?;
        let mut upload = Upload { file, path };
        let mut gathered = Vec::new();
        loop {
            let part = parts.next().await.map_err(unread)?;
            gathered.extend_from_slice(part.as_deref().unwrap_or_default());
            if part.is_none() || gathered.len() >= WRITE_BYTES {
                let (own, data) = (premises.clone(), std::mem::take(&mut gathered));
                let written = blocking(move || {
                    let written = own.write_upload(&mut upload.file, &data);
                    (upload, written)
                });
                let (back, written) = written.await?;
                upload = back;
                written.map_err(refused)?;
            }
            if part.is_none() {
                return Ok(upload);
            }
        }
    }
}

/// A file that goes when nobody needs it any more.
struct Upload {
    file: File,
    path: PathBuf,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The file stays readable for who has it open.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the new store and asks the house to reopen with it. Runs to its end even if the client leaves.
fn stage(
    store: &Store,
    custody: &Custody,
    file: &mut File,
    keep: Keep,
    mut turn: Turn,
) -> Result<Report, BackupError> {
    file.rewind().map_err(|error| BackupError::Failed(error.to_string()))?;
    let Manifest { id, created_at, .. } = custody.premises.build(keep).run(file)?;
    // What the old store accepted after the restore was answered would be gone.
    store.freeze(true);
    let begun = custody.premises.begin(id, created_at, UnixMs::now());
    let report = begun.inspect_err(|_| store.freeze(false))?;
    turn.reopens = true;
    tracing::info!(backup = %id, made_at = %created_at, "a backup is restored: PiCloud reopens with it");
    // If the house closes already, its next start goes on with the restore.
    let _ = custody.reopen.send(());
    Ok(report)
}

fn unread(unread: Unread) -> Refusal {
    match unread {
        Unread::TooLarge(_) => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("body read failed: {unread}; see backups.upload_bytes_max"),
        ),
        Unread::TooSlow(_) | Unread::Broken(_) | Unread::NoRoom => {
            Refusal::bad_request(format!("body read failed: {unread}"))
        }
    }
}

fn view(report: &Report) -> Value {
    let backup = report.backup.map(|id| json!({ "id": id, "created_at": report.backup_created_at }));
    json!({ "state": report.state, "backup": backup, "at": report.at, "why": report.why })
}
