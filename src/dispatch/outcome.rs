//! Where the end of a run goes: to the waiter, back to the outbox, to the dead letters; always to the log.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;
use uuid::Uuid;

use super::inbox::Receiver;
use super::{Answer, Dispatch, Next, Promise, count};
use crate::model::{Attempt, DeadLetter, Delivery, Ended, ExecutionRecord, Kind, LogLine, Row, UnixMs};
use crate::script::{Fault, FaultKind, Finished, Response, Verdict};
use crate::store::kv::{Refused, Reply, Settlement};
use crate::store::{self, End};

/// The target of lines that scripts wrote; off unless `log.scripts` says otherwise.
const SCRIPT_LINES: &str = "picloud::script_lines";
/// Bytes of a request's or a response's body that a record keeps.
const BODY_KEPT: usize = 64 * 1024;
/// Failed attempts that a row remembers; a re-driven one may have had many lives.
const HISTORY_MAX: usize = 50;
/// Bytes of an error that a record keeps.
const ERROR_KEPT: usize = 4 * 1024;

impl Dispatch {
    /// Routes the end of a run. What it changed goes down with it, or the run is made again.
    pub(super) fn conclude(&self, row: &Arc<Row>, finished: Finished, promise: Promise) -> Verdict {
        let mut finished = Some(finished);
        if let Some(effects) = finished.as_mut().and_then(|finished| finished.outcome.effects.take()) {
            let (taken, mut afterwards) = (&mut finished, None);
            let settled = self.inner.store.settle_with(row, effects, || {
                let finished = taken.take().expect("the end is taken once, here");
                let (settlement, tell) = self.settlement(row, finished, promise);
                afterwards = tell;
                settlement
            });
            let Err(refused) = settled else {
                afterwards.into_iter().for_each(|tell| tell(Ok(())));
                self.ended(row);
                return Verdict::Ended;
            };
            let Some(fault) = fault_of(refused, row) else { return Verdict::Again };
            if let Some(finished) = &mut finished {
                finished.outcome.result = Err(fault);
            }
        }
        if let Some(finished) = finished {
            if row.is_sync() { self.conclude_sync(row, finished) } else { self.conclude_async(row, finished) }
        }
        Verdict::Ended
    }

    /// The end of a run whose changes are accepted. Its caller hears of it when they are durable; or, if less was
    /// promised, as soon as they are posted: then whoever asked for this tells it.
    fn settlement(
        &self,
        row: &Arc<Row>,
        finished: Finished,
        promise: Promise,
    ) -> (Settlement, Option<Reply>) {
        let Some(id) = row.reply_to else {
            let end = End::Done(self.count_end(record(row, &finished, Delivery::None, None)));
            return (Settlement { end, told: None }, None);
        };
        let receiver = self.inner.inbox.take(id);
        let delivery = if receiver.is_there() { Delivery::Delivered } else { Delivery::Abandoned };
        let end = End::Done(self.count_end(record(row, &finished, delivery, None)));
        let (this, row) = (self.clone(), row.clone());
        let tell = move |durable: Result<(), store::Error>| {
            let result = durable.map_err(|_| Fault::new(FaultKind::Platform, "internal error"));
            this.answer(&row, receiver, result.and(finished.outcome.result));
        };
        let tell: Reply = Box::new(tell);
        match promise {
            Promise::Relaxed => (Settlement { end, told: None }, Some(tell)),
            Promise::Auto | Promise::Strict => (Settlement { end, told: Some(tell) }, None),
        }
    }

    /// It is over with a row: gives the dispatcher's place back, if it had one.
    fn ended(&self, row: &Row) {
        self.inner.scheduler.ended(row);
        // A recovered sync row holds the place of a suspect.
        if !row.is_sync() || row.crashes > 0 {
            self.inner.dispatcher.finished(row.execution_id, row.app_id);
        }
    }

    fn conclude_sync(&self, row: &Arc<Row>, finished: Finished) {
        let Some(id) = row.reply_to else { return };
        let receiver = self.inner.inbox.take(id);
        if matches!(&finished.outcome.result, Err(fault) if fault.kind == FaultKind::Drain) {
            self.inner.store.settle(row, End::Release);
        } else {
            let delivery = if receiver.is_there() { Delivery::Delivered } else { Delivery::Abandoned };
            self.log_end(row, &finished, delivery);
        }
        self.ended(row);
        self.answer(row, receiver, finished.outcome.result);
    }

    fn answer(&self, row: &Row, receiver: Receiver, result: Result<Response, Fault>) {
        if !receiver.deliver(Answer { result }) {
            self.inner.inbox.count_abandoned();
            tracing::info!(execution = %row.execution_id, script = %row.script_name, "nobody waited for the answer any more");
        }
    }

    fn log_end(&self, row: &Arc<Row>, finished: &Finished, delivery: Delivery) {
        let record = record(row, finished, delivery, None);
        self.close_record(row, record, End::Done);
    }

    pub(super) fn conclude_async(&self, row: &Arc<Row>, finished: Finished) {
        let now = UnixMs::now();
        let age = Duration::from_millis(row.age_ms) + finished.queue_wait + finished.outcome.duration;
        let next = match &finished.outcome.result {
            Ok(_) => Next::Drop,
            Err(fault) => self.inner.policy.after(row, fault, age, chance()),
        };
        match (next, &finished.outcome.result) {
            (Next::Retry(wait), Err(fault)) => {
                count(&self.inner.tally.retries);
                let mut again = failed(row, fault, now, now.plus(wait));
                (again.age_ms, again.wait_ms) = (millis(age + wait), millis(wait));
                let again = Arc::new(again);
                self.inner.store.settle(row, End::Retry(again.clone()));
                self.inner.dispatcher.later(again, wait);
                return self.inner.dispatcher.attempted(row.execution_id, row.app_id);
            }
            (Next::Requeue(wait), _) => {
                self.inner.store.settle(row, End::Release);
                self.inner.dispatcher.later(row.clone(), wait);
                return self.inner.dispatcher.attempted(row.execution_id, row.app_id);
            }
            (Next::Keep, _) => {
                self.inner.store.settle(row, End::Release);
                return self.inner.dispatcher.attempted(row.execution_id, row.app_id);
            }
            (Next::Dead(reason), Err(fault)) => {
                let buried = failed(row, fault, now, row.due_at);
                self.bury(buried, row, &finished, reason);
            }
            (Next::Drop | Next::Retry(_) | Next::Dead(_), _) => self.log_end(row, &finished, Delivery::None),
        }
        self.ended(row);
    }

    /// Ends a row that took the process down too often. Sync rows are never dead-lettered.
    pub(super) fn bury_crashed(&self, row: &Arc<Row>, reason: &'static str) {
        let message = format!("PiCloud went down {} times while this ran", row.crashes);
        tracing::warn!(execution = %row.execution_id, script = %row.script_name, crashes = row.crashes, "a script that took PiCloud down is not run again");
        let finished = Finished::refused(Fault::new(FaultKind::Platform, message.as_str()));
        if row.is_sync() {
            return self.log_end(row, &finished, Delivery::Abandoned);
        }
        let mut buried = row.as_ref().clone();
        let at = UnixMs::now();
        buried.history.push(Attempt { at, status: Ended::Error, error: message });
        self.bury(buried, row, &finished, reason);
        self.inner.scheduler.ended(row);
    }

    fn bury(&self, buried: Row, row: &Arc<Row>, finished: &Finished, reason: &'static str) {
        if row.kind == Kind::DeadLetter {
            // A handler's own end is told by its record; a letter about it would be handled by it again.
            tracing::warn!(execution = %row.execution_id, script = %row.script_name, reason, "a handler of dead letters failed");
            return self.log_end(row, finished, Delivery::None);
        }
        count(&self.inner.tally.dead);
        let died_at = UnixMs::now();
        let (id, script_version) = (self.inner.store.new_id(), finished.version);
        let letter = DeadLetter { id, row: buried, script_version, reason: reason.into(), died_at };
        let record = record(row, finished, Delivery::None, Some(id));
        self.close_record(row, record, |record| End::Dead(Box::new(letter), record));
    }

    fn close_record(
        &self,
        row: &Row,
        record: ExecutionRecord,
        end: impl FnOnce(store::EncodedRecord) -> End,
    ) {
        let encoded = self.count_end(record);
        self.inner.store.settle(row, end(encoded));
    }

    /// Counts an end and shows it to those who follow. Gives its record as it is kept.
    fn count_end(&self, record: ExecutionRecord) -> store::EncodedRecord {
        self.forward(&record);
        let slot = match record.status {
            Ended::Success => 0,
            Ended::Error => 1,
            Ended::Timeout => 2,
            Ended::BudgetExceeded => 3,
        };
        count(&self.inner.tally.ended[slot]);
        let encoded = store::encode_record(&record);
        let followed = (self.inner.tail.receiver_count() > 0).then(|| encoded.decode());
        if let Some(Ok(record)) = followed {
            // Its readers may leave between the count and the sending.
            let _ = self.inner.tail.send(Arc::new(record));
        }
        encoded
    }
}

impl Dispatch {
    /// Hands the lines of a script to the daemon's own log, where that is wanted.
    fn forward(&self, record: &ExecutionRecord) {
        if record.script_logs.is_empty() || !tracing::enabled!(target: SCRIPT_LINES, Level::ERROR) {
            return;
        }
        let catalog = self.inner.store.catalog();
        let app = catalog.apps.get(&record.app_id).map(|app| app.slug.as_str());
        let (script, execution) = (record.script_name.as_ref(), record.id);
        for LogLine { level, message, .. } in record.script_logs.iter() {
            match level.as_str() {
                "error" => tracing::error!(target: SCRIPT_LINES, app, script, %execution, "{message}"),
                "warn" => tracing::warn!(target: SCRIPT_LINES, app, script, %execution, "{message}"),
                "debug" | "trace" => {
                    tracing::debug!(target: SCRIPT_LINES, app, script, %execution, "{message}");
                }
                _ => tracing::info!(target: SCRIPT_LINES, app, script, %execution, "{message}"),
            }
        }
    }
}

/// Why what a run changed was not accepted; `None` if it is to be made again.
fn fault_of(refused: Refused, row: &Row) -> Option<Fault> {
    match refused {
        Refused::Conflict => None,
        Refused::KvFull(message) => {
            let reason = Some("kv_full");
            Some(Fault { permanent: true, reason, ..Fault::new(FaultKind::Runtime, message) })
        }
        Refused::Store(error) => Some(super::not_taken(&error, row)),
    }
}

/// The row after one more failed attempt.
fn failed(row: &Row, fault: &Fault, at: UnixMs, due_at: UnixMs) -> Row {
    let mut again = row.clone();
    again.attempts = row.attempt();
    again.due_at = due_at;
    if again.history.len() >= HISTORY_MAX {
        again.history.remove(0);
    }
    let error = kept(&fault.message, ERROR_KEPT).into_owned();
    again.history.push(Attempt { at, status: fault.kind.ended(), error });
    again
}

fn record<'a>(
    row: &'a Row,
    finished: &'a Finished,
    delivery: Delivery,
    dead_letter_id: Option<Uuid>,
) -> ExecutionRecord<'a> {
    let outcome = &finished.outcome;
    let response = outcome.result.as_ref().ok();
    let fault = outcome.result.as_ref().err();
    let told = |text| outcome.redaction.apply(text);
    let header = |(name, value)| (name, told(value));
    ExecutionRecord {
        id: row.execution_id,
        app_id: row.app_id,
        script_id: row.script_id,
        script_name: row.script_name.as_str().into(),
        script_version: finished.version,
        route_id: row.route_id,
        request_id: row.request_id.as_str().into(),
        request_method: row.request.method.as_str().into(),
        request_path: told(row.request.path.as_str().into()),
        request_headers: row.request.headers.iter().map(redacted).map(header).collect(),
        request_body: told(text(row.request.body.bytes())),
        response_code: response.map(|response| response.status),
        response_body: response.map(|response| told(text(&response.body))),
        script_logs: outcome.logs.as_slice().into(),
        duration_us: micros(outcome.duration),
        status: status(row, response, fault),
        error: fault.map(|fault| kept(&fault.message, ERROR_KEPT)),
        created_at: row.accepted_at,
        finished_at: UnixMs::now(),
        attempt: row.attempt(),
        kind: row.kind,
        sync: row.is_sync(),
        queue_wait_us: micros(finished.queue_wait),
        operations: outcome.operations,
        peak_bytes: outcome.peak_bytes,
        delivery,
        dead_letter_id,
        trigger_depth: row.trigger_depth,
        root_execution_id: row.root_execution_id,
    }
}

/// A routed sync call succeeds by its answer; everything else by ending without a fault.
fn status(row: &Row, response: Option<&Response>, fault: Option<&Fault>) -> Ended {
    match (fault, response) {
        (Some(fault), _) => fault.kind.ended(),
        (None, Some(response))
            if row.is_sync() && row.route_id.is_some() && !(200..400).contains(&response.status) =>
        {
            Ended::Error
        }
        (None, _) => Ended::Success,
    }
}

/// Credentials never reach the log.
fn redacted((name, value): &(String, String)) -> (Cow<'_, str>, Cow<'_, str>) {
    let secret = matches!(name.as_str(), "authorization" | "cookie" | "proxy-authorization");
    (name.into(), if secret { "[redacted]" } else { value }.into())
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    let cut = &bytes[..bytes.len().min(BODY_KEPT)];
    match std::str::from_utf8(cut) {
        // The cut went through a character.
        Err(error) if error.error_len().is_none() => String::from_utf8_lossy(&cut[..error.valid_up_to()]),
        _ => String::from_utf8_lossy(cut),
    }
}

fn kept(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end]).into()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Uniform in 0..1; without randomness the whole wait is taken.
fn chance() -> f64 {
    getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX))
}
