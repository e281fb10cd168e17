//! What stands in a certificate, and whether a chain with its key can be served.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::Serialize;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::model::{Host, HostPattern, UnixMs};

/// Certificates of one chain.
const CHAIN_MAX: usize = 10;

/// Why a certificate is not served. Speaks to whoever brought it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::http) enum Unfit {
    #[error("it is no PEM: {0}")]
    NoPem(String),
    #[error("there is no certificate in it: it must have -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    #[error("there is no private key with it: it must have -----BEGIN PRIVATE KEY-----, without a password")]
    NoKey,
    #[error("there are {0} private keys with it; there must be one")]
    ManyKeys(usize),
    #[error("there are {0} certificates in it; a chain has at most {CHAIN_MAX}")]
    LongChain(usize),
    #[error("certificate {number} cannot be read: {why}")]
    Unreadable { number: usize, why: String },
    #[error(
        "the private key is of no use: {0}; it must be RSA of 2048 to 8192 bits, ECDSA over P-256 or P-384, or Ed25519"
    )]
    BadKey(String),
    #[error("the private key belongs to another certificate than the first one")]
    WrongKey,
    #[error(
        "certificate {number} ({subject}) did not sign the one before it: put the server's certificate first, then each one's issuer"
    )]
    BrokenChain { number: usize, subject: String },
    #[error("it names no host: it has no subject alternative names, which clients demand")]
    NoNames,
    #[error("it is an authority, not a server's certificate; put the server's certificate first")]
    Authority,
    #[error("it expired at {0}")]
    Expired(UnixMs),
    #[error("it is not valid before {0}")]
    TooEarly(UnixMs),
}

/// A chain with the key of its first certificate.
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::http) struct Facts {
    /// Hosts and addresses it is for, as they are claimed.
    pub(in crate::http) names: Vec<String>,
    /// From when on it is valid.
    pub(in crate::http) not_before: UnixMs,
    /// Until when it is valid.
    pub(in crate::http) not_after: UnixMs,
    /// Who signed it.
    pub(in crate::http) issuer: String,
    /// Its number at the issuer, in hexadecimal.
    pub(in crate::http) serial: String,
    /// SHA-256 of it, in hexadecimal.
    pub(in crate::http) fingerprint: String,
}

impl Pair {
    /// Reads chain and key out of PEM, in whatever order.
    pub(super) fn read(text: &[u8]) -> Result<Pair, Unfit> {
        // As some editors begin their files.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let (mut chain, mut keys) = (Vec::new(), Vec::new());
        for item in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = item.map_err(|error| Unfit::NoPem(told(&error)))?;
            let key = match kind {
                SectionKind::Certificate => {
                    chain.push(CertificateDer::from(der));
                    continue;
                }
                SectionKind::PrivateKey => PrivateKeyDer::Pkcs8(der.into()),
                SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(der.into()),
                SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(der.into()),
                // Parameters of a curve, a request: no part of what is served.
                _ => continue,
            };
            keys.push(key);
        }
        match (chain.len(), keys.pop()) {
            (0, _) if begins(text) => Err(Unfit::NoPem("a part has a BEGIN line and no END line".to_owned())),
            (0, _) => Err(Unfit::NoCertificate),
            (1..=CHAIN_MAX, Some(key)) if keys.is_empty() => Ok(Pair { chain, key }),
            (1..=CHAIN_MAX, Some(_)) => Err(Unfit::ManyKeys(keys.len() + 1)),
            (1..=CHAIN_MAX, None) => Err(Unfit::NoKey),
            (many, _) => Err(Unfit::LongChain(many)),
        }
    }

    /// What the certificate says, if the chain holds, the key is its own and `now` is within its time. Without a
    /// clock to trust, any time is.
    pub(super) fn check(&self, now: Option<UnixMs>) -> Result<Facts, Unfit> {
        let parsed: Vec<X509Certificate<'_>> =
            self.chain.iter().zip(1..).map(|(der, number)| parse(der, number)).collect::<Result<_, _>>()?;
        let first = parsed.first().ok_or(Unfit::NoCertificate)?;
        let key = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &ring::default_provider());
        if let Err(error) = key {
            return Err(match error {
                rustls::Error::InconsistentKeys(_) => Unfit::WrongKey,
                other => Unfit::BadKey(other.to_string()),
            });
        }
        for (number, pair) in (2..).zip(parsed.windows(2)) {
            let [below, above] = pair else { continue };
            let signed =
                below.issuer() == above.subject() && below.verify_signature(Some(above.public_key())).is_ok();
            if !signed {
                return Err(Unfit::BrokenChain { number, subject: above.subject().to_string() });
            }
        }
        if first.is_ca() && first.subject() != first.issuer() {
            return Err(Unfit::Authority);
        }
        let facts = facts(first, &self.chain[0]);
        match now {
            _ if facts.names.is_empty() => Err(Unfit::NoNames),
            Some(now) if now > facts.not_after => Err(Unfit::Expired(facts.not_after)),
            Some(now) if now < facts.not_before => Err(Unfit::TooEarly(facts.not_before)),
            _ => Ok(facts),
        }
    }
}

impl Facts {
    /// What the first certificate of a chain says.
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Result<Facts, Unfit> {
        let der = chain.first().ok_or(Unfit::NoCertificate)?;
        Ok(facts(&parse(der, 1)?, der))
    }

    /// Whether a client that asks for `host` takes it: a wildcard stands for one label (RFC 9525 6.3).
    pub(in crate::http) fn covers(&self, host: &str) -> bool {
        let below = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => below == Some(suffix),
            None => name == host,
        })
    }

    /// Whether one of its names falls under a claim, or a claim under one of its names.
    pub(in crate::http) fn touches(&self, claim: &HostPattern) -> bool {
        let names = self.names.iter().map(|name| name.strip_prefix("*.").unwrap_or(name));
        claim.is_catch_all()
            || self.names.iter().any(|name| name == claim.as_str())
            || self.covers(claim.as_str())
            || names.into_iter().any(|name| claim.matches(&Host::from_header(name)))
    }

    /// How long it is valid in all, in milliseconds.
    pub(super) fn lifetime_ms(&self) -> i64 {
        self.not_after.0.saturating_sub(self.not_before.0).max(0)
    }
}

/// Whether a certificate begins somewhere, and if only by its first line.
fn begins(text: &[u8]) -> bool {
    const LINE: &[u8] = b"-----BEGIN CERTIFICATE-----";
    text.windows(LINE.len()).any(|window| window == LINE)
}

/// Says what is wrong without the text around it, which may hold a key.
fn told(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a part has a BEGIN line and no END line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed".to_owned(),
        pem::Error::Base64Decode(_) => "a part is no base64".to_owned(),
        _ => "a part is malformed".to_owned(),
    }
}

fn parse(der: &[u8], number: usize) -> Result<X509Certificate<'_>, Unfit> {
    let unreadable = |why: String| Unfit::Unreadable { number, why };
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
    if rest.is_empty() { Ok(certificate) } else { Err(unreadable("bytes follow it".into())) }
}

fn facts(certificate: &X509Certificate<'_>, der: &[u8]) -> Facts {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    // Sorted and once each: the order has no meaning.
    let names: BTreeSet<String> = names.filter_map(name).collect();
    let millis = |seconds: i64| UnixMs(seconds.saturating_mul(1000));
    let validity = certificate.validity();
    Facts {
        names: names.into_iter().collect(),
        not_before: millis(validity.not_before.timestamp()),
        not_after: millis(validity.not_after.timestamp()),
        issuer: certificate.issuer().to_string(),
        serial: hex(certificate.raw_serial()),
        fingerprint: hex(&Sha256::digest(der)),
    }
}

/// A name as hosts are written here; others, like mail addresses, are no hosts.
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(text) => {
            Some(text.parse::<HostPattern>().ok()?.as_str().to_owned()).filter(|name| name != "*")
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
