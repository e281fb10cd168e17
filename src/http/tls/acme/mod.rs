//! Certificates for public names, from an ACME server (RFC 8555): ordered, kept, renewed at two thirds of their time
//! or when the server suggests it (RFC 9773).
//!
//! What was issued is served whatever its dates and whatever became of the server. Orders are made one after the
//! other, only by a clock that may be trusted, and never more often than the [`journal`] allows.

mod challenges;
mod journal;
mod order;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use instant_acme::CertificateIdentifier;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};

use super::Error;
use super::authority::Clock;
use super::certificate::{Facts, Pair, Unfit};
use super::claims::{Claim, Claims};
use super::files;
use super::foundry::{Foundry, Served};
use crate::model::{TlsSource, UnixMs, is_private, is_public_name};
pub(super) use challenges::{Challenges, PATH};
pub(super) use journal::Standing;
pub(in crate::http) use journal::TooSoon;
use journal::{Journal, Wanted};
use order::{Agent, Failed, Proof};

/// An order from its first request to its chain.
const ORDER_TIME_MAX: Duration = Duration::from_secs(300);
/// Names below wildcards that are wanted at once.
const ASKED_MAX: usize = 16;
/// How long the resolver may take.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(3);
/// Suggestions of the server are asked for again after that long at the least, and at the most.
const SUGGESTION_TIME: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));

/// How to get certificates.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// The URL of the server's directory.
    pub directory: String,
    /// Authorities, in PEM, that the server's own certificate is checked by, instead of the public ones.
    pub authorities: Option<Vec<u8>>,
    /// Where the server may write to, as `mailto:` URLs.
    pub contact: Vec<String>,
    /// An account at the server's owner: its id, and the key that proves it (RFC 8555 7.3.4).
    pub external: Option<(String, Vec<u8>)>,
    /// Whether the TLS listener can be reached under port 443, as far as the configuration tells.
    pub tls_first: bool,
}

/// How names are claimed that are ordered when somebody asks for them.
const BELOW: Claim = Claim::Wildcard(TlsSource::Acme);

/// All of them.
pub(super) struct Acme {
    directory: PathBuf,
    agent: Agent,
    settings: Settings,
    pub(super) challenges: Challenges,
    issued: ArcSwap<HashMap<String, Arc<Issued>>>,
    journal: Mutex<Journal>,
    /// Names below wildcards that somebody asked for.
    asked: Mutex<BTreeSet<String>>,
    /// Names that are to be renewed at once.
    pressed: Mutex<BTreeSet<String>>,
    /// Names that resolve to other networks only.
    elsewhere: Mutex<BTreeSet<String>>,
    wake: Notify,
    /// Counts orders that ended.
    ended: watch::Sender<u64>,
    pub(super) granted: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// A certificate from there.
pub(super) struct Issued {
    pub(super) served: Arc<Served>,
    id: Option<CertificateIdentifier<'static>>,
    suggestion: Mutex<Option<Suggestion>>,
}

/// When the server would like it to be renewed.
#[derive(Clone, Copy, Debug)]
struct Suggestion {
    renew_at: UnixMs,
    ask_again_at: UnixMs,
}

impl Issued {
    fn new(served: Served, leaf: &CertificateDer<'_>) -> Issued {
        let id = CertificateIdentifier::try_from(leaf).ok().map(|id| id.into_owned());
        Issued { served: Arc::new(served), id, suggestion: Mutex::default() }
    }

    /// A number from 0 to 1 that is the certificate's own: devices that began together do not renew together.
    fn chance(&self) -> f64 {
        let digits = self.served.facts.fingerprint.get(..8).unwrap_or_default();
        f64::from(u32::from_str_radix(digits, 16).unwrap_or_default()) / f64::from(u32::MAX)
    }

    /// From then on it is to be renewed.
    pub(super) fn renew_at(&self) -> UnixMs {
        let suggestion = *self.suggestion.lock().unwrap_or_else(PoisonError::into_inner);
        let lifetime = Duration::from_millis(u64::try_from(self.served.facts.lifetime_ms()).unwrap_or(0));
        if let Some(suggestion) = suggestion {
            // However late the server would like it, there is time left for a second try.
            return suggestion.renew_at.min(self.before_end(lifetime.div_f64(10.0)));
        }
        // A third is left, and up to a twentieth more.
        let left = lifetime.div_f64(3.0) + lifetime.div_f64(20.0).mul_f64(self.chance());
        self.before_end(left)
    }

    fn before_end(&self, left: Duration) -> UnixMs {
        let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        UnixMs(self.served.facts.not_after.0.saturating_sub(left))
    }
}

impl Acme {
    /// Reads what is there.
    pub(super) fn open(directory: PathBuf, settings: Settings, foundry: &Foundry) -> Result<Acme, Error> {
        let failed = |why: String| Error::Directory { path: directory.clone(), why };
        files::make_directory(&directory).map_err(|error| failed(error.to_string()))?;
        let agent = Agent::new(settings.clone(), directory.clone()).map_err(Error::Acme)?;
        let mut issued = HashMap::new();
        for entry in fs::read_dir(&directory).map_err(|error| failed(error.to_string()))?.flatten() {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pem")) else {
                continue;
            };
            match read(&path, foundry) {
                Ok(one) => drop(issued.insert(name.to_owned(), Arc::new(one))),
                // It is ordered again; nothing else depends on it.
                Err(why) => tracing::error!("{} cannot be used, and is ordered again: {why}", path.display()),
            }
        }
        let journal = Mutex::new(Journal::open(directory.join("journal.json")));
        Ok(Acme {
            agent,
            settings,
            challenges: Challenges::default(),
            issued: ArcSwap::from_pointee(issued),
            journal,
            asked: Mutex::default(),
            pressed: Mutex::default(),
            elsewhere: Mutex::default(),
            wake: Notify::new(),
            ended: watch::Sender::new(0),
            granted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            directory,
        })
    }

    /// The certificate of a name, if it was issued.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Issued>> {
        self.issued.load().get(name).cloned()
    }

    /// All of them.
    pub(super) fn issued(&self) -> Arc<HashMap<String, Arc<Issued>>> {
        self.issued.load_full()
    }

    /// Names that could not be had yet.
    pub(super) fn troubled(&self) -> Vec<String> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).troubled()
    }

    /// How it stands with a name.
    pub(super) fn standing(&self, name: &str) -> Standing {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .standing(name)
            .cloned()
            .unwrap_or_default()
    }

    /// Whether a name was seen to lead elsewhere.
    pub(super) fn is_elsewhere(&self, name: &str) -> bool {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Looks anew at what is wanted.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until somebody wakes it.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Has a name ordered that falls under a wildcard, and waits for it, but not for long.
    pub(super) async fn ask(&self, name: &str, patience: Duration) -> Option<Arc<Issued>> {
        let mut ended = self.ended.subscribe();
        {
            let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.check(name, UnixMs::now(), false, false).ok()?;
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() >= ASKED_MAX && !asked.contains(name) {
                return None;
            }
            asked.insert(name.to_owned());
        }
        self.wake();
        let is_asked = || self.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        let waited = async {
            while is_asked() {
                ended.changed().await.ok()?;
            }
            self.find(name)
        };
        tokio::time::timeout(patience, waited).await.ok().flatten()
    }

    /// Has a name renewed at once, if the limits allow it.
    pub(super) fn press(&self, name: &str) -> Result<(), TooSoon> {
        let is_renewal = self.find(name).is_some();
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.check(name, UnixMs::now(), is_renewal, true)?;
        drop(journal);
        self.pressed.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        self.wake();
        Ok(())
    }

    /// Forgets the certificate of a name that nobody claims any more.
    pub(super) fn remove(&self, name: &str) -> std::io::Result<bool> {
        let mut issued = self.issued.load_full().as_ref().clone();
        if issued.remove(name).is_none() {
            return Ok(false);
        }
        files::remove(&self.path(name))?;
        self.issued.store(Arc::new(issued));
        Ok(true)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// Orders and renews what is due, one after the other.
    /// `has_own` tells for which hosts the operator brought a certificate.
    pub(super) async fn work(
        &self,
        claims: &Claims,
        has_own: impl Fn(&str) -> bool,
        foundry: &Foundry,
        clock: impl Fn() -> Clock,
    ) {
        if !clock().is_good {
            return;
        }
        let pressed = std::mem::take(&mut *self.pressed.lock().unwrap_or_else(PoisonError::into_inner));
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut names: BTreeSet<String> = claims
            .hosts()
            .filter(|(host, source)| may_have(host, *source, &has_own))
            .map(|(host, _)| host.to_owned())
            .collect();
        // What was issued under a wildcard goes on being renewed while the wildcard is claimed.
        let under_wildcard = |name: &&String| claims.claim(name) == BELOW;
        names.extend(self.issued().keys().chain(&pressed).filter(under_wildcard).cloned());
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).keep_only(
            clock().now,
            |name| match claims.claim(name) {
                _ if names.contains(name) => Wanted::Yes,
                BELOW => Wanted::WhileRecent,
                _ => Wanted::No,
            },
        );
        // Those that somebody waits for first.
        for name in asked.iter().filter(|name| under_wildcard(name)).chain(&names) {
            self.attend(name, claims.claim(name), pressed.contains(name), foundry, clock()).await;
        }
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| !asked.contains(name));
        self.ended.send_modify(|count| *count += 1);
        for issued in names.iter().filter_map(|name| self.find(name)) {
            // One that does not answer is not asked for all of them.
            if !self.hear_suggestion(&issued, clock().now).await {
                return;
            }
        }
    }

    /// Orders a name, if that is due.
    async fn attend(&self, name: &str, claim: Claim, pressed: bool, foundry: &Foundry, clock: Clock) {
        let old = self.find(name);
        if old.as_ref().is_some_and(|old| !pressed && clock.now < old.renew_at()) {
            return;
        }
        let checked = {
            let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.check(name, clock.now, old.is_some(), pressed)
        };
        // Whoever chose the source for just this name knows where it leads.
        let is_sure = claim == Claim::Exact(TlsSource::Acme) || old.is_some();
        if checked.is_err() || (!is_sure && !self.leads_here(name, claim).await) {
            return;
        }
        // The card may keep one waiting; nobody else has to.
        let failures = tokio::task::block_in_place(|| {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.begin(name, clock.now, old.is_some());
            journal.standing(name).map_or(0, |standing| standing.failures)
        });
        // If one way did not work, the other may.
        let first_way = self.settings.tls_first == (failures % 2 == 0);
        let proof = if first_way { Proof::TlsAlpn } else { Proof::Http };
        let replaced = old.as_ref().and_then(|old| old.id.as_ref());
        let ordered = self.agent.order(name, replaced, proof, &self.challenges, foundry);
        let ordered = tokio::time::timeout(ORDER_TIME_MAX, ordered)
            .await
            .unwrap_or_else(|_| Err(Failed::new("the order did not come to an end in time")));
        tokio::task::block_in_place(|| {
            self.close(name, ordered.and_then(|text| self.keep(name, &text, foundry, clock)));
        });
    }

    /// Notes what became of an order.
    fn close(&self, name: &str, kept: Result<Facts, Failed>) {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Ok(facts) => {
                journal.granted(name);
                self.granted.fetch_add(1, Relaxed);
                tracing::info!(name, not_after = %facts.not_after, issuer = facts.issuer, "a certificate was issued");
            }
            Err(failed) => {
                let chance = chance();
                journal.failed(name, &failed.text, UnixMs::now(), failed.least, chance);
                self.failed.fetch_add(1, Relaxed);
                let next = journal.standing(name).and_then(|standing| standing.next_attempt_at);
                let next = next.map(|at| at.to_string());
                tracing::warn!(name, error = failed.text, next, "a certificate could not be had");
            }
        }
    }

    /// Checks what was issued, keeps it and serves it.
    fn keep(&self, name: &str, text: &[u8], foundry: &Foundry, clock: Clock) -> Result<Facts, Failed> {
        let unfit = |error: Unfit| Failed::new(format!("what the server issued cannot be served: {error}"));
        let pair = Pair::read(text).map_err(unfit)?;
        // The server's clock may be some minutes ahead of ours, so that it begins later.
        let facts = pair.check(None).map_err(unfit)?;
        if facts.not_after <= clock.now {
            return Err(unfit(Unfit::Expired(facts.not_after)));
        }
        if !facts.covers(name) {
            return Err(Failed::new("what the server issued is for another name"));
        }
        let issued = Issued::new(foundry.serve(&pair).map_err(unfit)?, &pair.chain[0]);
        let path = self.path(name);
        files::write(&path, text)
            .map_err(|error| Failed::new(format!("{} cannot be written: {error}", path.display())))?;
        let mut all = self.issued.load_full().as_ref().clone();
        all.insert(name.to_owned(), Arc::new(issued));
        self.issued.store(Arc::new(all));
        Ok(facts)
    }

    /// Asks the server when it would like a certificate to be renewed, if it is time to ask. False if it does not say.
    async fn hear_suggestion(&self, issued: &Issued, now: UnixMs) -> bool {
        let known = *issued.suggestion.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(id) = &issued.id else { return true };
        if known.is_some_and(|known| now < known.ask_again_at) {
            return true;
        }
        let asked = async {
            let account = self.agent.account().await.ok()?;
            account.renewal_info(id).await.ok()
        };
        let suggested = tokio::time::timeout(Duration::from_secs(60), asked).await.ok().flatten();
        let (least, most) = SUGGESTION_TIME;
        let is_told = suggested.is_some();
        let suggestion = match suggested {
            Some((info, again)) => {
                let window = info.suggested_window;
                let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
                let span = Duration::from_secs(u64::try_from(end.saturating_sub(start)).unwrap_or(0));
                let start = UnixMs(start.saturating_mul(1000));
                Suggestion {
                    renew_at: start.plus(span.mul_f64(issued.chance())),
                    ask_again_at: now.plus(again.clamp(least, most)),
                }
            }
            // The server has none, or cannot be asked: our own rule, until it is asked again.
            None => Suggestion { renew_at: issued.renew_at(), ask_again_at: now.plus(most) },
        };
        *issued.suggestion.lock().unwrap_or_else(PoisonError::into_inner) = Some(suggestion);
        is_told
    }

    /// Whether a name leads to a public address, or to this device.
    async fn leads_here(&self, name: &str, claim: Claim) -> bool {
        let found = tokio::time::timeout(LOOKUP_TIME_MAX, tokio::net::lookup_host((name, 443))).await;
        let found = found.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()));
        let here = found
            .is_ok_and(|mut found| found.any(|address| is_public(address.ip()) || is_ours(address.ip())));
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        if here {
            elsewhere.remove(name);
        } else if matches!(claim, Claim::Exact(_)) {
            elsewhere.insert(name.to_owned());
        }
        here
    }
}

/// Whether a host that is claimed by its name may be ordered.
pub(super) fn may_have(host: &str, source: TlsSource, has_own: impl Fn(&str) -> bool) -> bool {
    match source {
        TlsSource::Acme => true,
        TlsSource::Auto => is_public_name(host) && !has_own(host),
        TlsSource::Local | TlsSource::Pem | TlsSource::None => false,
    }
}

fn is_public(address: IpAddr) -> bool {
    let is_special = address.is_unspecified() || address.is_multicast() || is_private(address);
    !is_special
}

/// An address that can be bound is one of this machine.
fn is_ours(address: IpAddr) -> bool {
    std::net::UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

fn read(path: &std::path::Path, foundry: &Foundry) -> Result<Issued, String> {
    let text = files::read(path).map_err(|error| error.to_string())?.ok_or("it is gone")?;
    let pair = Pair::read(&text).map_err(|error| error.to_string())?;
    let served = foundry.serve(&pair).map_err(|error| error.to_string())?;
    Ok(Issued::new(served, &pair.chain[0]))
}

/// A number from 0 to 1.
fn chance() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn issued(fingerprint: &str) -> Issued {
        let made = rcgen::generate_simple_self_signed(["pi.example.org".to_owned()]).unwrap();
        let text = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        let pair = Pair::read(text.as_bytes()).unwrap();
        let mut served = Foundry::new(None).unwrap().serve(&pair).unwrap();
        served.facts.not_before = UnixMs(0);
        served.facts.not_after = UnixMs(0).plus(90 * DAY);
        fingerprint.clone_into(&mut served.facts.fingerprint);
        Issued::new(served, &pair.chain[0])
    }

    #[test]
    fn a_third_is_left_and_a_little_more_by_chance() {
        let days = |issued: &Issued| issued.renew_at().since(UnixMs(0)).as_secs_f64() / 86_400.0;
        assert!((days(&issued("00000000")) - 60.0).abs() < 0.01);
        assert!((days(&issued("ffffffff")) - 55.5).abs() < 0.01);
    }

    #[test]
    fn a_suggestion_of_the_server_counts_but_never_to_the_last_day() {
        let issued = issued("00000000");
        for (suggested, renewed) in [(-5, -5), (20, 20), (70, 70), (85, 81), (400, 81)] {
            let at = |days: i64| UnixMs(days * 86_400_000);
            let suggestion = Suggestion { renew_at: at(suggested), ask_again_at: UnixMs(0) };
            *issued.suggestion.lock().unwrap() = Some(suggestion);
            assert_eq!(issued.renew_at(), at(renewed), "{suggested}");
        }
    }

    #[test]
    fn only_public_names_without_their_own_are_ordered_unasked() {
        let has_own = |host: &str| host == "own.example.org";
        for (host, source, may) in [
            ("pi.example.org", TlsSource::Auto, true),
            ("own.example.org", TlsSource::Auto, false),
            ("own.example.org", TlsSource::Acme, true),
            ("pi.lan", TlsSource::Auto, false),
            ("pi", TlsSource::Auto, false),
            ("10.0.0.1", TlsSource::Auto, false),
            ("pi.lan", TlsSource::Acme, true),
            ("pi.example.org", TlsSource::Local, false),
            ("pi.example.org", TlsSource::Pem, false),
            ("pi.example.org", TlsSource::None, false),
        ] {
            assert_eq!(may_have(host, source, has_own), may, "{host} {source:?}");
        }
    }
}
