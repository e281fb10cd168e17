//! The device's own certificate authority, for the names by which it is reached on the local network.
//!
//! Its root can sign for nothing else: not for a bank, should its key ever be stolen. What it signs is made when
//! somebody asks for it, kept in memory, and short-lived; so nothing wears the card and nothing is ever revoked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CidrSubnet, CrlDistributionPoint,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::Error;
use super::certificate::{Facts, Pair};
use super::files;
use super::foundry::{Foundry, Served};
use crate::model::{BUILD_EPOCH, LAN_SUFFIXES, UnixMs, is_private};

/// The file below the directory of TLS: the root with its key.
const FILE: &str = "authority.pem";
const DAY_MS: i64 = 24 * 3600 * 1000;
/// The root outlives the device: whoever trusted it should not have to do so again.
const ROOT_DAYS: i64 = 25 * 365;
/// A certificate that is made by a clock that may be trusted.
const LEAF_DAYS: i64 = 7;
/// One that is made by a clock that may be behind, so that clients with a right one take it; some refuse more than
/// 825 days.
const LEAF_DAYS_WITHOUT_CLOCK: i64 = 800;
/// Certificates kept; more are made anew when they are asked for.
const KEPT_MAX: usize = 256;

/// Where the list is.
const LIST_PATH: &str = "/api/v1/ca.crl";

/// Networks whose addresses it may sign for: [`is_private`] says the same.
const NETWORKS: &[(IpAddr, u8)] = &[
    (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V6(std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 1)), 128),
    (IpAddr::V6(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

/// The authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: Root,
    /// Domains that its root may sign for, as it says itself.
    permitted: Vec<String>,
    /// All certificates share it: they are all of this process.
    leaf_key: KeyPair,
    list: Option<List>,
    leaves: Mutex<HashMap<String, Leaf>>,
}

/// Where its list of revoked certificates is handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    /// Of the clear listener: whoever looks at the list cannot need it to do so.
    pub(super) port: u16,
}

impl List {
    fn url(self, host: &str) -> String {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self.port {
            80 => format!("http://{host}{LIST_PATH}"),
            port => format!("http://{host}:{port}{LIST_PATH}"),
        }
    }
}

/// What others may have of it.
#[derive(Clone, Debug)]
pub(in crate::http) struct Root {
    pub(in crate::http) der: CertificateDer<'static>,
    pub(in crate::http) pem: String,
    pub(in crate::http) name: String,
    pub(in crate::http) facts: Facts,
}

struct Leaf {
    served: Arc<Served>,
    /// Made by a clock that may be behind.
    without_clock: bool,
}

/// What time it is, and whether that is to be believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: UnixMs,
    pub(super) is_good: bool,
}

impl Authority {
    /// Opens the authority of a directory, or makes one for a device of this name.
    pub(super) fn open(directory: &Path, host_name: &str, list: Option<List>) -> Result<Authority, Error> {
        let path = directory.join(FILE);
        let failed = |why: String| Error::Authority { path: path.clone(), why };
        let text = match files::read(&path).map_err(|error| failed(error.to_string()))? {
            Some(text) => text,
            None => make(&path, host_name).map_err(failed)?,
        };
        Authority::read(&text, list).map_err(|why| failed(format!("{why}; put it back, or remove it to have another made, which every client must then trust anew")))
    }

    fn read(text: &[u8], list: Option<List>) -> Result<Authority, String> {
        let Pair { chain, key } = Pair::read(text).map_err(|error| error.to_string())?;
        let facts = Facts::of(&chain).map_err(|error| error.to_string())?;
        let der = chain.into_iter().next().ok_or("it holds no certificate")?;
        let key = KeyPair::try_from(&key).map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("its key belongs to another certificate".into());
        }
        let permitted = permitted(&parsed);
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = name.unwrap_or("PiCloud").to_owned();
        let pem = super::pem_of(&der);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| error.to_string())?;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
        let root = Root { der, pem, name, facts };
        Ok(Authority { issuer, root, permitted, leaf_key, list, leaves: Mutex::default() })
    }

    /// What clients are to trust.
    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Whether its root may sign for a host, in lower case.
    pub(super) fn may_sign(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return is_private(address);
        }
        let below = |suffix: &String| {
            host.strip_suffix(suffix.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'))
        };
        self.permitted.iter().any(below)
    }

    /// A certificate for a host that it may sign for.
    pub(super) fn serve(&self, host: &str, foundry: &Foundry, clock: Clock) -> Option<Arc<Served>> {
        if !self.may_sign(host) {
            return None;
        }
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(host)
            && leaf.is_fresh(clock)
        {
            return Some(leaf.served.clone());
        }
        let served = self.sign(host, foundry, clock).inspect_err(|error| {
            tracing::error!(host, error, "this device's authority could not sign");
        });
        let served = Arc::new(served.ok()?);
        if leaves.len() >= KEPT_MAX
            && let Some(any) = leaves.keys().next().cloned()
        {
            leaves.remove(&any);
        }
        leaves.insert(host.to_owned(), Leaf { served: served.clone(), without_clock: !clock.is_good });
        Some(served)
    }

    /// The certificates that it has made and that are still kept.
    pub(super) fn served(&self) -> Vec<(String, Arc<Served>)> {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.iter().map(|(host, leaf)| (host.clone(), leaf.served.clone())).collect()
    }

    /// Forgets the certificate of a host, so that the next one who asks gets another. False if there was none.
    pub(super) fn forget(&self, host: &str) -> bool {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner).remove(host).is_some()
    }

    /// The list of what it revoked, in DER (RFC 5280 5): nothing, since what it signs is short-lived.
    pub(super) fn revoked(&self, clock: Clock) -> Result<Vec<u8>, String> {
        let (from, until) = validity(clock);
        let params = CertificateRevocationListParams {
            this_update: from,
            next_update: until,
            crl_number: SerialNumber::from_slice(&clock.now.0.max(1).to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(|error| error.to_string())?;
        Ok(list.der().to_vec())
    }

    fn sign(&self, host: &str, foundry: &Foundry, clock: Clock) -> Result<Served, String> {
        let said = |error: rcgen::Error| error.to_string();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address.to_canonical()),
            Err(_) => SanType::DnsName(host.try_into().map_err(said)?),
        }];
        (params.not_before, params.not_after) = validity(clock);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Some clients refuse whom they cannot ask about; there is nothing on the list.
        if let Some(list) = &self.list {
            params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![list.url(host)] }];
        }
        params.use_authority_key_identifier_extension = true;
        // Chosen by chance: clients refuse two certificates of one issuer with one number.
        let mut number = [0; 16];
        getrandom::fill(&mut number).map_err(|error| error.to_string())?;
        number[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&number));
        let signed = params.signed_by(&self.leaf_key, &self.issuer).map_err(said)?;
        let key = PrivateKeyDer::try_from(self.leaf_key.serialize_der())?;
        // Without the root: clients have it, or it would not help them.
        let pair = Pair { chain: vec![signed.der().clone()], key };
        foundry.serve(&pair).map_err(|error| error.to_string())
    }
}

impl Leaf {
    /// Whether it is served for longer: two thirds of its time are not over, and it was made by as good a clock.
    fn is_fresh(&self, clock: Clock) -> bool {
        if self.without_clock && clock.is_good {
            return false;
        }
        if !clock.is_good {
            // A clock that may be wrong says nothing about what was made before it was.
            return self.without_clock || clock.now <= self.served.facts.not_after;
        }
        let renew_at = self.served.facts.not_after.0 - LEAF_DAYS * DAY_MS / 3;
        // A clock that was set back long before would otherwise make none until it is there again.
        (renew_at - LEAF_DAYS * DAY_MS..renew_at).contains(&clock.now.0)
    }
}

/// From the build on, so that a client whose clock is behind takes it, and never for longer than clients accept.
fn validity(clock: Clock) -> (OffsetDateTime, OffsetDateTime) {
    let now = clock.now.max(BUILD_EPOCH).0;
    let days = if clock.is_good { LEAF_DAYS } else { LEAF_DAYS_WITHOUT_CLOCK };
    let until = now.saturating_add(days * DAY_MS);
    let from = BUILD_EPOCH.0.max(until - LEAF_DAYS_WITHOUT_CLOCK * DAY_MS);
    (date(from), date(until))
}

fn date(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(millis / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Makes the root and its file.
fn make(path: &Path, host_name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let said = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(said)?;
    let mut number = [0; 4];
    getrandom::fill(&mut number).map_err(|error| error.to_string())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Told apart from those of other devices, also of one that was reset and has its name still.
    let name = format!("PiCloud {host_name} {}", super::certificate::hex(&number));
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "PiCloud local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(BUILD_EPOCH.0 - DAY_MS);
    params.not_after = date(BUILD_EPOCH.0 + ROOT_DAYS * DAY_MS);
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: subtrees(host_name), excluded_subtrees: Vec::new() });
    let root = params.self_signed(&key).map_err(said)?;
    let secret = Zeroizing::new(key.serialize_pem());
    let mut text = Zeroizing::new(Vec::with_capacity(8 * 1024));
    text.extend_from_slice(super::pem_of(root.der()).as_bytes());
    text.extend_from_slice(secret.as_bytes());
    files::write(path, &text).map_err(|error| error.to_string())?;
    tracing::info!(
        "this device's own certificate authority was made; clients that trust /api/v1/ca.pem see no warning"
    );
    Ok(text)
}

fn subtrees(host_name: &str) -> Vec<GeneralSubtree> {
    let names = LAN_SUFFIXES.iter().copied().chain([host_name]).filter(|name| !name.is_empty());
    let names = names.map(|name| GeneralSubtree::DnsName(name.to_owned()));
    let networks = NETWORKS
        .iter()
        .map(|(address, length)| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*address, *length)));
    names.chain(networks).collect()
}

/// The domains that a root may sign for.
fn permitted(root: &X509Certificate<'_>) -> Vec<String> {
    let constraints = root.name_constraints().ok().flatten();
    let trees = constraints.iter().flat_map(|found| found.value.permitted_subtrees.iter().flatten());
    trees
        .filter_map(|tree| match tree.base {
            GeneralName::DNSName(name) => Some(name.to_owned()),
            _ => None,
        })
        .collect()
}

/// The file of the authority below a directory.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// How long a certificate is served that a trusted clock made.
pub(super) const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
