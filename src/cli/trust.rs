//! Whom the client believes over https, and whom it says it is.

use std::fs::File;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::error::Error;
use super::input;
use super::key::is_this_machine;

/// Where a daemon on this machine keeps its own authority: in the data directory of a desk, and in that of an appliance.
const AUTHORITIES: [&str; 2] = ["./picloud-data/tls/authority.pem", "/var/lib/picloud/tls/authority.pem"];

/// All authorities of the world have a quarter of this.
const BYTES_MAX: u64 = 1024 * 1024;

/// What was said on the command line, or in the environment.
pub(super) struct Trust {
    /// Authorities instead of the public ones.
    pub(super) ca_file: Option<PathBuf>,
    /// Certificate and key of the client.
    pub(super) client_cert: Option<PathBuf>,
}

impl Trust {
    /// What the HTTP library takes.
    pub(super) fn config(&self, url: &str) -> Result<TlsConfig, Error> {
        let mut config = TlsConfig::builder();
        if let Some(path) = &self.ca_file {
            config = config.root_certs(RootCerts::from(read(path)?.0.into_iter()));
        } else if is_this_machine(url)
            && let Some(own) = AUTHORITIES.iter().find_map(|path| read(Path::new(path)).ok())
        {
            config = config.root_certs(RootCerts::from(own.0.into_iter()));
        }
        if let Some(path) = &self.client_cert {
            let (chain, key) = read(path)?;
            let key = key.ok_or_else(|| unusable(path, "it holds no private key beside the certificate"))?;
            config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
        }
        Ok(config.build())
    }
}

/// Certificates of a PEM file, at least one, and its key, if there is one.
fn read(path: &Path) -> Result<(Vec<Certificate<'static>>, Option<PrivateKey<'static>>), Error> {
    let read = File::open(path).and_then(|file| input::within(BYTES_MAX, file));
    let text = read.map_err(|why| unusable(path, &why.to_string()))?;
    let (mut chain, mut key) = (Vec::new(), None);
    for item in parse_pem(&text) {
        match item.map_err(|_| unusable(path, "it is no PEM"))? {
            PemItem::Certificate(certificate) => chain.push(certificate),
            PemItem::PrivateKey(found) => key = Some(found),
            _ => {}
        }
    }
    if chain.is_empty() { Err(unusable(path, "it holds no certificate in PEM")) } else { Ok((chain, key)) }
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::File { path: path.to_owned(), why: why.to_owned() }
}
