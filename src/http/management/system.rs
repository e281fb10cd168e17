//! How the device is: alive, ready, which version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::input::Call;
use super::{Office, Outcome, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::http::tls::{State, Tls};
use crate::model::UnixMs;
use crate::store::SCHEMA;

/// What the office is told about the process it works in.
pub struct SystemInfo {
    /// When the daemon started.
    pub started_at: UnixMs,
    /// When the daemon started, for durations.
    pub started: Instant,
    /// Set while the daemon stops.
    pub draining: AtomicBool,
    /// Resident memory in bytes, if it can be told.
    pub resident_bytes: fn() -> Option<u64>,
    /// Answers by the first digit of their status, from 1xx.
    pub answers: [AtomicU64; 5],
    /// Requests refused because their app was called too often.
    pub rate_limited: Arc<AtomicU64>,
}

impl SystemInfo {
    /// A process that starts now.
    pub fn new(resident_bytes: fn() -> Option<u64>) -> SystemInfo {
        SystemInfo {
            started_at: UnixMs::now(),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            resident_bytes,
            answers: Default::default(),
            rate_limited: Arc::default(),
        }
    }

    /// Counts an answer.
    pub fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Relaxed);
    }
}

impl Office {
    /// The process runs and its store works.
    pub(super) fn health(&self) -> Outcome {
        if self.store.is_broken() {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the store failed; PiCloud is about to restart",
            ));
        }
        Ok(reply::json(StatusCode::OK, &json!({ "status": "ok" })))
    }

    /// New work is welcome.
    pub(super) fn ready(&self) -> Outcome {
        let draining = self.info.draining.load(Relaxed);
        let safe_mode = self.dispatch.is_resting();
        let works = !self.store.is_broken() && self.dispatch.executor().is_live(Instant::now());
        let ready = !draining && !safe_mode && works;
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let uptime_seconds = self.info.started.elapsed().as_secs();
        // A full card is no reason to restart or to send calls elsewhere: what it can do, it does.
        let full = self.store.space().full(Instant::now()).is_some();
        let storage = if full { "full" } else { "ok" };
        let mut body = json!({
            "ready": ready,
            "draining": draining,
            "safe_mode": safe_mode,
            "storage": storage,
            "clock": self.clock(),
            "uptime_seconds": uptime_seconds,
        });
        if let Some(tls) = &self.tls {
            body["certificates"] = certificates(tls);
        }
        Ok(reply::json(status, &body))
    }

    /// Ends safe mode, if it is on.
    pub(super) async fn resume(&self, call: &Call) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("POST");
        }
        let dispatch = self.dispatch.clone();
        // What an earlier process left is read back.
        let resumed = tokio::task::spawn_blocking(move || dispatch.resume()).await;
        let resumed = resumed.unwrap_or_else(|lost| Err(std::io::Error::other(lost))).map_err(|error| {
            tracing::error!(%error, "scripts could not be started again");
            Refusal::internal()
        })?;
        if resumed {
            tracing::warn!("safe mode ended: scripts run again");
        }
        Ok(reply::json(StatusCode::OK, &json!({ "resumed": resumed })))
    }

    pub(super) fn version(&self) -> Outcome {
        let body = json!({
            "name": "picloud",
            "version": env!("CARGO_PKG_VERSION"),
            "schema": SCHEMA,
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            "started_at": self.info.started_at,
        });
        Ok(reply::json(StatusCode::OK, &body))
    }
}

/// Whether the certificates are well: those that end soon, or ended, and are not renewed. They are served all the same.
fn certificates(tls: &Tls) -> Value {
    let near = tls.certificates().into_iter().filter_map(|one| {
        let word = match one.state {
            State::Expiring => "ends",
            State::Expired => "ended",
            State::Active | State::Pending | State::Failing | State::Unused => return None,
        };
        Some(format!("{} {word} at {}", one.name, one.facts?.not_after))
    });
    let near: Vec<String> = near.collect();
    if near.is_empty() { "ok".into() } else { near.into() }
}
