//! Certificates: which are served, where they come from and how long they last; own ones are brought here.

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::input::{Call, List};
use super::{Office, Outcome, blocking, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::http::tls::{Certificate, NotAdded, NotRemoved, NotRenewed, Tls};
use crate::model::UnixMs;

/// A certificate that is brought.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewCertificate {
    /// PEM: the server's, then each one's issuer.
    certificate: String,
    /// PEM, without a password; it may stand among the certificates instead.
    #[serde(default)]
    private_key: Zeroizing<String>,
}

impl Office {
    /// TLS, or why there is none.
    pub(super) fn tls(&self) -> Result<&Tls, Refusal> {
        self.tls.as_ref().ok_or_else(|| {
            let message = "TLS is off: set tls.listen in the configuration, or start with --listen-tls";
            Refusal::new(StatusCode::CONFLICT, message)
        })
    }

    pub(super) async fn certs(&self, call: Call, rest: &[&str]) -> Outcome {
        match rest {
            [] => self.cert_list(call).await,
            [id] => self.cert(&call, id).await,
            [id, "renew"] => self.renew(&call, id).await,
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn cert_list(&self, call: Call) -> Outcome {
        let tls = self.tls()?.clone();
        match call.method {
            Method::GET => {
                let paging = call.paging()?;
                let mut all = tls.certificates();
                if let Some(after) = &paging.cursor {
                    let at = all.iter().position(|one| one.id == *after).map_or(all.len(), |at| at + 1);
                    all.drain(..at);
                }
                let is_more = all.len() > paging.limit;
                all.truncate(paging.limit);
                let next_cursor = all.last().filter(|_| is_more).map(|last| last.id.clone());
                Ok(reply::json(StatusCode::OK, &List { items: all, next_cursor }))
            }
            Method::POST => {
                let new: NewCertificate = call.json().await?;
                let catalog = self.store.catalog();
                let added = blocking(move || {
                    let mut pem =
                        Zeroizing::new(Vec::with_capacity(new.certificate.len() + new.private_key.len() + 1));
                    pem.extend_from_slice(new.certificate.as_bytes());
                    pem.push(b'\n');
                    pem.extend_from_slice(new.private_key.as_bytes());
                    tls.add(&pem, &catalog)
                });
                let certificate = added.await?.map_err(not_added)?;
                Ok(reply::json(StatusCode::CREATED, &certificate))
            }
            _ => not_allowed("GET, POST"),
        }
    }

    async fn cert(&self, call: &Call, id: &str) -> Outcome {
        let tls = self.tls()?.clone();
        match call.method {
            Method::GET => Ok(reply::json(StatusCode::OK, &find(&tls, id)?)),
            Method::DELETE => {
                let name = id.to_owned();
                match blocking(move || tls.remove(&name)).await? {
                    Ok(()) => Ok(reply::empty(StatusCode::NO_CONTENT)),
                    Err(NotRemoved::Unknown) => Err(unknown(id)),
                    Err(NotRemoved::Outside(file)) => {
                        let message = format!(
                            "this certificate is in {}: take it out of tls.files in the configuration",
                            file.display()
                        );
                        Err(Refusal::new(StatusCode::CONFLICT, message))
                    }
                    Err(NotRemoved::Card(why)) => Err(card(&why)),
                }
            }
            _ => not_allowed("GET, DELETE"),
        }
    }

    async fn renew(&self, call: &Call, id: &str) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("POST");
        }
        let tls = self.tls()?.clone();
        let conflict = |message: &str| Err(Refusal::new(StatusCode::CONFLICT, message));
        match tls.renew(id) {
            Ok(()) => Ok(reply::json(StatusCode::ACCEPTED, &find(&tls, id)?)),
            Err(NotRenewed::Unknown) => Err(unknown(id)),
            Err(NotRenewed::Own) => {
                conflict("this certificate was brought by you: bring its successor with `picloud cert add`")
            }
            Err(NotRenewed::Clock) => conflict(
                "certificates are ordered once the clock is synchronised; cron.clock = \"trusted\" believes it as it is",
            ),
            Err(NotRenewed::TooSoon(too_soon)) => {
                let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, format!("not now: {too_soon}"));
                refusal.reason = Some("rate_limited");
                refusal.retry_after = Some(too_soon.until().since(UnixMs::now()));
                Err(refusal)
            }
        }
    }

    /// Makes another authority for the local network.
    pub(super) async fn replace_authority(&self, call: &Call) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("POST");
        }
        let tls = self.tls()?.clone();
        let maker = tls.clone();
        let replaced = blocking(move || maker.replace_authority()).await?;
        replaced.map_err(|error| card(&error.to_string()))?;
        let root = tls.root();
        let body = json!({ "name": root.name, "fingerprint": root.facts.fingerprint });
        Ok(reply::json(StatusCode::CREATED, &body))
    }
}

fn find(tls: &Tls, id: &str) -> Result<Certificate, Refusal> {
    tls.certificates().into_iter().find(|one| one.id == id).ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("certificate not found: {id}"))
}

fn not_added(error: NotAdded) -> Refusal {
    match error {
        NotAdded::Unfit(unfit) => Refusal::invalid("certificate", unfit),
        NotAdded::Unwelcome(why) => Refusal::invalid("certificate", why),
        NotAdded::Full => Refusal::new(
            StatusCode::CONFLICT,
            "200 certificates are kept, which is the most: remove some with `picloud cert rm`",
        ),
        NotAdded::Card(why) => card(&why),
    }
}

/// The reason is for the log: it may say where files are.
fn card(why: &str) -> Refusal {
    tracing::error!(error = why, "a certificate could not be changed");
    Refusal::internal()
}
