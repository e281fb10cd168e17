//! TLS: which certificate a client is shown, and where those come from.
//!
//! Every handshake asks [`Tls::choose`], so that a certificate which was issued, uploaded or renewed a moment ago is
//! served to the next client, and connections that are there go on with theirs. Four sources, per domain: the
//! operator's [`own`] ones, an [`acme`] server, the device's own [`authority`], or none. A [`keeper`] looks after them.

mod acme;
mod anteroom;
mod authority;
mod certificate;
mod claims;
mod files;
mod foundry;
mod keeper;
mod own;
mod report;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;

use crate::model::{Domain, Host, TlsSource, UnixMs, is_public_name};
use crate::store::Catalog;
use acme::Acme;
pub use acme::Settings as AcmeSettings;
pub(super) use anteroom::{Anteroom, Seat};
pub(super) use authority::Root;
use authority::{Authority, Clock, List};
use certificate::Facts;
use claims::{Claim, Claims};
use foundry::{ALPN_ACME, Foundry};
pub(super) use foundry::{ALPN_H2, Served};
use own::Own;
pub(super) use own::{NotAdded, NotRemoved};
pub(super) use report::{Certificate, NotRenewed, State};

/// How certificates are had and handshakes bounded.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Where keys and certificates are kept.
    pub directory: PathBuf,
    /// Certificates of the operator that are elsewhere: files with chain and key, or directories of two files.
    pub files: Vec<PathBuf>,
    /// Authorities, in PEM, whose certificates clients must have to manage the device.
    pub client_authorities: Option<Vec<u8>>,
    /// How to get certificates for public names.
    pub acme: AcmeSettings,
    /// What this device calls itself on the network, in lower case.
    pub host_name: String,
    /// Longest handshake.
    pub handshake_time_max: Duration,
    /// Handshakes at once; one more makes the longest waiting go.
    pub handshakes_max: usize,
    /// The port that clients find TLS at; `None` where it is off.
    pub port: Option<u16>,
    /// The port that clients find it at in the clear.
    pub clear_port: Option<u16>,
    /// Whether clear requests are sent there, where a domain has a certificate that clients trust.
    pub redirect: bool,
    /// For how long clients are told to come by TLS only; zero: they are not told (RFC 6797).
    pub hsts: Duration,
}

impl Settings {
    fn list(&self) -> Option<List> {
        self.clear_port.map(|port| List { port })
    }
}

/// What keeps certificates from being served at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be used.
    #[error("{} cannot be used: {why}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The device's own authority cannot be opened or made.
    #[error("this device's certificate authority in {} cannot be used: {why}", path.display())]
    Authority {
        /// Where it is kept.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The authorities of clients are of no use.
    #[error("management.client_ca_file cannot be used: {0}")]
    ClientAuthorities(String),
    /// The way to the ACME server cannot be made.
    #[error("acme.ca_file cannot be used: {0}")]
    Acme(String),
}

/// A handle on all certificates, cheap to clone.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    is_clock_good: fn() -> bool,
    foundry: Foundry,
    authority: RwLock<Arc<Authority>>,
    own: Own,
    acme: Acme,
    claims: ArcSwap<Claims>,
    anteroom: Arc<Anteroom>,
    tally: Tally,
}

/// What became of handshakes.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) done: AtomicU64,
    pub(super) resumed: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) timed_out: AtomicU64,
}

/// What a client says before it is shown a certificate.
pub(super) struct Hello<'a> {
    /// The name that it wants to reach, as it was sent.
    pub(super) name: Option<&'a str>,
    /// Whether it is an ACME server that looks at a challenge.
    pub(super) is_challenge: bool,
    /// The address at which it reached us.
    pub(super) at: IpAddr,
}

impl Hello<'_> {
    /// Whether one of the protocols that a client speaks is that of challenges.
    pub(super) fn is_challenge<'a>(mut protocols: impl Iterator<Item = &'a [u8]>) -> bool {
        protocols.any(|protocol| protocol == ALPN_ACME)
    }
}

impl Tls {
    /// Opens what is kept, and makes the device's authority if there is none. `is_clock_good` tells whether the clock may
    /// be trusted now.
    pub fn open(settings: Settings, is_clock_good: fn() -> bool) -> Result<Tls, Error> {
        let unusable = |error: std::io::Error| Error::Directory {
            path: settings.directory.clone(),
            why: error.to_string(),
        };
        files::make_directory(&settings.directory).map_err(unusable)?;
        let foundry =
            Foundry::new(settings.client_authorities.as_deref()).map_err(Error::ClientAuthorities)?;
        let clock = Clock { now: UnixMs::now(), is_good: is_clock_good() };
        let authority = Authority::open(&settings.directory, &settings.host_name, settings.list())?;
        let own = Own::open(settings.directory.join("own"), settings.files.clone(), &foundry, clock)?;
        let acme = Acme::open(settings.directory.join("acme"), settings.acme.clone(), &foundry)?;
        let inner = Inner {
            foundry,
            authority: RwLock::new(Arc::new(authority)),
            own,
            acme,
            claims: ArcSwap::default(),
            anteroom: Anteroom::new(settings.handshakes_max),
            tally: Tally::default(),
            is_clock_good,
            settings,
        };
        Ok(Tls { inner: Arc::new(inner) })
    }

    /// Takes a new set-up.
    pub fn set_up(&self, catalog: &Catalog) {
        let claims = Claims::of(catalog.domains.values().map(AsRef::<Domain>::as_ref));
        self.inner.claims.store(Arc::new(claims));
        self.inner.acme.wake();
    }

    /// Whether it was opened with settings like these.
    pub fn is_of(&self, settings: &Settings) -> bool {
        self.inner.settings == *settings
    }

    /// Reads the operator's files anew, where they changed.
    pub fn read_files(&self) {
        self.inner.own.look(&self.inner.foundry, self.clock());
    }

    /// What is wrong with the operator's files, each with its path.
    pub fn bad_files(&self) -> Vec<String> {
        let items = self.inner.own.items();
        let bad = items.iter().filter_map(|item| {
            let (file, error) = (item.file.as_ref()?, item.error.as_ref()?);
            Some(format!("the certificate in {} is not served: {error}", file.display()))
        });
        bad.collect()
    }

    /// Looks after the certificates, for ever.
    pub async fn keep(self) {
        keeper::run(&self).await;
    }

    pub(super) fn anteroom(&self) -> &Arc<Anteroom> {
        &self.inner.anteroom
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.inner.tally
    }

    pub(super) fn handshake_time_max(&self) -> Duration {
        self.inner.settings.handshake_time_max
    }

    /// Whether management takes client certificates only.
    pub(super) fn demands_certificate(&self) -> bool {
        self.inner.settings.client_authorities.is_some()
    }

    fn clock(&self) -> Clock {
        Clock { now: UnixMs::now(), is_good: (self.inner.is_clock_good)() }
    }

    fn authority(&self) -> Arc<Authority> {
        self.inner.authority.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a handshake takes. A name whose domain has TLS off ends it with an alert.
    pub(super) async fn choose(&self, hello: Hello<'_>) -> Arc<ServerConfig> {
        let inner = &self.inner;
        let host = hello.name.map(|name| Host::from_header(name).as_str().to_owned());
        if hello.is_challenge {
            let open = host.and_then(|host| inner.acme.challenges.alpn(&host));
            return open.unwrap_or_else(|| inner.foundry.refusing());
        }
        let host = host.unwrap_or_else(|| hello.at.to_canonical().to_string());
        let served = match self.find(&host).await {
            Found::Served(served) => Some(served),
            Found::Off => None,
            // Whoever does not mind gets in, and whoever does sees a name that explains itself.
            Found::Nothing => self.fallback(),
        };
        served.map_or_else(|| inner.foundry.refusing(), |served| served.config.clone())
    }

    /// The certificate of a host, in lower case.
    async fn find(&self, host: &str) -> Found {
        let inner = &self.inner;
        let claim = inner.claims.load().claim(host);
        let source = claim.source();
        if source == TlsSource::None {
            return Found::Off;
        }
        if matches!(source, TlsSource::Auto | TlsSource::Pem)
            && let Some(served) = inner.own.find(host)
        {
            return Found::Served(served);
        }
        if let Some(issued) = self.issued(host, claim).await {
            return Found::Served(issued);
        }
        match source {
            TlsSource::Pem | TlsSource::None => Found::Nothing,
            // Until one is issued, this is better than nothing.
            TlsSource::Auto | TlsSource::Local | TlsSource::Acme => self
                .authority()
                .serve(host, &inner.foundry, self.clock())
                .map_or(Found::Nothing, Found::Served),
        }
    }

    /// The certificate of an ACME server, ordered now if the host falls under a wildcard that has its certificates there.
    async fn issued(&self, host: &str, claim: Claim) -> Option<Arc<Served>> {
        let acme = &self.inner.acme;
        let may = match claim {
            Claim::Exact(TlsSource::Acme) | Claim::Wildcard(TlsSource::Acme) => true,
            Claim::Exact(TlsSource::Auto) => is_public_name(host),
            _ => false,
        };
        if !may {
            return None;
        }
        let found = match acme.find(host) {
            None if matches!(claim, Claim::Wildcard(_)) && self.clock().is_good => {
                acme.ask(host, self.handshake_time_max().mul_f64(0.8)).await
            }
            found => found,
        };
        found.map(|issued| issued.served.clone())
    }

    /// A certificate for the device itself.
    fn fallback(&self) -> Option<Arc<Served>> {
        let (authority, clock) = (self.authority(), self.clock());
        let own = authority.serve(&self.inner.settings.host_name, &self.inner.foundry, clock);
        own.or_else(|| authority.serve("localhost", &self.inner.foundry, clock))
    }

    /// Where a clear request for `host`, in lower case, is sent, as scheme and authority; `None` if it is served.
    pub(super) fn elsewhere(&self, host: &str) -> Option<String> {
        let settings = &self.inner.settings;
        let port = settings.port.filter(|_| settings.redirect)?;
        if !self.is_secured(host) {
            return None;
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Some(if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") })
    }

    /// Whether a host's domain has a certificate that its clients are expected to trust: issued, brought, or chosen to be
    /// the device's own. Names of the local network that say nothing are served both ways, so that the first visit shows
    /// no warning.
    pub(super) fn is_secured(&self, host: &str) -> bool {
        let inner = &self.inner;
        let claim = inner.claims.load().claim(host);
        let has_own = || inner.own.find(host).is_some();
        let is_issued = || inner.acme.find(host).is_some();
        match claim {
            Claim::Nobody => false,
            Claim::Any(TlsSource::Auto) => has_own(),
            Claim::Exact(TlsSource::Auto) => has_own() || (is_public_name(host) && is_issued()),
            Claim::Wildcard(TlsSource::Auto) => has_own(),
            _ => match claim.source() {
                TlsSource::Acme => is_issued(),
                TlsSource::Pem => has_own(),
                TlsSource::Local => self.authority().may_sign(host),
                TlsSource::Auto | TlsSource::None => false,
            },
        }
    }

    /// What clients are told who came by TLS to `host`, in seconds (RFC 6797 6.1.1). Addresses have no such policy.
    pub(super) fn hsts(&self, host: &str) -> Option<u64> {
        let seconds = self.inner.settings.hsts.as_secs();
        let is_name = host.parse::<IpAddr>().is_err();
        (seconds > 0 && is_name && self.is_secured(host)).then_some(seconds)
    }

    /// The answer to an HTTP challenge.
    pub(super) fn challenge(&self, path: &str) -> Option<String> {
        self.inner.acme.challenges.http(path.strip_prefix(acme::PATH)?)
    }

    /// What the device's authority revoked.
    pub(super) fn revoked(&self) -> Result<Vec<u8>, String> {
        self.authority().revoked(self.clock())
    }

    /// What clients of the local network may trust.
    pub(super) fn root(&self) -> Root {
        self.authority().root().clone()
    }
}

enum Found {
    Served(Arc<Served>),
    /// Its domain has TLS off.
    Off,
    Nothing,
}

/// A certificate in PEM (RFC 7468).
fn pem_of(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 60);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII.
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
