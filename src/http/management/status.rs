//! `GET /api/v1/status`: the device on one page, above all what its card takes.
//!
//! The figures of the metrics, put together for people: `picloud status` prints them. Fields that begin with
//! `total_` go back to the first start with this file and miss what a power cut kept from being noted; the others
//! begin with the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::input::Call;
use super::{Office, Outcome, blocking, not_allowed};
use crate::device::facts;
use crate::http::reply;
use crate::model::UnixMs;

impl Office {
    pub(super) async fn status(&self, call: &Call) -> Outcome {
        if call.method != Method::GET {
            return not_allowed("GET");
        }
        let place = self.updates.place().clone();
        let device = blocking(move || facts::look(&place, UnixMs::now())).await?;
        let load = self.store.load();
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.info.started_at,
            "uptime_seconds": self.info.started.elapsed().as_secs(),
            "safe_mode": self.dispatch.is_resting(),
            "resident_bytes": (self.info.resident_bytes)(),
            "store": {
                "file_bytes": self.store.file_bytes(),
                "execution_log_bytes": count(&load.log_bytes),
            },
            "card": self.card_status(),
            "budget": self.budget_status(),
            "outbox": { "rows": count(&load.outbox_rows), "bytes": count(&load.outbox_bytes) },
            "dead_letters": {
                "rows": count(&load.dead_letters),
                "bytes": count(&load.dead_letters_bytes),
                "dropped": count(&load.dead_letters_dropped),
            },
            "executions": self.executions_status(),
            "clock": self.clock(),
            "cron": self.cron_status(),
            "device": device,
        });
        Ok(reply::json(StatusCode::OK, &body))
    }

    /// The clock that schedules strike by.
    pub(super) fn clock(&self) -> Value {
        let clock = self.dispatch.clock();
        json!({ "synchronised": clock.synchronised, "cron_waiting": clock.cron_waiting })
    }

    fn cron_status(&self) -> Value {
        let cron = self.dispatch.cron();
        json!({
            "ticks": count(&cron.run),
            "missed": count(&cron.missed),
            "overlapped": count(&cron.overlapped),
            "refused": count(&cron.refused),
        })
    }

    fn card_status(&self) -> Value {
        let (card, load, wear) = (self.store.card(), self.store.load(), self.store.wear());
        let (bytes_per_day, measured_seconds) = wear.bytes_per_day();
        json!({
            "fsyncs": count(&card.syncs),
            "mean_sync_ms": mean_ms(count(&card.sync_us), count(&card.syncs)),
            "bytes_written": count(&card.bytes_written),
            "logical_bytes": count(&load.logical_bytes),
            "commits": count(&load.commits),
            "since": wear.since,
            "total_seconds": wear.seconds,
            "total_fsyncs": wear.syncs,
            "total_bytes_written": wear.bytes_written,
            "total_logical_bytes": wear.logical_bytes,
            "total_commits": wear.commits,
            "write_amplification": wear.amplification(),
            "bytes_per_day": bytes_per_day,
            "measured_seconds": measured_seconds,
            "endurance_tbw": self.endurance_tbw,
            "years_left": wear.years_left(self.endurance_tbw),
        })
    }

    fn budget_status(&self) -> Value {
        let budget = self.store.budget();
        let limited = budget.bytes_per_day > 0;
        json!({
            "bytes_per_day": budget.bytes_per_day,
            "left_bytes": limited.then_some(budget.left_bytes),
            "over": budget.over,
            "flush_interval_ms": u64::try_from(budget.flush_interval.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn executions_status(&self) -> Value {
        let tally = self.dispatch.tally();
        let [success, error, timeout, budget_exceeded] = tally.ended.each_ref().map(count);
        let (waiting, running) = self.dispatch.executor().load();
        json!({
            "success": success,
            "error": error,
            "timeout": timeout,
            "budget_exceeded": budget_exceeded,
            "running": running,
            "waiting": waiting,
        })
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// Milliseconds with a fraction; `None` of nothing.
fn mean_ms(total_us: u64, count: u64) -> Option<f64> {
    Some(Duration::from_micros(total_us.checked_div(count)?).as_secs_f64() * 1e3)
}
