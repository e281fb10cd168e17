//! `GET /api/v1/metrics`: the Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use hyper::Method;

use super::input::Call;
use super::{Office, Outcome, not_allowed};
use crate::http::reply;

/// A text that grows metric by metric.
struct Exposition(String);

impl Exposition {
    fn metric(&mut self, name: &str, kind: &str, help: &str, samples: &[(&str, &dyn Display)]) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP picloud_{name} {help}\n# TYPE picloud_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "picloud_{name}{labels} {value}");
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.metric(name, "counter", help, &[("", &value.load(Relaxed))]);
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str], values: &[u64]) {
        let mut samples: Vec<(&str, &dyn Display)> = Vec::with_capacity(labels.len());
        for (label, value) in labels.iter().zip(values) {
            samples.push((label, value));
        }
        self.metric(name, "counter", help, &samples);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "gauge", help, &[("", &value)]);
    }
}

impl Office {
    pub(super) fn metrics(&self, call: &Call) -> Outcome {
        if call.method != Method::GET {
            return not_allowed("GET");
        }
        let mut text = Exposition(String::with_capacity(8 * 1024));
        self.traffic(&mut text);
        self.work(&mut text);
        self.card(&mut text);
        self.certificates(&mut text);
        self.process(&mut text);
        Ok(reply::text("text/plain; version=0.0.4; charset=utf-8", text.0))
    }

    fn cron(&self, text: &mut Exposition) {
        let (cron, clock) = (self.dispatch.cron(), self.dispatch.clock());
        let labels = [
            "{outcome=\"run\"}",
            "{outcome=\"missed\"}",
            "{outcome=\"overlapped\"}",
            "{outcome=\"refused\"}",
        ];
        let ticks = [&cron.run, &cron.missed, &cron.overlapped, &cron.refused];
        let ticks = ticks.map(|count| count.load(Relaxed));
        text.counters("cron_ticks_total", "Ticks of schedules, by what became of them.", &labels, &ticks);
        text.gauge(
            "cron_waits_for_clock",
            "Whether schedules wait for the clock.",
            u8::from(clock.cron_waiting),
        );
    }

    fn traffic(&self, text: &mut Exposition) {
        let answers = self.info.answers.each_ref().map(|count| count.load(Relaxed));
        let labels =
            ["{class=\"1xx\"}", "{class=\"2xx\"}", "{class=\"3xx\"}", "{class=\"4xx\"}", "{class=\"5xx\"}"];
        text.counters("http_responses_total", "Answers by class of status.", &labels, &answers);
        text.counter(
            "http_rate_limited_total",
            "Requests refused because their app was called too often.",
            &self.info.rate_limited,
        );
        let (open, accepted) = self.guests.count();
        text.gauge("http_connections", "Connections open now.", open);
        text.metric("http_connections_total", "counter", "Connections accepted.", &[("", &accepted)]);
    }

    fn work(&self, text: &mut Exposition) {
        let tally = self.dispatch.tally();
        let ended = tally.ended.each_ref().map(|count| count.load(Relaxed));
        let labels = [
            "{status=\"success\"}",
            "{status=\"error\"}",
            "{status=\"timeout\"}",
            "{status=\"budget_exceeded\"}",
        ];
        text.counters("executions_total", "Executions that ended, by status.", &labels, &ended);
        text.counter("retries_total", "Attempts that failed and are repeated.", &tally.retries);
        text.counter("dead_letters_total", "Executions that ended as dead letters.", &tally.dead);
        let (inbox, executor) = (self.dispatch.inbox(), self.dispatch.executor());
        text.gauge("inbox_waiting", "Callers that wait for an answer.", inbox.waiting());
        text.metric(
            "inbox_abandoned_total",
            "counter",
            "Answers that found nobody.",
            &[("", &inbox.abandoned())],
        );
        let (waiting, running) = executor.load();
        text.gauge("executor_threads", "Scripts that may run at once.", executor.benches());
        text.gauge("executor_running", "Scripts running now.", running);
        text.gauge("executor_heavy", "Scripts among them that share the processor.", executor.heavy());
        text.gauge("executor_aside", "Scripts that wait for other servers, beside those.", executor.aside());
        text.gauge("executor_queue", "Runs that wait for a thread.", waiting);
        text.counter(
            "executor_overloaded_total",
            "Runs refused because the queue was full.",
            &executor.tally().overloaded,
        );
        text.counter(
            "executor_app_overloaded_total",
            "Runs refused because their app had its share of the queue.",
            &executor.tally().app_overloaded,
        );
        text.counter(
            "executor_leaked_bytes_total",
            "Bytes that runs left behind.",
            &executor.tally().leaked_bytes,
        );
        self.cron(text);
        let (ready, scheduled, held) = self.dispatch.waiting();
        text.gauge("dispatcher_ready", "Async rows that are due.", ready);
        text.gauge("dispatcher_scheduled", "Async rows that wait for their time.", scheduled);
        text.gauge("dispatcher_held", "Async rows that their trigger holds back.", held);
    }

    fn card(&self, text: &mut Exposition) {
        let (load, card) = (self.store.load(), self.store.card());
        text.gauge("outbox_rows", "Rows in the outbox.", load.outbox_rows.load(Relaxed));
        text.gauge("outbox_bytes", "Bytes of the rows in the outbox.", load.outbox_bytes.load(Relaxed));
        text.gauge("dead_letters", "Dead letters kept.", load.dead_letters.load(Relaxed));
        text.gauge("dead_letters_bytes", "Bytes of them.", load.dead_letters_bytes.load(Relaxed));
        text.counter(
            "dead_letters_dropped_total",
            "Dead letters dropped for want of room.",
            &load.dead_letters_dropped,
        );
        text.gauge(
            "dead_letters_alert",
            "1 if there are as many dead letters as dead_letters.alert_at.",
            u64::from(load.dead_letters_alert.load(Relaxed)),
        );
        text.gauge(
            "versions_bytes",
            "Bytes of all versions of all scripts.",
            load.versions_bytes.load(Relaxed),
        );
        text.gauge("execution_log_bytes", "Bytes of the execution log.", load.log_bytes.load(Relaxed));
        let (space, now) = (self.store.space(), Instant::now());
        text.gauge("storage_free_bytes", "Bytes free on the card.", space.free_bytes(now));
        text.gauge("storage_low", "1 while the card is full.", u8::from(space.full(now).is_some()));
        text.counter(
            "storage_full_refusals_total",
            "Rows and changes refused because the card was full.",
            &load.storage_full_refusals,
        );
        text.counter(
            "queue_full_refusals_total",
            "Rows refused because their app had as much queued work as it may.",
            &load.queue_full_refusals,
        );
        text.counter("store_commands_total", "Commands the writer took.", &load.commands);
        text.counter("store_compactions_total", "Times the file was made small again.", &load.compactions);
        text.counter("store_commits_total", "Transactions committed.", &load.commits);
        text.counter("store_durable_commits_total", "Transactions committed durably.", &load.durable_commits);
        text.counter("card_fsyncs_total", "Calls of fdatasync.", &card.syncs);
        text.counter("card_fsync_microseconds_total", "Time spent in fdatasync.", &card.sync_us);
        text.counter("card_writes_total", "Writes to the file.", &card.writes);
        text.counter("card_written_bytes_total", "Bytes written to the file.", &card.bytes_written);
        text.counter(
            "store_logical_bytes_total",
            "Bytes that the store was asked to keep, before compression.",
            &load.logical_bytes,
        );
        text.gauge("store_file_bytes", "Length of the file.", self.store.file_bytes());
        self.wear(text);
    }

    /// Totals over all starts, and how the budget stands.
    fn wear(&self, text: &mut Exposition) {
        let (wear, budget) = (self.store.wear(), self.store.budget());
        let lifetime = [
            ("card_lifetime_fsyncs_total", "Calls of fdatasync since the file is in use.", wear.syncs),
            (
                "card_lifetime_written_bytes_total",
                "Bytes written since the file is in use.",
                wear.bytes_written,
            ),
            ("card_lifetime_commits_total", "Transactions since the file is in use.", wear.commits),
            ("card_lifetime_seconds_total", "Seconds of operation since the file is in use.", wear.seconds),
        ];
        for (name, help, value) in lifetime {
            text.metric(name, "counter", help, &[("", &value)]);
        }
        let (per_day, _) = wear.bytes_per_day();
        text.gauge("card_written_bytes_per_day", "Bytes per day at the rate of the last day.", per_day);
        if let Some(factor) = wear.amplification() {
            let help = "Bytes written for each byte kept, since the file is in use.";
            text.gauge("card_write_amplification", help, format!("{factor:.3}"));
        }
        let help = "Bytes that may be written per day; 0 if any.";
        text.gauge("card_write_budget_bytes_per_day", help, budget.bytes_per_day);
        let help = "1 while the write budget is exceeded.";
        text.gauge("card_over_budget", help, u8::from(budget.over));
    }

    fn certificates(&self, text: &mut Exposition) {
        let Some(tls) = &self.tls else { return };
        let tally = tls.tally();
        let outcomes = [&tally.done, &tally.failed, &tally.timed_out].map(|count| count.load(Relaxed));
        let (waiting, evicted) = tls.anteroom().count();
        let labels = [
            "{outcome=\"done\"}",
            "{outcome=\"failed\"}",
            "{outcome=\"timed_out\"}",
            "{outcome=\"evicted\"}",
        ];
        let [done, failed, timed_out] = outcomes;
        let counts = [done, failed, timed_out, evicted];
        text.counters("tls_handshakes_total", "Handshakes, by what became of them.", &labels, &counts);
        text.counter("tls_resumed_total", "Handshakes that went on with an earlier session.", &tally.resumed);
        text.gauge("tls_handshakes_waiting", "Handshakes under way.", waiting);
        let (granted, refused) = tls.orders();
        let labels = ["{outcome=\"issued\"}", "{outcome=\"failed\"}"];
        text.counters("acme_orders_total", "Orders, by what became of them.", &labels, &[granted, refused]);
        let known = tls.certificates();
        let ends = known.iter().filter_map(|one| {
            let seconds = one.facts.as_ref()?.not_after.0 / 1000;
            // Names are hosts, which hold nothing that would have to be escaped.
            Some((
                format!("{{name=\"{}\",source=\"{}\",id=\"{}\"}}", one.name, one.source.word(), one.id),
                seconds,
            ))
        });
        let ends: Vec<(String, i64)> = ends.collect();
        let mut samples: Vec<(&str, &dyn Display)> = Vec::with_capacity(ends.len());
        for (labels, seconds) in &ends {
            samples.push((labels, seconds));
        }
        let help = "When a certificate ends, in seconds since 1970.";
        text.metric("certificate_expires_timestamp_seconds", "gauge", help, &samples);
    }

    fn process(&self, text: &mut Exposition) {
        text.gauge("uptime_seconds", "Seconds since the start.", self.info.started.elapsed().as_secs());
        let safe_mode = u8::from(self.dispatch.is_resting());
        text.gauge("safe_mode", "1 while no script runs until an operator says so.", safe_mode);
        if let Some(bytes) = (self.info.resident_bytes)() {
            text.gauge("resident_memory_bytes", "Resident memory.", bytes);
        }
        let label = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        text.metric("build_info", "gauge", "The running version.", &[(label, &1)]);
    }
}
