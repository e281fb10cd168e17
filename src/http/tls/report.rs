//! What the operator sees of the certificates, and does with them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;

use super::acme::{Issued, TooSoon, may_have};
use super::authority::{self, LEAF_LIFETIME};
use super::own::{Item, NotAdded, NotRemoved};
use super::{Authority, Claim, Error, Facts, Tls};
use crate::model::{TlsSource, UnixMs};
use crate::store::Catalog;

/// An end that is so near is told, if the certificate is not of those that live for days only.
const NEAR: Duration = Duration::from_secs(14 * 24 * 3600);

/// Where a certificate came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum Origin {
    Acme,
    Pem,
    Local,
}

impl Origin {
    /// The word for it in JSON.
    pub(in crate::http) fn word(self) -> &'static str {
        match self {
            Origin::Acme => "acme",
            Origin::Pem => "pem",
            Origin::Local => "local",
        }
    }
}

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum State {
    /// It is served.
    Active,
    /// It is served, and ends soon.
    Expiring,
    /// It is served although it ended.
    Expired,
    /// It is to be ordered.
    Pending,
    /// It could not be had yet.
    Failing,
    /// No domain has its certificates from there any more: it is neither served nor renewed.
    Unused,
}

/// A certificate, or the want of one.
#[derive(Clone, Debug, Serialize)]
pub(in crate::http) struct Certificate {
    pub(in crate::http) id: String,
    /// The host that it is for, or the first of them.
    pub(in crate::http) name: String,
    pub(in crate::http) source: Origin,
    pub(in crate::http) state: State,
    /// What it says, once there is one.
    #[serde(flatten)]
    pub(in crate::http) facts: Option<Facts>,
    /// When it is made anew by itself.
    pub(in crate::http) renew_at: Option<UnixMs>,
    /// Where it is, if it was not uploaded.
    pub(in crate::http) file: Option<PathBuf>,
    pub(in crate::http) last_error: Option<String>,
    pub(in crate::http) last_attempt_at: Option<UnixMs>,
    pub(in crate::http) next_attempt_at: Option<UnixMs>,
}

/// Why one was not renewed.
#[derive(Debug)]
pub(in crate::http) enum NotRenewed {
    Unknown,
    /// Who brought it must bring another.
    Own,
    TooSoon(TooSoon),
    /// Orders wait until the clock is right.
    Clock,
}

impl Tls {
    /// All certificates, by name.
    pub(in crate::http) fn certificates(&self) -> Vec<Certificate> {
        let clock = self.clock();
        let now = clock.is_good.then_some(clock.now);
        let own = self.inner.own.items().into_iter().map(|item| of_item(&item, now));
        let local = self.authority().served().into_iter().map(|(host, served)| Certificate {
            renew_at: Some(UnixMs(served.facts.not_after.0 - lifetime_ms() / 3)),
            ..blank(host, Origin::Local, Some(served.facts.clone()), now)
        });
        let mut all: Vec<Certificate> = own.chain(local).chain(self.ordered(now)).collect();
        all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        all
    }

    /// What was issued, and what is wanted.
    fn ordered(&self, now: Option<UnixMs>) -> Vec<Certificate> {
        let acme = &self.inner.acme;
        let claims = self.inner.claims.load();
        let issued = acme.issued();
        let has_own = |host: &str| self.inner.own.find(host).is_some();
        let wanted = claims.hosts().filter(|(host, source)| {
            may_have(host, *source, has_own) && !(*source == TlsSource::Auto && acme.is_elsewhere(host))
        });
        let troubled = acme.troubled();
        let issued_names = issued.keys().chain(&troubled).map(String::as_str);
        let mut names: Vec<&str> = wanted.map(|(host, _)| host).chain(issued_names).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| self.of_name(name, issued.get(name), now)).collect()
    }

    fn of_name(&self, name: &str, issued: Option<&Arc<Issued>>, now: Option<UnixMs>) -> Certificate {
        let standing = self.inner.acme.standing(name);
        let facts = issued.map(|issued| issued.served.facts.clone());
        let mut certificate = blank(name.to_owned(), Origin::Acme, facts, now);
        certificate.renew_at = issued.map(|issued| issued.renew_at());
        let claim = self.inner.claims.load().claim(name);
        let has_own = |host: &str| self.inner.own.find(host).is_some();
        let is_wanted = match claim {
            Claim::Exact(source) => may_have(name, source, has_own),
            Claim::Wildcard(source) => source == TlsSource::Acme,
            Claim::Any(_) | Claim::Nobody => false,
        };
        if !is_wanted {
            certificate.state = State::Unused;
        }
        if is_wanted && certificate.facts.is_none() && standing.last_error.is_some() {
            certificate.state = State::Failing;
        }
        certificate.last_error = standing.last_error;
        certificate.last_attempt_at = standing.last_attempt_at;
        certificate.next_attempt_at = standing.next_attempt_at;
        certificate
    }

    /// Takes an uploaded certificate with its key in. It must be for a host that an app claims.
    pub(in crate::http) fn add(&self, pem: &[u8], catalog: &Catalog) -> Result<Certificate, NotAdded> {
        let clock = self.clock();
        let is_welcome = |facts: &Facts| {
            if catalog.domains.values().any(|domain| facts.touches(&domain.pattern)) {
                return Ok(());
            }
            Err(format!(
                "it is for {}, which no app claims: claim it first, with `picloud domain add`",
                facts.names.join(", ")
            ))
        };
        let item = self.inner.own.add(pem, &self.inner.foundry, clock, is_welcome)?;
        Ok(of_item(&item, clock.is_good.then_some(clock.now)))
    }

    /// Removes an uploaded certificate, or one that was issued and is not wanted any more.
    pub(in crate::http) fn remove(&self, id: &str) -> Result<(), NotRemoved> {
        match self.inner.own.remove(id) {
            Err(NotRemoved::Unknown) => {}
            done => return done,
        }
        let removed = self.inner.acme.remove(id).map_err(|error| NotRemoved::Card(error.to_string()))?;
        if removed || self.authority().forget(id) { Ok(()) } else { Err(NotRemoved::Unknown) }
    }

    /// Has a certificate made anew: at once by the device's authority, soon by an ACME server.
    pub(in crate::http) fn renew(&self, id: &str) -> Result<(), NotRenewed> {
        let all = self.certificates();
        let found = all.iter().find(|one| one.id == id).ok_or(NotRenewed::Unknown)?;
        match found.source {
            Origin::Pem => Err(NotRenewed::Own),
            Origin::Local => {
                let authority = self.authority();
                authority.forget(id);
                authority.serve(id, &self.inner.foundry, self.clock());
                Ok(())
            }
            Origin::Acme if !self.clock().is_good => Err(NotRenewed::Clock),
            Origin::Acme => self.inner.acme.press(id).map_err(NotRenewed::TooSoon),
        }
    }

    /// Makes another authority in the place of this one. Whoever trusted this one must trust the other.
    pub(in crate::http) fn replace_authority(&self) -> Result<(), Error> {
        let settings = &self.inner.settings;
        let path = authority::path(&settings.directory);
        let unusable =
            |error: std::io::Error| Error::Authority { path: path.clone(), why: error.to_string() };
        let mut place = self.inner.authority.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Put aside, not lost: the operator may want it back.
        std::fs::rename(&path, path.with_extension("old")).map_err(unusable)?;
        *place = Arc::new(Authority::open(&settings.directory, &settings.host_name, settings.list())?);
        Ok(())
    }
}

fn of_item(item: &Item, now: Option<UnixMs>) -> Certificate {
    let facts = item.served.as_ref().map(|served| served.facts.clone());
    let name =
        facts.as_ref().and_then(|facts| facts.names.first().cloned()).unwrap_or_else(|| item.id.clone());
    let mut certificate = blank(name, Origin::Pem, facts, now);
    if item.error.is_some() {
        certificate.state = State::Failing;
    }
    Certificate {
        id: item.id.clone(),
        file: item.file.clone(),
        last_error: item.error.clone(),
        ..certificate
    }
}

/// A certificate of which nothing else is known.
fn blank(name: String, source: Origin, facts: Option<Facts>, now: Option<UnixMs>) -> Certificate {
    let state = match (&facts, now) {
        (None, _) => State::Pending,
        (Some(facts), Some(now)) => state_of(facts, source, now),
        (Some(_), None) => State::Active,
    };
    Certificate {
        id: name.clone(),
        name,
        source,
        state,
        facts,
        renew_at: None,
        file: None,
        last_error: None,
        last_attempt_at: None,
        next_attempt_at: None,
    }
}

fn state_of(facts: &Facts, source: Origin, now: UnixMs) -> State {
    let left = facts.not_after.0.saturating_sub(now.0);
    let near = i64::try_from(NEAR.as_millis()).unwrap_or(i64::MAX);
    // One that is renewed by itself is late when less than a quarter of its time is left, whatever that is in days.
    let near = match source {
        Origin::Pem => near,
        Origin::Acme => near.min(facts.lifetime_ms() / 4),
        // Made anew when somebody asks for it.
        Origin::Local => return State::Active,
    };
    match left {
        ..=0 => State::Expired,
        left if left < near => State::Expiring,
        _ => State::Active,
    }
}

fn lifetime_ms() -> i64 {
    i64::try_from(LEAF_LIFETIME.as_millis()).unwrap_or(i64::MAX)
}

impl Tls {
    /// Orders that were granted, and that failed.
    pub(in crate::http) fn orders(&self) -> (u64, u64) {
        let acme = &self.inner.acme;
        (acme.granted.load(Relaxed), acme.failed.load(Relaxed))
    }

    /// Hosts and addresses of the device itself, as a person would type them, for pages that explain.
    pub(in crate::http) fn own_host(&self) -> &str {
        &self.inner.settings.host_name
    }

    /// The port that clients find TLS at.
    pub(in crate::http) fn port(&self) -> Option<u16> {
        self.inner.settings.port
    }
}
