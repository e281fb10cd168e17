//! `picloud cert`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::Limit;
use super::client::segment;
use super::error::Error;
use super::input;
use super::render::{Column, clean, field, text};
use super::session::Session;

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List certificates, and names that want one
    #[command(alias = "list")]
    Ls(Limit),
    /// Show a certificate
    Show {
        /// Its name or id
        cert: String,
    },
    /// Bring a certificate of your own; it is served for the names in it, and replaces an older one for them
    Add {
        /// A PEM file: the server's certificate, then each one's issuer; - for standard input
        certificate: PathBuf,
        /// A PEM file with its private key, if that does not stand in the first one
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Have a certificate made anew now
    Renew {
        /// Its name or id
        cert: String,
    },
    /// Remove a certificate that you brought, or one that nobody needs any more
    #[command(alias = "remove")]
    Rm {
        /// Its name or id
        cert: String,
    },
    /// The device's own authority, which signs for the local network: what to trust, and its fingerprint
    Ca {
        /// Save its root, in PEM; - for standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Make another one. Whoever trusted this one must trust the new one
        #[arg(long)]
        replace: bool,
    },
}

const COLUMNS: &[Column] = &[
    Column("NAME", |item| field(item, "name")),
    Column("SOURCE", |item| field(item, "source")),
    Column("STATE", |item| field(item, "state")),
    Column("ENDS", |item| field(item, "not_after")),
    Column("RENEWED", |item| field(item, "renew_at")),
    Column("ERROR", |item| field(item, "last_error")),
    Column("ID", |item| field(item, "id")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls(limit) => {
            let list = session.client.list(CERTS, &[], limit.or_all(), "the list of certificates")?;
            session.table(&list, COLUMNS, "no certificate was asked for yet")
        }
        Verb::Show { cert } => {
            let (path, what) = one(session, &cert)?;
            let value = session.client.get(&path, &what)?;
            session.object(&value, &["name", "source", "state", "not_before", "not_after", "renew_at"])
        }
        Verb::Add { certificate, key } => add(session, &certificate, key.as_deref()),
        Verb::Renew { cert } => {
            let (path, what) = one(session, &cert)?;
            let value = session.client.post(&format!("{path}/renew"), &json!({}), &what)?;
            let line = match value["source"].as_str() {
                Some("acme") => format!("{what} is being ordered; `picloud cert ls` says how it went"),
                _ => format!("renewed {what}"),
            };
            session.told(line, &value)
        }
        Verb::Rm { cert } => {
            let (path, what) = one(session, &cert)?;
            session.remove(&path, &what)
        }
        Verb::Ca { output, replace } => authority(session, output.as_deref(), replace),
    }
}

const CERTS: &str = "/api/v1/certs";

/// The path of a certificate that is named by its name or its id.
fn one(session: &Session<'_>, name: &str) -> Result<(String, String), Error> {
    let list = session.client.list(CERTS, &[], None, "the list of certificates")?;
    let id = |item: &&Value| item["id"] == name;
    let named = |item: &&Value| {
        item["name"] == name || item["names"].as_array().into_iter().flatten().any(|one| one == name)
    };
    let found = list.items.iter().find(id).or_else(|| list.items.iter().find(named));
    let what = format!("certificate {}", clean(name));
    let id = found.map_or_else(|| name.to_owned(), |item| text(&item["id"]));
    Ok((format!("{CERTS}/{}", segment(&id)), what))
}

fn add(session: &mut Session<'_>, certificate: &Path, key: Option<&Path>) -> Result<(), Error> {
    let read = |path: &Path| {
        let no_text = |_| Error::File { path: path.to_owned(), why: "it is no PEM".into() };
        String::from_utf8(input::bytes(path)?).map_err(no_text)
    };
    let chain = Zeroizing::new(read(certificate)?);
    let key = Zeroizing::new(key.map(read).transpose()?.unwrap_or_default());
    let body = json!({ "certificate": *chain, "private_key": *key });
    let added = session.client.post(CERTS, &body, "the list of certificates")?;
    let names: Vec<String> = added["names"].as_array().into_iter().flatten().map(text).collect();
    session.told(format_args!("{} served until {}", names.join(", "), field(&added, "not_after")), &added)
}

fn authority(session: &mut Session<'_>, output: Option<&Path>, replace: bool) -> Result<(), Error> {
    const WHAT: &str = "this device's authority";
    if replace {
        session.client.post("/api/v1/ca/replace", &json!({}), WHAT)?;
    }
    let mut root = session.client.get("/api/v1/ca", WHAT)?;
    let pairs = paired(root["fingerprint"].as_str().unwrap_or_default());
    let pem = root["certificate"].as_str().unwrap_or_default().to_owned();
    match output {
        None => {
            if !session.json {
                root["fingerprint"] = pairs.into();
            }
            session.object(&root, &["name", "fingerprint", "not_before", "not_after"])
        }
        Some(path) if path == Path::new("-") => Ok(session.out.write_all(pem.as_bytes())?),
        Some(path) => {
            let failed =
                |why: std::io::Error| Error::Failed(format!("cannot write {}: {why}", path.display()));
            std::fs::write(path, pem).map_err(failed)?;
            session.told(format_args!("saved {}; its fingerprint is {pairs}", path.display()), &root)
        }
    }
}

/// Pairs of digits, as systems show a fingerprint to be compared.
fn paired(hex: &str) -> String {
    let pairs = hex.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_uppercase());
    pairs.collect::<Vec<_>>().join(":")
}
