//! The office: the management API of the contract's section 4. Peer first, then key, then the desk.
//!
//! A change goes to the store as a command and is answered when it is durable. A read first lets the writer make
//! visible what was posted before, so that a caller always reads its own writes.

mod apps;
mod authority;
mod backups;
mod certs;
mod dead_letters;
mod executions;
mod input;
mod keys;
mod kv;
mod logins;
mod logs;
mod metrics;
mod restores;
mod routes;
mod scripts;
mod sdk;
mod secrets;
mod serving;
mod status;
mod system;
mod triggers;
mod updates;
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::{ALLOW, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use ipnet::IpNet;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::auth::{Auth, Credentials};
use super::body::Brought;
use super::clients::{Client, Visitor};
use super::cookies;
use super::listener::Guests;
use super::logins::Logins;
use super::reply::{Refusal, Reply};
use super::router::RouteTable;
use super::tls::Tls;
use crate::device::Updates;
use crate::dispatch::Dispatch;
use crate::model::{App, AppCeilings, Script, is_private};
use crate::store::{ChangeError, Changes, Error, Snapshot, Store};
use input::Call;
pub use system::SystemInfo;

pub use keys::{key_of, new_secret};
pub use restores::Custody;

type Outcome = Result<Reply, Refusal>;

/// Where management may come from.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Networks besides the private, link-local and loopback ones.
    pub allow: Vec<IpNet>,
}

impl Network {
    /// Whether this peer may manage.
    pub fn admits(&self, peer: IpAddr) -> bool {
        is_private(peer) || self.allow.iter().any(|network| network.contains(&peer))
    }
}

/// All desks of the management API.
#[derive(Clone)]
pub(super) struct Office {
    pub(super) store: Store,
    pub(super) dispatch: Dispatch,
    pub(super) auth: Auth,
    pub(super) network: Arc<Network>,
    pub(super) guests: Guests,
    pub(super) info: Arc<SystemInfo>,
    pub(super) page_limit_max: usize,
    pub(super) endurance_tbw: u64,
    pub(super) app_ceilings: AppCeilings,
    pub(super) custody: Custody,
    pub(super) logins: Logins,
    pub(super) tls: Option<Tls>,
    pub(super) updates: Updates,
}

impl Office {
    /// Serves one request under `/api`.
    pub(super) async fn serve(
        &self,
        table: &Arc<RouteTable>,
        parts: Parts,
        body: Brought,
        visitor: &Visitor,
        client: Client,
    ) -> Outcome {
        let path = parts.uri.path().to_owned();
        let unknown = || Refusal::not_found(format!("no such endpoint: {} {path}", parts.method));
        let Some(below) = path.strip_prefix("/api/v1/") else { return Err(unknown()) };
        // Also the proxy that speaks for it, so that nobody gets in by what they say.
        if let Some(far) =
            [visitor.peer, client.address].into_iter().find(|address| !self.network.admits(*address))
        {
            let message = format!(
                "management is refused to {far}: it is not in a local network nor in management.allow"
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        let segments: Vec<&str> = below.split('/').collect();
        match (&parts.method, segments.as_slice()) {
            (&Method::GET, ["health"]) => return self.health(),
            (&Method::GET, ["ready"]) => return self.ready(),
            (&Method::GET, ["version"]) => return self.version(),
            (&Method::GET, ["ca" | "ca.pem" | "ca.crt" | "ca.crl" | "ca.mobileconfig"]) => {
                return authority::show(self.tls()?, segments[0], &parts.headers);
            }
            _ => {}
        }
        if !visitor.has_certificate && self.tls.as_ref().is_some_and(Tls::demands_certificate) {
            let message = "management takes only clients with a certificate: come by https, with one that management.client_ca_file signed";
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        if let ["setup" | "login"] = segments.as_slice() {
            logins::refuse_other_pages(&parts, client)?;
            let call = Call::new(&parts, body, Uuid::nil(), self.page_limit_max);
            return match segments[0] {
                "setup" => self.set_up(call, client).await,
                _ => self.log_in(call, client).await,
            };
        }
        let credentials = self.admit(&parts, table, client)?;
        let call = Call::new(&parts, body, credentials.principal().key_id, self.page_limit_max);
        match segments.as_slice() {
            ["health"] => self.check_health(&call).await,
            ["ready" | "version"] => not_allowed("GET"),
            ["metrics"] => self.metrics(&call),
            ["status"] => self.status(&call).await,
            ["apps", rest @ ..] => self.apps(call, table, rest).await,
            ["keys", rest @ ..] => self.keys(call, rest).await,
            ["users", rest @ ..] => self.users(call, &credentials, rest).await,
            ["me"] => self.me(&call, &credentials),
            ["logout"] => self.log_out(call, &parts.headers, table, client).await,
            ["validate"] => self.validate(call).await,
            ["executions", rest @ ..] => self.executions(call, rest).await,
            ["outbox"] => self.outbox(call).await,
            ["dead-letters", rest @ ..] => self.dead_letters(call, rest).await,
            ["logs"] => self.logs(call).await,
            ["logs", "tail"] => self.tail(&call),
            ["backups", rest @ ..] => self.backups(call, rest).await,
            ["sdk"] => sdk::reference(&call).await,
            ["export"] => self.export(&call),
            ["restore"] => self.restore(call).await,
            ["updates"] => self.updates(call).await,
            ["factory-reset"] => self.factory_reset(call).await,
            ["resume"] => self.resume(&call).await,
            ["certs", rest @ ..] => self.certs(call, rest).await,
            ["ca" | "ca.pem" | "ca.crt" | "ca.crl" | "ca.mobileconfig"] => not_allowed("GET"),
            ["ca", "replace"] => self.replace_authority(&call).await,
            _ => Err(unknown()),
        }
    }

    /// The credentials of a request, if they open anything.
    fn admit(&self, parts: &Parts, table: &RouteTable, client: Client) -> Result<Credentials, Refusal> {
        let Some(credentials) = self.auth.credentials(&parts.headers, table) else {
            let message = "no valid api key: send Authorization: Bearer <key>, or log in";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
        };
        match &credentials {
            Credentials::Session(..) if !cookies::may_use_session(parts, client.is_secure) => {
                let message =
                    "a session changes things only from a page of this address: programs use an api key";
                Err(Refusal::new(StatusCode::FORBIDDEN, message))
            }
            Credentials::Device | Credentials::Key(_) | Credentials::Session(..) => Ok(credentials),
        }
    }

    /// Desks below one app.
    async fn apps(&self, call: Call, table: &Arc<RouteTable>, rest: &[&str]) -> Outcome {
        match rest {
            [] => self.app_list(call).await,
            [app] => self.app(call, app).await,
            [app, "domains", rest @ ..] => self.domains(call, self.find_app(app)?.id, rest).await,
            [app, "scripts", rest @ ..] => self.scripts(call, self.find_app(app)?.id, rest).await,
            [app, "triggers", rest @ ..] => self.triggers(call, self.find_app(app)?.id, rest).await,
            [app, "kv", rest @ ..] => self.kv(call, self.find_app(app)?.id, rest).await,
            [app, "secrets", rest @ ..] => self.secrets(call, self.find_app(app)?.id, rest).await,
            [app, "routes", rest @ ..] => {
                let app = self.find_app(app)?;
                self.routes(call, table, app.id, rest).await
            }
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    /// The app with this id or slug.
    fn find_app(&self, id_or_slug: &str) -> Result<Arc<App>, Refusal> {
        let catalog = self.store.catalog();
        catalog
            .app(id_or_slug)
            .cloned()
            .ok_or_else(|| Refusal::not_found(format!("app not found: {id_or_slug}")))
    }

    /// The script of this app with this id.
    fn find_script(&self, app: Uuid, id: &str) -> Result<Arc<Script>, Refusal> {
        let catalog = self.store.catalog();
        let found = Uuid::try_parse(id)
            .ok()
            .and_then(|id| catalog.scripts.get(&id))
            .filter(|script| script.app_id == app);
        found.cloned().ok_or_else(|| Refusal::not_found(format!("script not found: {id}")))
    }

    /// Makes a change and waits until it is durable.
    async fn change<T: Send + 'static>(
        &self,
        make: impl FnOnce(&mut Changes<'_>) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, told) = oneshot::channel();
        // A caller that left does not hear of it; the change is made all the same.
        self.store.change(make, move |changed| drop(tell.send(changed)));
        match told.await {
            Ok(changed) => changed.map_err(refused),
            Err(_) => Err(broken(&Error::Closed)),
        }
    }

    /// Reads a state of the file that has everything posted until now. Runs `read` off the event loop.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, told) = oneshot::channel();
        self.store.settled(move |settled| drop(tell.send(settled)));
        told.await.unwrap_or(Err(Error::Closed)).map_err(|error| broken(&error))?;
        let store = self.store.clone();
        let done = blocking(move || store.read().and_then(|snapshot| read(&snapshot))).await?;
        done.map_err(|error| broken(&error))
    }
}

/// Runs what takes long off the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a management request failed");
        Refusal::internal()
    })
}

fn refused(error: ChangeError) -> Refusal {
    match error {
        ChangeError::NotFound { .. } => Refusal::not_found(error.to_string()),
        ChangeError::Conflict(message) => Refusal::new(StatusCode::CONFLICT, message),
        ChangeError::Invalid { field, why } => Refusal::invalid(field, why),
        ChangeError::StorageFull(_) => Refusal::overloaded(error.to_string(), "storage_full"),
        ChangeError::Store(error) => match error.refusal() {
            Some(reason) => Refusal::overloaded(error.to_string(), reason),
            None => broken(&error),
        },
    }
}

fn broken(error: &Error) -> Refusal {
    tracing::error!(%error, "the store failed a management request");
    Refusal::internal()
}

fn no_randomness(error: getrandom::Error) -> Refusal {
    tracing::error!(%error, "the system gave no random numbers");
    Refusal::internal()
}

fn not_allowed(methods: &'static str) -> Outcome {
    let mut reply = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("this answers {methods}")).reply();
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_peers_manage_and_far_ones_where_allowed() {
        let network = Network { allow: vec!["203.0.113.0/24".parse().unwrap()] };
        for near in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.9",
            "172.16.0.1",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "203.0.113.7",
        ] {
            assert!(network.admits(near.parse().unwrap()), "{near}");
        }
        for far in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "203.0.114.7"] {
            assert!(!network.admits(far.parse().unwrap()), "{far}");
        }
    }
}
