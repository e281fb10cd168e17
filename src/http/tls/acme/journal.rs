//! What was ordered when, and what came of it: so that neither a loop of restarts nor an impatient operator asks an
//! ACME server more often than it allows.
//!
//! Its own limits are below those of Let's Encrypt (letsencrypt.org/docs/rate-limits, 2026): 5 failed validations of a
//! name an hour, 5 certificates of a name a week, 50 new ones of a domain a week.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::tls::files;
use crate::model::UnixMs;

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Orders of one name in an hour, whatever came of them.
const ORDERS_AN_HOUR: usize = 4;
/// Certificates of one name in a week.
const CERTIFICATES_A_WEEK: usize = 4;
/// Orders of all names in a week that are no renewals.
const NEW_NAMES_A_WEEK: usize = 40;
/// After the first failure; each further one waits three times as long.
const FIRST_WAIT: Duration = Duration::from_secs(5 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The journal.
pub(super) struct Journal {
    path: PathBuf,
    pages: Pages,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Pages {
    orders: Vec<Ordered>,
    names: BTreeMap<String, Standing>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ordered {
    name: String,
    at: UnixMs,
    issued: bool,
    renewal: bool,
}

/// How it stands with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::http) struct Standing {
    /// Failures since the last certificate.
    pub(in crate::http) failures: u32,
    /// What the last one was.
    pub(in crate::http) last_error: Option<String>,
    /// When it was last tried.
    pub(in crate::http) last_attempt_at: Option<UnixMs>,
    /// Not before then.
    pub(in crate::http) next_attempt_at: Option<UnixMs>,
}

/// Whether anybody wants a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is claimed, or was issued.
    Yes,
    /// It falls under a wildcard, and somebody asked for it once.
    WhileRecent,
    /// Nobody does.
    No,
}

/// Why an order is not made now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::http) enum TooSoon {
    /// It failed, and is tried again later.
    #[error("it failed a while ago, and is tried again at {0}")]
    Waits(UnixMs),
    /// A limit of ours, which keeps below those of the server.
    #[error("{what} were ordered; the next order can be made at {until}")]
    Limit {
        /// What there were too many of.
        what: String,
        /// When there is room again.
        until: UnixMs,
    },
}

impl TooSoon {
    /// When to come back.
    pub(in crate::http) fn until(&self) -> UnixMs {
        match self {
            TooSoon::Waits(until) | TooSoon::Limit { until, .. } => *until,
        }
    }
}

impl Journal {
    /// Reads it. One that cannot be read begins anew: it only keeps us polite.
    pub(super) fn open(path: PathBuf) -> Journal {
        let text = files::read(&path).ok().flatten();
        let pages = text.and_then(|text| {
            serde_json::from_slice(&text)
                .inspect_err(|error| tracing::warn!(%error, "{} is damaged, and begins anew", path.display()))
                .ok()
        });
        Journal { path, pages: pages.unwrap_or_default() }
    }

    /// How it stands with a name.
    pub(super) fn standing(&self, name: &str) -> Option<&Standing> {
        self.pages.names.get(name)
    }

    /// Whether `name` may be ordered at `now`. Who asks in person need not wait after a failure, but keeps the limits.
    pub(super) fn check(
        &self,
        name: &str,
        now: UnixMs,
        is_renewal: bool,
        in_person: bool,
    ) -> Result<(), TooSoon> {
        let next = self.standing(name).and_then(|standing| standing.next_attempt_at);
        if let Some(next) = next
            && next > now
            // A clock that was far ahead would otherwise have us wait for years.
            && next.since(now) <= LONGEST_WAIT * 2
            && !in_person
        {
            return Err(TooSoon::Waits(next));
        }
        let own = |order: &&Ordered| order.name == name;
        self.room(now, HOUR, ORDERS_AN_HOUR, "orders for this name within an hour", own)?;
        let issued = |order: &&Ordered| own(order) && order.issued;
        self.room(now, WEEK, CERTIFICATES_A_WEEK, "certificates for this name within a week", issued)?;
        if is_renewal {
            return Ok(());
        }
        let new = |order: &&Ordered| !order.renewal;
        self.room(now, WEEK, NEW_NAMES_A_WEEK, "certificates for new names within a week", new)
    }

    fn room(
        &self,
        now: UnixMs,
        within: Duration,
        most: usize,
        what: &str,
        counts: impl Fn(&&Ordered) -> bool,
    ) -> Result<(), TooSoon> {
        // What a clock that was ahead wrote down counts as of now.
        let recent = |order: &&Ordered| now.since(order.at) < within;
        let orders = self.pages.orders.iter().filter(counts).filter(recent);
        let mut times: Vec<UnixMs> = orders.map(|order| order.at.min(now)).collect();
        times.sort_unstable();
        // The newest of those that must have left the window before there is room.
        match times.len().checked_sub(most).and_then(|at| times.get(at)) {
            None => Ok(()),
            Some(at) => Err(TooSoon::Limit { what: format!("{most} {what}"), until: at.plus(within) }),
        }
    }

    /// Notes that an order is about to be made, before the server hears of it.
    pub(super) fn begin(&mut self, name: &str, now: UnixMs, is_renewal: bool) {
        self.pages.orders.retain(|order| now.since(order.at) < WEEK);
        self.pages.orders.push(Ordered {
            name: name.to_owned(),
            at: now,
            issued: false,
            renewal: is_renewal,
        });
        let standing = self.pages.names.entry(name.to_owned()).or_default();
        standing.last_attempt_at = Some(now);
        self.keep();
    }

    /// Notes that it was granted.
    pub(super) fn granted(&mut self, name: &str) {
        if let Some(order) = self.pages.orders.iter_mut().rev().find(|order| order.name == name) {
            order.issued = true;
        }
        let standing = self.pages.names.entry(name.to_owned()).or_default();
        let last_attempt_at = standing.last_attempt_at;
        *standing = Standing { last_attempt_at, ..Standing::default() };
        self.keep();
    }

    /// Notes that it failed. `least` is how long the server wants to be left alone; `chance`, from 0 to 1, spreads
    /// the attempts of many devices.
    pub(super) fn failed(&mut self, name: &str, why: &str, now: UnixMs, least: Duration, chance: f64) {
        let standing = self.pages.names.entry(name.to_owned()).or_default();
        let wait = FIRST_WAIT.saturating_mul(3_u32.saturating_pow(standing.failures.min(12)));
        let wait = wait.min(LONGEST_WAIT).max(least).mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
        standing.failures = standing.failures.saturating_add(1);
        standing.last_error = Some(why.to_owned());
        standing.last_attempt_at = Some(now);
        standing.next_attempt_at = Some(now.plus(wait));
        self.keep();
    }

    /// Names that could not be had yet.
    pub(super) fn troubled(&self) -> Vec<String> {
        let troubled = self.pages.names.iter().filter(|(_, standing)| standing.failures > 0);
        troubled.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets names that nobody claims any more, and of those that were only asked for, what is long ago.
    pub(super) fn keep_only(&mut self, now: UnixMs, mut wanted: impl FnMut(&str) -> Wanted) {
        let before = self.pages.names.len();
        self.pages.names.retain(|name, standing| match wanted(name) {
            Wanted::Yes => true,
            Wanted::WhileRecent => standing.last_attempt_at.is_some_and(|at| now.since(at) < WEEK),
            Wanted::No => false,
        });
        if self.pages.names.len() != before {
            self.keep();
        }
    }

    fn keep(&self) {
        let kept = serde_json::to_vec(&self.pages)
            .map_err(std::io::Error::other)
            .and_then(|text| files::write(&self.path, &text));
        if let Err(error) = kept {
            // It is kept in memory; a restart before the next order forgets this one.
            tracing::warn!(%error, "{} could not be written", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(name: &str) -> Journal {
        let path = std::env::temp_dir().join(format!("picloud-journal-{name}-{}", std::process::id()));
        let _ = files::remove(&path);
        Journal::open(path)
    }

    fn at(minutes: u64) -> UnixMs {
        UnixMs(1_800_000_000_000).plus(Duration::from_secs(60 * minutes))
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let mut journal = journal("failures");
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            journal.begin("a.example.org", now, false);
            journal.failed("a.example.org", "no", now, Duration::ZERO, 0.5);
            let next = journal.standing("a.example.org").unwrap().next_attempt_at.unwrap();
            waits.push(next.since(now).as_secs() / 60);
            assert!(matches!(journal.check("a.example.org", now, false, false), Err(TooSoon::Waits(_))));
            now = next;
        }
        assert_eq!(waits, [5, 15, 45, 135, 405, 1215, 1440, 1440]);
        journal.check("a.example.org", now, false, false).unwrap();
        // It is kept over a restart.
        let again = Journal::open(journal.path.clone());
        assert_eq!(again.standing("a.example.org"), journal.standing("a.example.org"));
        journal.granted("a.example.org");
        assert_eq!(journal.standing("a.example.org").unwrap().failures, 0);
        files::remove(&journal.path).unwrap();
    }

    #[test]
    fn nobody_exceeds_the_limits_of_the_server() {
        let mut journal = journal("limits");
        for minute in 0..4 {
            journal.check("a.example.org", at(minute), false, true).unwrap();
            journal.begin("a.example.org", at(minute), false);
        }
        let limit = journal.check("a.example.org", at(5), false, true).unwrap_err();
        assert_eq!(limit.until(), at(60), "{limit}");
        journal.check("b.example.org", at(5), false, true).unwrap();
        journal.check("a.example.org", at(60), false, true).unwrap();
        for hour in 1..5 {
            journal.begin("a.example.org", at(60 * 24 * hour), true);
            journal.granted("a.example.org");
        }
        let limit = journal.check("a.example.org", at(60 * 24 * 5), true, true).unwrap_err();
        assert_eq!(limit.until(), at(60 * 24 * 8), "{limit}");
        let day = 60 * 24 * 30;
        for number in 0..40 {
            journal.check("new.example.org", at(day), false, false).unwrap();
            journal.begin(&format!("{number}.example.org"), at(day), false);
        }
        journal.check("new.example.org", at(day), false, false).unwrap_err();
        journal.check("new.example.org", at(day), true, false).unwrap();
        files::remove(&journal.path).unwrap();
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_stop_everything() {
        let mut journal = journal("clock");
        let ahead = at(60 * 24 * 3650);
        journal.begin("a.example.org", ahead, false);
        journal.failed("a.example.org", "no", ahead, Duration::ZERO, 0.5);
        journal.check("a.example.org", at(0), false, false).unwrap();
        files::remove(&journal.path).unwrap();
    }
}
