//! What an ACME server is answered that looks whether a name is ours.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use crate::http::tls::certificate::Pair;
use crate::http::tls::foundry::Foundry;

/// Where an HTTP challenge is looked for (RFC 8555 8.3).
pub(in crate::http) const PATH: &str = "/.well-known/acme-challenge/";

/// The open challenges.
#[derive(Default)]
pub(in crate::http) struct Challenges {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Texts by token.
    http: HashMap<String, String>,
    /// Certificates by name.
    alpn: HashMap<String, Arc<ServerConfig>>,
}

impl Challenges {
    /// The text for a token.
    pub(in crate::http) fn http(&self, token: &str) -> Option<String> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).http.get(token).cloned()
    }

    /// What a handshake takes that asks for the challenge of a name.
    pub(in crate::http) fn alpn(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).alpn.get(name).cloned()
    }

    /// Opens an HTTP challenge until the guard goes.
    pub(super) fn open_http(&self, token: &str, text: &str) -> Opened<'_> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.http.insert(token.to_owned(), text.to_owned());
        Opened { challenges: self, token: Some(token.to_owned()), name: None }
    }

    /// Opens a TLS challenge (RFC 8737) until the guard goes. `digest` is that of the key authorization.
    pub(super) fn open_alpn(
        &self,
        name: &str,
        digest: &[u8],
        foundry: &Foundry,
    ) -> Result<Opened<'_>, String> {
        let config = challenge(name, digest, foundry)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.alpn.insert(name.to_owned(), config);
        Ok(Opened { challenges: self, token: None, name: Some(name.to_owned()) })
    }
}

/// An open challenge.
pub(super) struct Opened<'a> {
    challenges: &'a Challenges,
    token: Option<String>,
    name: Option<String>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let mut open = self.challenges.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &self.token {
            open.http.remove(token);
        }
        if let Some(name) = &self.name {
            open.alpn.remove(name);
        }
    }
}

fn challenge(name: &str, digest: &[u8], foundry: &Foundry) -> Result<Arc<ServerConfig>, String> {
    let said = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(said)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(said)?)];
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let made = params.self_signed(&key).map_err(said)?;
    let pair = Pair { chain: vec![made.der().clone()], key: PrivateKeyDer::try_from(key.serialize_der())? };
    foundry.challenge(&pair).map_err(|error| error.to_string())
}
