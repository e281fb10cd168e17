//! The report: tables that read as text and as Markdown, and which goals were reached. No goal ever fails a run.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use crate::args::{Args, Subject};
use crate::cron::Idle;
use crate::endurance::Tenth;
use crate::fair::Fair;
use crate::hello::Hello;
use crate::matching::Matching;
use crate::million::Keeping;
use crate::numbers::float;
use crate::rounds::{Rounds, Runs};
use crate::slow::Slow;
use crate::startup::Start;
use crate::tls::Tls;

const MEGABYTE: f64 = 1e6;

/// Everything that is printed at the end.
pub(crate) struct Report {
    head: String,
    tables: Vec<Table>,
    goals: Table,
}

/// A table; the first column is text, the others are figures.
struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Report {
    /// A report that so far says where, how and with what was measured.
    pub(crate) fn new(machine: &str, args: &Args) -> Report {
        let environment: Vec<_> =
            args.environment.iter().map(|(name, value)| format!(", {name}={value}")).collect();
        let head = format!(
            "machine: {machine}\n\
             command: {}\n\
             daemon: default configuration, access log to a file{}\n\
             load: one thread beside the server, POST of 13 bytes, \
             {:.1} s after {:.1} s of warm-up, medians of {} rounds\n",
            Args::command(),
            environment.concat(),
            args.measured().as_secs_f64(),
            args.warm_up().as_secs_f64(),
            args.rounds(),
        );
        let goals = Table::new("Goals", &["goal", "wanted", "seen", ""]);
        Report { head, tables: Vec::new(), goals }
    }

    /// What was measured under load.
    pub(crate) fn add_rounds(&mut self, rounds: &Rounds) {
        let mut table = Table::new(
            "Under load; what is per request includes warm-up and aftermath, drain the last flush",
            &[
                "what",
                "connections",
                "req/s",
                "of bare",
                "p50 ms",
                "p99 ms",
                "cpu us/req",
                "fsyncs/req",
                "bytes/req",
                "commits/req",
                "peak MB",
                "drain s",
                "errors",
            ],
        );
        for runs in &rounds.results {
            table.add(load_row(runs));
        }
        self.tables.push(table);
        self.judge_rounds(rounds);
    }

    fn judge_rounds(&mut self, rounds: &Rounds) {
        use Subject::{Async, Counter, Relaxed, Strict, Values};
        let find = |subject, connections| {
            rounds.results.iter().find(|runs| runs.subject == subject && runs.connections == connections)
        };
        let ratio = |runs: &Runs| runs.median(|run| run.ratio);
        let goals = [(Relaxed, 32, 0.6), (Relaxed, 128, 0.6), (Strict, 128, 0.4), (Values, 32, 0.5)];
        for (subject, connections, wanted) in goals {
            if let Some(runs) = find(subject, connections) {
                self.at_least(
                    &format!("{} of bare hyper, {connections} connections", name(subject)),
                    wanted,
                    ratio(runs),
                );
            }
        }
        if let Some(runs) = find(Counter, 32) {
            self.at_least("hot counter, 32 connections, req/s", 500.0, runs.median(|run| run.rate));
        }
        for strict in rounds.results.iter().filter(|runs| runs.subject == Strict) {
            if let Some(accept) = find(Async, strict.connections) {
                let seen = accept.median(|run| run.rate) / strict.median(|run| run.rate);
                self.at_least(&format!("async of strict, {} connections", strict.connections), 1.0, seen);
            }
        }
        if let Some(runs) = find(Strict, 128) {
            self.at_most(
                "fsyncs for each strict request, 128 connections",
                0.05,
                runs.median(|run| run.fsyncs),
                4,
            );
        }
        self.at_most("resident memory, idle, MB", 25.0, float(rounds.idle_bytes) / MEGABYTE, 1);
        let daemon = rounds.results.iter().filter(|runs| runs.subject != Subject::Bare);
        let peak = daemon.map(|runs| runs.median(|run| run.peak_bytes)).fold(0.0, f64::max);
        if peak > 0.0 {
            self.at_most("resident memory, loaded, MB", 80.0, peak / MEGABYTE, 1);
        }
    }

    /// What slower cards did.
    pub(crate) fn add_slow(&mut self, slow: &[Slow]) {
        let title = "On slower cards, bodies of 200 bytes; a request per connection and sync is the ideal";
        let heads = [
            "what",
            "added ms",
            "connections",
            "req/s",
            "p50 ms",
            "p99 ms",
            "syncs/s",
            "sync ms",
            "req/conn/sync",
            "req/conn/sync time",
            "p99 in syncs",
            "bytes/req",
            "commits/req",
            "errors",
        ];
        let mut table = Table::new(title, &heads);
        for runs in slow {
            table.add(slow_row(runs));
        }
        self.tables.push(table);
        self.judge_slow(slow);
    }

    fn judge_slow(&mut self, slow: &[Slow]) {
        let strict = slow.iter().filter(|runs| runs.subject == Subject::Strict && runs.added_ms == 15);
        for runs in strict {
            let wanted = if runs.connections == 1 { 0.9 } else { 0.8 };
            let what = format!("strict, sync + 15 ms, {} connections", runs.connections);
            // A loop that syncs seldom looks well per sync, one that syncs in vain per time: both must be reached.
            let seen = runs.median(|run| run.per_sync.min(run.per_sync_time));
            self.at_least(&format!("{what}: requests per connection and sync"), wanted, seen);
            if runs.connections > 1 {
                self.at_most(&format!("{what}: p99 in syncs"), 3.0, runs.median(|run| run.p99_syncs), 2);
            }
        }
        for (subject, wanted) in [(Subject::Strict, 4096.0), (Subject::Relaxed, 2048.0)] {
            let is_it = |runs: &&Slow| (runs.subject, runs.added_ms, runs.connections) == (subject, 0, 128);
            if let Some(runs) = slow.iter().find(is_it) {
                let what =
                    format!("{}: bytes written per request, 128 connections, body of 200", name(subject));
                self.at_most(&what, wanted, runs.median(|run| run.written_bytes), 0);
            }
        }
    }

    /// What became of a store in long use.
    pub(crate) fn add_endurance(&mut self, tenths: &[Tenth]) {
        let heads = [
            "executions",
            "exec/s",
            "file MB",
            "blocks MB",
            "log MB",
            "resident MB",
            "bytes/exec",
            "strict alone ms",
            "sync ms",
        ];
        let mut table = Table::new("Endurance: mostly relaxed calls, some strict and async; at rest", &heads);
        let megabytes = |bytes: f64| format!("{:.1}", bytes / MEGABYTE);
        for tenth in tenths {
            table.add(vec![
                tenth.executions.to_string(),
                format!("{:.0}", tenth.rate),
                megabytes(tenth.file_bytes),
                megabytes(tenth.used_bytes),
                megabytes(tenth.log_bytes),
                megabytes(tenth.resident_bytes),
                format!("{:.0}", tenth.written_bytes),
                format!("{:.3}", tenth.commit_ms),
                format!("{:.3}", tenth.sync_ms),
            ]);
        }
        self.tables.push(table);
        let (Some(second), Some(last)) = (tenths.get(1), tenths.last()) else { return };
        if second.log_bytes < 0.9 * last.log_bytes {
            // The log still filled up: nothing can be said about what comes after.
            return;
        }
        type Figure = fn(&Tenth) -> f64;
        let figures: [(&str, f64, Figure); 4] = [
            ("file", 1.1, |tenth| tenth.file_bytes),
            ("blocks of the file", 1.1, |tenth| tenth.used_bytes),
            ("resident memory", 1.1, |tenth| tenth.resident_bytes),
            // The disk of a shared machine varies more than that of a board.
            ("strict call alone", 1.25, |tenth| tenth.commit_ms),
        ];
        for (what, wanted, figure) in figures {
            let what = format!("after {} executions, of the second tenth: {what}", last.executions);
            self.at_most(&what, wanted, figure(last) / figure(second).max(f64::MIN_POSITIVE), 2);
        }
    }

    /// What the workshop adds to a run.
    pub(crate) fn add_hello(&mut self, hello: &Hello) {
        let heads = ["a script of one line", "us/run", "beyond the engine us"];
        let mut table = Table::new("Through the executor, in process", &heads);
        let Hello { engine_us, alone_us, busy_us } = *hello;
        for (what, us) in [
            ("the engine alone", engine_us),
            ("one run after the other", alone_us),
            ("a busy bench", busy_us),
        ] {
            table.add(vec![what.into(), format!("{us:.1}"), format!("{:.1}", us - engine_us)]);
        }
        self.tables.push(table);
        self.at_most("executor beyond the engine, one after the other, us", 15.0, alone_us - engine_us, 1);
        self.at_most("executor beyond the engine, a busy bench, us", 15.0, busy_us - engine_us, 1);
    }

    /// What reading takes of those who keep much; the first is the measure of the others.
    pub(crate) fn add_million(&mut self, all: &[Keeping]) {
        let heads = ["values", "get us", "file MB", "resident MB"];
        let mut table = Table::new("Reading values at random, by a script", &heads);
        let megabytes = |bytes: u64| format!("{:.1}", float(bytes) / MEGABYTE);
        for keeping in all {
            let (file, resident) = (megabytes(keeping.file_bytes), megabytes(keeping.resident_bytes));
            table.add(vec![keeping.values.to_string(), format!("{:.2}", keeping.get_us), file, resident]);
        }
        self.tables.push(table);
        if let Some(last) = all.last() {
            self.at_most(&format!("kv::get among {} values, us", last.values), 20.0, last.get_us, 2);
            let resident = float(last.resident_bytes) / MEGABYTE;
            self.at_most(&format!("resident memory with {} values, MB", last.values), 80.0, resident, 1);
        }
    }

    /// What triggers cost that do not strike.
    pub(crate) fn add_cron(&mut self, all: &[Idle]) {
        let heads = ["cron triggers", "percent of a core", "resident MB", "ready ms"];
        let mut table = Table::new("At rest, each trigger once a day", &heads);
        for idle in all {
            table.add(vec![
                idle.triggers.to_string(),
                format!("{:.2}", idle.busy * 100.0),
                format!("{:.1}", float(idle.resident_bytes) / MEGABYTE),
                format!("{:.1}", idle.ready_ms),
            ]);
        }
        self.tables.push(table);
        if let Some(last) = all.last() {
            let what = format!("{} cron triggers at rest, percent of a core", last.triggers);
            self.at_most(&what, 1.0, last.busy * 100.0, 2);
        }
    }

    /// How long starts took.
    pub(crate) fn add_starts(&mut self, starts: &[Start]) {
        let mut table = Table::new(
            "Start, from the spawn; the file is in the system's memory",
            &["routes", "log rows", "file MB", "ready ms", "first answer ms"],
        );
        for start in starts {
            let (routes, log_rows) = (start.routes.to_string(), start.log_rows.to_string());
            let file = format!("{:.1}", float(start.file_bytes) / MEGABYTE);
            table.add(vec![
                routes,
                log_rows,
                file,
                format!("{:.1}", start.ready_ms),
                format!("{:.1}", start.answer_ms),
            ]);
            let what = format!("ready with {} routes and {} log rows, ms", start.routes, start.log_rows);
            self.at_most(&what, 150.0, start.ready_ms, 1);
        }
        self.tables.push(table);
    }

    /// What TLS costs.
    pub(crate) fn add_tls(&mut self, tls: &Tls) {
        let mut table = Table::new("TLS 1.3, a sync relaxed route, 32 connections that stay", &["", "req/s"]);
        table.add(vec!["in the clear".into(), format!("{:.0}", tls.clear_rate)]);
        table.add(vec!["by TLS".into(), format!("{:.0}", tls.tls_rate)]);
        self.tables.push(table);
        self.at_least("TLS, of our own rate in the clear", 0.75, tls.ratio);
        if let Some(handshakes) = &tls.handshakes {
            let mut table = Table::new("Full handshakes, TLS 1.3, P-256", &["", "per second"]);
            table.add(vec!["PiCloud".into(), format!("{:.0}", handshakes.ours)]);
            table.add(vec!["Caddy".into(), format!("{:.0}", handshakes.caddy)]);
            self.tables.push(table);
            self.at_least("full handshakes, of Caddy's", 0.8, handshakes.ratio);
        }
        let what = format!("KB of memory for each of {} idle TLS connections", tls.idle_connections);
        self.at_most(&what, 40.0, tls.bytes_per_connection / 1000.0, 1);
    }

    /// What a healthy app felt of its neighbour.
    pub(crate) fn add_fair(&mut self, all: &[Fair]) {
        let heads = [
            "a neighbour that",
            "connections",
            "alone req/s",
            "beside req/s",
            "alone p99 ms",
            "beside p99 ms",
            "ratio of p99",
            "errors",
        ];
        let mut table = Table::new("A healthy app, relaxed, beside a bad neighbour on 8 connections", &heads);
        for fair in all {
            table.add(vec![
                fair.neighbour.to_owned(),
                fair.connections.to_string(),
                format!("{:.0}", fair.median(|run| run.alone_rate)),
                format!("{:.0}", fair.median(|run| run.beside_rate)),
                format!("{:.2}", fair.median(|run| run.alone_p99_ms)),
                format!("{:.2}", fair.median(|run| run.beside_p99_ms)),
                format!("{:.2}", fair.ratio()),
                fair.refused().to_string(),
            ]);
            let what = format!("p99 beside one that {}, {} connections", fair.neighbour, fair.connections);
            self.at_most(&what, 3.0, fair.ratio(), 2);
        }
        self.tables.push(table);
    }

    /// How long look-ups took; the first is the measure of the others.
    pub(crate) fn add_matches(&mut self, matches: &[Matching]) {
        let mut table = Table::new("Route match, in process", &["routes", "ns/match", "of the first"]);
        let first = matches.first().map_or(0.0, |first| first.nanos);
        for matching in matches {
            let ratio = matching.nanos / first;
            table.add(vec![
                matching.routes.to_string(),
                format!("{:.0}", matching.nanos),
                format!("{ratio:.2}"),
            ]);
        }
        if let Some(last) = matches.last() {
            self.at_most(
                &format!("match among {} routes, of that among 10", last.routes),
                3.0,
                last.nanos / first,
                2,
            );
        }
        self.tables.push(table);
    }

    fn at_least(&mut self, what: &str, wanted: f64, seen: f64) {
        let row = [what.into(), format!(">= {wanted}"), format!("{seen:.2}"), verdict(seen >= wanted)];
        self.goals.add(row.into());
    }

    fn at_most(&mut self, what: &str, wanted: f64, seen: f64, digits: usize) {
        let row = [what.into(), format!("<= {wanted}"), format!("{seen:.digits$}"), verdict(seen <= wanted)];
        self.goals.add(row.into());
    }
}

fn verdict(reached: bool) -> String {
    if reached { "reached".into() } else { "missed".into() }
}

fn name(subject: Subject) -> &'static str {
    match subject {
        Subject::Bare => "bare hyper",
        Subject::Relaxed => "sync relaxed",
        Subject::Strict => "sync strict",
        Subject::Async => "async accept",
        Subject::Direct => "direct execute",
        Subject::Values => "values, relaxed",
        Subject::Counter => "hot counter",
        Subject::Hello => "hello",
        Subject::Million => "million",
        Subject::Cron => "cron",
        Subject::Slow => "slow card",
        Subject::Start => "start",
        Subject::Match => "match",
        Subject::Fair => "fair",
        Subject::Endurance => "endurance",
        Subject::Tls => "tls",
    }
}

fn load_row(runs: &Runs) -> Vec<String> {
    let of_daemon = |text: String| if runs.subject == Subject::Bare { "-".into() } else { text };
    let drain = runs.median(|run| run.drain_s);
    vec![
        name(runs.subject).into(),
        runs.connections.to_string(),
        format!("{:.0}", runs.median(|run| run.rate)),
        format!("{:.2}", runs.median(|run| run.ratio)),
        format!("{:.3}", runs.median(|run| run.p50_ms)),
        format!("{:.3}", runs.median(|run| run.p99_ms)),
        format!("{:.1}", runs.median(|run| run.cpu_us)),
        of_daemon(format!("{:.4}", runs.median(|run| run.fsyncs))),
        of_daemon(format!("{:.0}", runs.median(|run| run.written_bytes))),
        of_daemon(format!("{:.4}", runs.median(|run| run.commits))),
        format!("{:.1}", runs.median(|run| run.peak_bytes) / MEGABYTE),
        if runs.subject == Subject::Async { format!("{drain:.1}") } else { "-".into() },
        errors_of(runs.errors()),
    ]
}

fn slow_row(runs: &Slow) -> Vec<String> {
    // A relaxed request waits for no sync.
    let of_syncs = |text: String| if runs.subject == Subject::Relaxed { "-".into() } else { text };
    vec![
        name(runs.subject).into(),
        runs.added_ms.to_string(),
        runs.connections.to_string(),
        format!("{:.0}", runs.median(|run| run.rate)),
        format!("{:.1}", runs.median(|run| run.p50_ms)),
        format!("{:.1}", runs.median(|run| run.p99_ms)),
        format!("{:.1}", runs.median(|run| run.syncs_per_s)),
        format!("{:.2}", runs.median(|run| run.sync_ms)),
        of_syncs(format!("{:.2}", runs.median(|run| run.per_sync))),
        of_syncs(format!("{:.2}", runs.median(|run| run.per_sync_time))),
        of_syncs(format!("{:.2}", runs.median(|run| run.p99_syncs))),
        format!("{:.0}", runs.median(|run| run.written_bytes)),
        format!("{:.4}", runs.median(|run| run.commits)),
        errors_of(runs.errors()),
    ]
}

fn errors_of(errors: BTreeMap<&str, u64>) -> String {
    let errors: Vec<_> = errors.into_iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    if errors.is_empty() { "0".into() } else { errors.join(", ") }
}

impl Table {
    fn new(title: &str, heads: &[&str]) -> Table {
        Table { title: title.into(), rows: vec![heads.iter().map(|head| (*head).into()).collect()] }
    }

    fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
        (0..columns).map(|column| width(column).unwrap_or(0).max(2)).collect()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        writeln!(f, "## {}\n", self.title)?;
        for (index, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 { write!(f, "| {cell:<width$} |")? } else { write!(f, " {cell:>width$} |")? }
            }
            writeln!(f)?;
            if index == 0 {
                let rule = |column: usize, width: &usize| match column {
                    0 => format!("|{}|", "-".repeat(width + 2)),
                    _ => format!("{}:|", "-".repeat(width + 1)),
                };
                let rules = widths.iter().enumerate().map(|(column, width)| rule(column, width));
                writeln!(f, "{}", rules.collect::<String>())?;
            }
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.head)?;
        let goals = Some(&self.goals).filter(|goals| goals.rows.len() > 1);
        self.tables.iter().chain(goals).try_for_each(|table| writeln!(f, "{table}"))
    }
}
