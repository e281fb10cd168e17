//! Backups: made, listed, handed out, removed; and one that goes straight to the client.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Either;
use http_body_util::channel::Channel;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::input::{Call, List, parse_cursor};
use super::{Office, Outcome, blocking, broken, not_allowed};
use crate::http::reply::{self, BodySender, Refusal, Reply};
use crate::model::UnixMs;
use crate::store::Sealer;
use crate::store::backup::{BackupError, Download, Kept};

/// Bytes of a file that are read and sent at once.
const PART_BYTES: usize = 256 * 1024;
/// Parts that may wait for the client.
const PARTS_AHEAD: usize = 2;
/// An export holds a state of the store, which cannot reuse that room meanwhile: so long at the most.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(3600);
/// Room does not come back by itself.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(60);
/// RFC 9530 3.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// RFC 8878 7.1.
const ZSTD: HeaderValue = HeaderValue::from_static("application/zstd");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBackup {
    /// Whether every device may open its secrets.
    #[serde(default)]
    secrets: bool,
}

impl Office {
    pub(super) async fn backups(&self, call: Call, rest: &[&str]) -> Outcome {
        match (&call.method, rest) {
            (&Method::GET, []) => self.backup_list(&call).await,
            (&Method::POST, []) => {
                let NewBackup { secrets } = call.json().await?;
                let (backups, store) = (self.custody.backups.clone(), self.store.clone());
                let sealer = self.sealer_if(secrets);
                let made = blocking(move || backups.make(&store, UnixMs::now(), sealer.as_ref())).await?;
                Ok(reply::json(StatusCode::CREATED, &view(&made.map_err(refused)?)))
            }
            (_, []) => not_allowed("GET, POST"),
            (&Method::GET, [id]) => {
                let (backups, id) = (self.custody.backups.clone(), backup_id(id)?);
                let kept = blocking(move || backups.find(id)).await?.map_err(refused)?;
                Ok(reply::json(StatusCode::OK, &view(&kept)))
            }
            (&Method::DELETE, [id]) => {
                let (backups, id) = (self.custody.backups.clone(), backup_id(id)?);
                blocking(move || backups.remove(id)).await?.map_err(refused)?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            (_, [_]) => not_allowed("GET, DELETE"),
            (&Method::GET, [id, "download"]) => {
                let (backups, id) = (self.custody.backups.clone(), backup_id(id)?);
                let download = blocking(move || backups.open(id)).await?.map_err(refused)?;
                Ok(send_file(download))
            }
            (_, [_, "download"]) => not_allowed("GET"),
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    /// The device's sealer, if its key is to go along.
    fn sealer_if(&self, wanted: bool) -> Option<Sealer> {
        wanted.then(|| self.custody.sealer.clone())
    }

    async fn backup_list(&self, call: &Call) -> Outcome {
        let paging = call.paging()?;
        let before = paging.cursor.as_deref().map(parse_cursor).transpose()?;
        let backups = self.custody.backups.clone();
        let all = blocking(move || backups.list()).await?;
        let mut rest = all.iter().filter(|kept| before.is_none_or(|before| kept.manifest.id < before));
        let page: Vec<&Kept> = rest.by_ref().take(paging.limit).collect();
        let more = rest.next().is_some();
        let next_cursor = page.last().filter(|_| more).map(|kept| kept.manifest.id.to_string());
        let items: Vec<Value> = page.into_iter().map(view).collect();
        Ok(reply::json(StatusCode::OK, &List { items, next_cursor }))
    }

    /// `GET /api/v1/export`: a fresh backup, which never touches the card.
    pub(super) fn export(&self, call: &Call) -> Outcome {
        if call.method != Method::GET {
            return not_allowed("GET");
        }
        let sealer = self.sealer_if(call.parsed("secrets")?.unwrap_or(false));
        let export = self.custody.backups.export().map_err(refused)?;
        let (store, id, now) = (self.store.clone(), self.store.new_id(), UnixMs::now());
        let (sender, body) = Channel::new(PARTS_AHEAD);
        let name = export.file_name(id, now);
        let until = Instant::now() + EXPORT_TIME_MAX;
        let mut out = Parts { sender, runtime: Handle::current(), until, part: Vec::new() };
        // A thread of its own: it may take long, and those that read for others are few.
        let work = move || match export.run(&store, id, now, sealer.as_ref(), &mut out).map(|_| out.send()) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => out.break_off(error),
            Err(error) => out.break_off(io::Error::other(BackupError::from(error).to_string())),
        };
        std::thread::Builder::new().name("export".into()).spawn(work).map_err(|error| {
            tracing::error!(%error, "an export could not begin");
            Refusal::internal()
        })?;
        let mut reply = Response::new(Either::Right(body));
        describe(&mut reply, &name);
        Ok(reply)
    }
}

/// A body that is written by a thread.
struct Parts {
    sender: BodySender,
    runtime: Handle,
    until: Instant,
    part: Vec<u8>,
}

impl Parts {
    fn send(&mut self) -> io::Result<()> {
        if Instant::now() > self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let part = Bytes::from(std::mem::take(&mut self.part));
        let sent = self.runtime.block_on(self.sender.send_data(part));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Lets the client see that this is not the end.
    fn break_off(self, error: io::Error) {
        tracing::warn!(%error, "an export broke off");
        self.sender.abort(error);
    }
}

impl Write for &mut Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a file as it is read.
fn send_file(download: Download) -> Reply {
    let Download { kept, file } = download;
    let (sender, body) = Channel::new(PARTS_AHEAD);
    tokio::spawn(read_parts(file, kept.bytes, sender));
    let mut reply = Response::new(Either::Right(body));
    describe(&mut reply, &kept.file);
    reply.headers_mut().insert(CONTENT_LENGTH, kept.bytes.into());
    let digest = kept
        .sha256
        .as_deref()
        .and_then(unhex)
        .map(|hash| format!("sha-256=:{}:", BASE64_STANDARD.encode(hash)));
    if let Some(digest) = digest.and_then(|digest| HeaderValue::try_from(digest).ok()) {
        reply.headers_mut().insert(REPR_DIGEST, digest);
    }
    reply
}

async fn read_parts(file: File, bytes: u64, mut sender: BodySender) {
    let mut file = file.take(bytes);
    loop {
        let read = blocking(move || {
            let mut part = Vec::new();
            let part_bytes = u64::try_from(PART_BYTES).unwrap_or(u64::MAX);
            let read = file.by_ref().take(part_bytes).read_to_end(&mut part);
            (file, read.map(|_| part))
        });
        match read.await {
            Ok((_, Ok(part))) if part.is_empty() => return,
            Ok((rest, Ok(part))) => {
                file = rest;
                if sender.send_data(part.into()).await.is_err() {
                    return;
                }
            }
            Ok((_, Err(error))) => return sender.abort(error),
            Err(_) => return sender.abort(io::ErrorKind::Other.into()),
        }
    }
}

fn describe(reply: &mut Reply, file: &str) {
    reply.headers_mut().insert(CONTENT_TYPE, ZSTD);
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{file}\"")) {
        reply.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
}

fn view(kept: &Kept) -> Value {
    let mut view = serde_json::to_value(kept).unwrap_or_default();
    view["updated_at"] = view["created_at"].clone();
    view
}

fn backup_id(text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text).map_err(|_| Refusal::bad_request(format_args!("\"{text}\" is not a backup id")))
}

/// What a client is told of an error; one of ours is in the log, too.
pub(super) fn refused(error: BackupError) -> Refusal {
    match error {
        BackupError::Busy(_) => Refusal::new(StatusCode::CONFLICT, error.to_string()),
        BackupError::Full { .. } => {
            let refusal = Refusal::overloaded(error.to_string(), "storage_full");
            Refusal { retry_after: Some(FULL_RETRY_AFTER), ..refusal }
        }
        BackupError::NotFound(_) => Refusal::not_found(error.to_string()),
        BackupError::Unsound(_) => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        BackupError::Failed(message) => {
            tracing::error!(message, "a backup or restore failed");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
        BackupError::Store(error) => broken(&error),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_from_hexadecimal() {
        assert_eq!((unhex("00ff"), unhex("0"), unhex("zz")), (Some(vec![0, 255]), None, None));
    }
}
