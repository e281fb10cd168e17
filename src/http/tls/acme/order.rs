//! One order, from the account to the chain (RFC 8555 7.1).

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Limited;
use hyper::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, CertificateIdentifier,
    ChallengeType, Error, ExternalAccountKey, HttpClient, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::Settings;
use super::challenges::Challenges;
use crate::http::tls::certificate::hex;
use crate::http::tls::files;
use crate::http::tls::foundry::{Foundry, roots};

/// One request to the server.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of one answer of the server.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long the server may take to look at a challenge, and then to sign.
const WAIT: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(90));

/// An order that failed, for the person who reads `picloud cert ls`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Failed {
    pub(super) text: String,
    /// How long the server wants to be left alone.
    pub(super) least: Duration,
}

impl Failed {
    pub(super) fn new(text: impl Into<String>) -> Failed {
        Failed { text: text.into(), least: Duration::ZERO }
    }
}

/// How control of a name is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// RFC 8737, over the TLS listener.
    TlsAlpn,
    /// RFC 8555 8.3, over the clear one.
    Http,
}

impl Proof {
    fn kind(self) -> ChallengeType {
        match self {
            Proof::TlsAlpn => ChallengeType::TlsAlpn01,
            Proof::Http => ChallengeType::Http01,
        }
    }

    fn other(self) -> Proof {
        match self {
            Proof::TlsAlpn => Proof::Http,
            Proof::Http => Proof::TlsAlpn,
        }
    }
}

/// The way to the server.
pub(super) struct Agent {
    settings: Settings,
    directory: PathBuf,
    http: Wire,
}

#[derive(Clone)]
struct Wire(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl HttpClient for Wire {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let answered = self.0.request(request);
        Box::pin(async move {
            match tokio::time::timeout(REQUEST_TIME_MAX, answered).await {
                Ok(Ok(response)) => {
                    Ok(BytesResponse::from(response.map(|body| Limited::new(body, ANSWER_BYTES_MAX))))
                }
                Ok(Err(error)) => Err(Error::Other(Box::new(error))),
                Err(_) => Err(Error::Str("the server did not answer in time")),
            }
        })
    }
}

impl Agent {
    /// With what is kept in `directory`.
    pub(super) fn new(settings: Settings, directory: PathBuf) -> Result<Agent, String> {
        let trusted = match &settings.authorities {
            Some(pem) => roots(pem)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            // Orders are months apart.
            .pool_idle_timeout(Duration::from_secs(5))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        Ok(Agent { settings, directory, http: Wire(client) })
    }

    /// The account, made with the first order.
    pub(super) async fn account(&self) -> Result<Account, Failed> {
        let path = self.account_path();
        let kept = files::read(&path)
            .map_err(|error| Failed::new(format!("{} cannot be read: {error}", path.display())))?;
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        if let Some(text) = kept {
            let credentials: AccountCredentials = serde_json::from_slice(&text).map_err(|error| {
                Failed::new(format!(
                    "{} is damaged: {error}; remove it to have another account made",
                    path.display()
                ))
            })?;
            return builder.from_credentials(credentials).await.map_err(|error| failed(&error));
        }
        let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external =
            self.settings.external.as_ref().map(|(id, key)| ExternalAccountKey::new(id.clone(), key));
        let (account, credentials) = builder
            .create(&new, self.settings.directory.clone(), external.as_ref())
            .await
            .map_err(|error| failed(&error))?;
        let text = serde_json::to_vec(&credentials).map(Zeroizing::new);
        text.map_err(std::io::Error::other)
            .and_then(|text| tokio::task::block_in_place(|| files::write(&path, &text)))
            .map_err(|error| Failed::new(format!("{} cannot be written: {error}", path.display())))?;
        tracing::info!(server = self.settings.directory, "an account was made at the ACME server");
        Ok(account)
    }

    /// One file an ACME server: an account means nothing to another.
    fn account_path(&self) -> PathBuf {
        use sha2::{Digest, Sha256};
        let server = hex(&Sha256::digest(self.settings.directory.as_bytes())[..8]);
        self.directory.join(format!("account-{server}.json"))
    }

    /// Forgets the account if the server does not know it any more, as one that was set up anew.
    fn forget(&self, error: &Error) {
        let gone = |problem: &Problem| {
            problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":accountDoesNotExist"))
        };
        if let Error::Api(problem) = error
            && gone(problem)
            && files::remove(&self.account_path()).is_ok()
        {
            tracing::warn!(
                "the ACME server does not know this device's account; the next order makes another"
            );
        }
    }

    /// Has a certificate made for `name`, which replaces `old`. Gives the chain and the key in one PEM.
    pub(super) async fn order(
        &self,
        name: &str,
        old: Option<&CertificateIdentifier<'_>>,
        proof: Proof,
        challenges: &Challenges,
        foundry: &Foundry,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let account = self.account().await?;
        let identifiers = [Identifier::Dns(name.to_owned())];
        let new = NewOrder::new(&identifiers);
        let made = match old {
            Some(old) => match account.new_order(&new.replaces(old.clone())).await {
                // A server that is another one, or has no such information, is asked plainly.
                Err(Error::Unsupported(_) | Error::Api(_) | Error::Other(_)) => {
                    account.new_order(&NewOrder::new(&identifiers)).await
                }
                made => made,
            },
            None => account.new_order(&new).await,
        };
        let mut order = made.inspect_err(|error| self.forget(error)).map_err(|error| failed(&error))?;
        let opened = prove(&mut order, proof, challenges, foundry).await?;
        let status = order.poll_ready(&WAIT).await;
        match status {
            Ok(OrderStatus::Ready) => {}
            Ok(_) | Err(Error::Api(_)) => return Err(why_invalid(&mut order, status.err()).await),
            Err(error) => return Err(failed(&error)),
        }
        drop(opened);
        let said = |error: rcgen::Error| Failed::new(error.to_string());
        let key = KeyPair::generate().map_err(said)?;
        let mut params = CertificateParams::new([name.to_owned()]).map_err(said)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(said)?;
        order.finalize_csr(request.der()).await.map_err(|error| failed(&error))?;
        let chain = order.poll_certificate(&WAIT).await.map_err(|error| failed(&error))?;
        let secret = Zeroizing::new(key.serialize_pem());
        let mut text = Zeroizing::new(Vec::with_capacity(chain.len() + secret.len() + 1));
        text.extend_from_slice(chain.as_bytes());
        text.push(b'\n');
        text.extend_from_slice(secret.as_bytes());
        Ok(text)
    }
}

/// Opens a challenge for each name of an order, and tells the server to look.
async fn prove<'a>(
    order: &mut Order,
    proof: Proof,
    challenges: &'a Challenges,
    foundry: &Foundry,
) -> Result<Vec<super::challenges::Opened<'a>>, Failed> {
    let mut opened = Vec::new();
    let mut all = order.authorizations();
    while let Some(next) = all.next().await {
        let mut authorization = next.map_err(|error| failed(&error))?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(Failed::new("the server holds that this device may not have the name")),
        }
        let offered = |proof: Proof, list: &[instant_acme::Challenge]| {
            list.iter().any(|challenge| challenge.r#type == proof.kind())
        };
        let proof =
            [proof, proof.other()].into_iter().find(|proof| offered(*proof, &authorization.challenges));
        let proof = proof.ok_or_else(|| {
            Failed::new(
                "the server offers neither tls-alpn-01 nor http-01, the challenges that PiCloud can answer",
            )
        })?;
        let Some(mut challenge) = authorization.challenge(proof.kind()) else { continue };
        let answer = challenge.key_authorization();
        let name = challenge.identifier().to_string();
        opened.push(match proof {
            Proof::Http => challenges.open_http(&challenge.token, answer.as_str()),
            Proof::TlsAlpn => {
                challenges.open_alpn(&name, answer.digest().as_ref(), foundry).map_err(Failed::new)?
            }
        });
        challenge.set_ready().await.map_err(|error| failed(&error))?;
    }
    Ok(opened)
}

/// What the server did not like.
async fn why_invalid(order: &mut Order, error: Option<Error>) -> Failed {
    let mut all = order.authorizations();
    while let Some(Ok(mut authorization)) = all.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return refused(problem);
        }
    }
    match error {
        Some(error) => failed(&error),
        None => Failed::new("the server found the order invalid and does not say why"),
    }
}

fn refused(problem: &Problem) -> Failed {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
    let detail = problem.detail.as_deref().unwrap_or("no reason given");
    let least = if kind == "rateLimited" { Duration::from_secs(3600) } else { Duration::ZERO };
    Failed { text: format!("the ACME server refused: {detail} ({kind})"), least }
}

fn failed(error: &Error) -> Failed {
    match error {
        Error::Api(problem) => refused(problem),
        Error::Timeout(_) => Failed::new("the ACME server did not come to an end in time"),
        other => {
            // The cause of a broken connection is some levels below.
            let mut text = format!("the ACME server cannot be asked: {other}");
            let mut cause = std::error::Error::source(other);
            while let Some(inner) = cause {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text.push_str(": ");
                    text.push_str(&inner_text);
                }
                cause = inner.source();
            }
            Failed::new(text)
        }
    }
}
