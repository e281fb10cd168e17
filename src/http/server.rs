//! The hall: which desk serves a request, and the line in the access log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use hyper::header::{HOST, HeaderValue, LOCATION, STRICT_TRANSPORT_SECURITY};
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};

use super::auth::Auth;
use super::body::Brought;
use super::clients::{Client, Proxies, Visitor};
use super::ingress::{self, Reception, Served};
use super::listener::Guests;
use super::logins::Logins;
use super::management::{Custody, Network, Office, SystemInfo};
use super::reply::{self, Refusal, Reply};
use super::router::{self, RouteTable};
use super::tls::Tls;
use crate::device::Updates;
use crate::dispatch::Dispatch;
use crate::model::{AppCeilings, Host, UnixMs};
use crate::script::ChainKey;
use crate::store::backup::Trial;
use crate::store::{Catalog, Store};

/// How the paths of the device's own authority begin.
const AUTHORITY: &str = "/api/v1/ca";

/// How requests are served.
#[derive(Clone)]
pub struct Settings {
    /// Bounds of the data plane.
    pub ingress: ingress::Settings,
    /// Where management may come from.
    pub network: Network,
    /// Who speaks for others.
    pub proxies: Proxies,
    /// Certificates, where TLS is on.
    pub tls: Option<Tls>,
    /// Largest page of a list.
    pub page_limit_max: usize,
    /// Terabytes that may be written to the card in its life.
    pub endurance_tbw: u64,
    /// What the limits of an app may be set to.
    pub app_ceilings: AppCeilings,
    /// Whether every request gets a line in the log.
    pub access_log: bool,
    /// The key from the daemon's environment.
    pub device_key: Option<String>,
    /// What calls of this device's own scripts are signed with.
    pub chain_key: ChainKey,
}

/// The route table that requests are held against, swapped whole when the set-up changes.
#[derive(Clone, Default)]
pub struct Routes(Arc<ArcSwap<RouteTable>>);

impl Routes {
    /// Builds the table of a new set-up and puts it in place.
    pub fn rebuild(&self, catalog: &Catalog) {
        let table = RouteTable::build(catalog, &self.0.load());
        self.0.store(Arc::new(table));
    }
}

/// Who works behind the desks, whatever the settings are.
#[derive(Clone)]
pub struct Staff {
    /// Which route serves what.
    pub routes: Routes,
    /// The store.
    pub store: Store,
    /// Runs what is accepted.
    pub dispatch: Dispatch,
    /// Who is in the house.
    pub guests: Guests,
    /// About the process.
    pub info: Arc<SystemInfo>,
    /// Backups and restores.
    pub custody: Custody,
    /// Updates of the appliance.
    pub updates: Updates,
    /// Who may try to come in.
    pub logins: Logins,
}

/// A handle on all desks, cheap to clone. Requests that come are served by the desks as they are then.
#[derive(Clone)]
pub struct Server {
    staff: Arc<Staff>,
    desks: Arc<ArcSwap<Desks>>,
}

struct Desks {
    routes: Routes,
    reception: Reception,
    office: Office,
    info: Arc<SystemInfo>,
    trial: Trial,
    access_log: bool,
    proxies: Proxies,
    tls: Option<Tls>,
}

impl Server {
    /// Puts the desks behind one door.
    pub fn new(settings: Settings, staff: Staff) -> Server {
        let desks = Desks::new(settings, staff.clone());
        Server { staff: Arc::new(staff), desks: Arc::new(ArcSwap::from_pointee(desks)) }
    }

    /// Serves by other settings from the next request on, also on connections that are open.
    pub fn refit(&self, settings: Settings) {
        self.desks.store(Arc::new(Desks::new(settings, self.staff.as_ref().clone())));
    }

    /// Whether connections of this peer begin with whom they are for.
    pub(super) fn announces(&self, peer: IpAddr) -> bool {
        self.desks.load().proxies.announces(peer)
    }

    /// Serves one request of `visitor`. Every path ends in an answer.
    pub(super) async fn serve(self, request: Request<Brought>, visitor: Visitor) -> Reply {
        let began = Instant::now();
        let desks = self.desks.load_full();
        let table = desks.routes.0.load_full();
        let (parts, body) = request.into_parts();
        // The line is written after the parts are gone.
        let line = desks.access_log.then(|| (parts.method.clone(), parts.uri.path().to_owned()));
        let client = desks.proxies.client(&visitor, &parts.headers);
        let mut served = Served::default();
        let (sent_on, hsts) = match &desks.tls {
            Some(tls) => (send_on(tls, &parts, client), hsts(tls, &parts, client)),
            None => (None, None),
        };
        let path = parts.uri.path();
        let result = if let Some(reply) = sent_on {
            Ok(reply)
        } else if path.starts_with(ingress::EXECUTE) {
            desks.reception.execute(&table, parts, body, client, &mut served).await
        } else if path == "/api" || path.starts_with("/api/") {
            desks.office.serve(&table, parts, body, &visitor, client).await
        } else {
            desks.reception.route(&table, parts, body, client, &mut served).await
        };
        let mut reply = result.unwrap_or_else(|refusal| refusal.reply());
        if let Some(policy) = hsts {
            // A script that has its own knows better.
            reply.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert(policy);
        }
        if desks.trial.is_on() && !reply.status().is_server_error() {
            reply = desks.prove(reply).await;
        }
        desks.info.count(reply.status());
        if let Some((method, path)) = line {
            log_access(&method, &path, &reply, client.address, &served, began);
        }
        reply
    }
}

impl Desks {
    fn new(settings: Settings, staff: Staff) -> Desks {
        let Staff { routes, store, dispatch, guests, info, custody, logins, updates } = staff;
        let Settings { access_log, proxies, tls, .. } = settings;
        let auth = Auth::new(settings.device_key.as_deref(), store.clone());
        let reception = Reception::new(
            dispatch.clone(),
            auth.clone(),
            settings.ingress,
            settings.chain_key,
            info.rate_limited.clone(),
        );
        let trial = custody.trial.clone();
        let office = Office {
            store,
            dispatch,
            auth,
            network: Arc::new(settings.network),
            guests,
            info: info.clone(),
            page_limit_max: settings.page_limit_max,
            endurance_tbw: settings.endurance_tbw,
            app_ceilings: settings.app_ceilings,
            custody,
            logins,
            tls: tls.clone(),
            updates,
        };
        Desks { routes, reception, office, info, trial, access_log, proxies, tls }
    }

    /// The first answer of a restored store ends its trial, and waits for that: what anybody was told of is not
    /// rolled back.
    async fn prove(&self, reply: Reply) -> Reply {
        let trial = self.trial.clone();
        let ended = tokio::task::spawn_blocking(move || trial.end(UnixMs::now())).await;
        match ended {
            Ok(Ok(())) => reply,
            Ok(Err(error)) => {
                tracing::error!(%error, "the restored store could not prove itself");
                Refusal::internal().reply()
            }
            Err(_) => Refusal::internal().reply(),
        }
    }
}

/// The challenge of an ACME server is answered; what came in the clear and should not is sent to come again by TLS
/// (RFC 9110 15.4.9), with its method and its body.
fn send_on(tls: &Tls, parts: &Parts, client: Client) -> Option<Reply> {
    if let Some(text) = tls.challenge(parts.uri.path()) {
        return Some(reply::text("application/octet-stream", text));
    }
    let names_one_host = parts.headers.get_all(HOST).iter().count() <= 1;
    // Whoever fetches what to trust, or what was revoked, cannot need it to do so.
    if client.is_secure || parts.uri.path().starts_with(AUTHORITY) || !names_one_host {
        return None;
    }
    let header = router::request_host(parts);
    let base = tls.elsewhere(Host::from_header(&header).as_str())?;
    let target = parts.uri.path_and_query().map(|target| target.as_str());
    // `OPTIONS *` is about the server as a whole (RFC 9110 9.3.7).
    let target = target.filter(|target| target.starts_with('/')).unwrap_or("/");
    let mut sent_on = reply::empty(StatusCode::PERMANENT_REDIRECT);
    sent_on.headers_mut().insert(LOCATION, HeaderValue::try_from(format!("{base}{target}")).ok()?);
    Some(sent_on)
}

/// The policy that a browser keeps, if the host has one.
fn hsts(tls: &Tls, parts: &Parts, client: Client) -> Option<HeaderValue> {
    if !client.is_secure {
        return None;
    }
    let header = router::request_host(parts);
    let seconds = tls.hsts(Host::from_header(&header).as_str())?;
    HeaderValue::try_from(format!("max-age={seconds}")).ok()
}

fn log_access(
    method: &hyper::Method,
    path: &str,
    reply: &Reply,
    client: IpAddr,
    served: &Served,
    began: Instant,
) {
    let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let status = reply.status().as_u16();
    let app = served.app.as_ref().map(|app| app.slug.as_str());
    let route = served.route.as_ref().map(|target| target.route.path.as_str());
    let script = served.script.as_ref().map(|script| script.name.as_str());
    let execution = served.execution.map(tracing::field::display);
    tracing::info!(target: "picloud::access", status, duration_us, %client, app, route, script, execution, "{method} {path}");
}
