//! The hall: which desk serves a request, and the line in the access log.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use hyper::Request;
use hyper::body::Incoming;

use super::auth::Auth;
use super::ingress::{self, Reception, Served};
use super::listener::Guests;
use super::management::{Custody, Network, Office, SystemInfo};
use super::reply::{Refusal, Reply};
use super::router::RouteTable;
use crate::dispatch::Dispatch;
use crate::model::{AppCeilings, UnixMs};
use crate::script::ChainKey;
use crate::store::backup::Trial;
use crate::store::{Catalog, Store};

/// How requests are served.
#[derive(Clone)]
pub struct Settings {
    /// Bounds of the data plane.
    pub ingress: ingress::Settings,
    /// Where management may come from.
    pub network: Network,
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

/// A handle on all desks, cheap to clone.
#[derive(Clone)]
pub struct Server {
    desks: Arc<Desks>,
}

struct Desks {
    routes: Routes,
    reception: Reception,
    office: Office,
    info: Arc<SystemInfo>,
    trial: Trial,
    access_log: bool,
}

impl Server {
    /// Puts the desks behind one door.
    pub fn new(
        settings: Settings,
        routes: Routes,
        store: Store,
        dispatch: Dispatch,
        guests: Guests,
        info: Arc<SystemInfo>,
        custody: Custody,
    ) -> Server {
        let auth = Auth::new(settings.device_key.as_deref());
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
        };
        let access_log = settings.access_log;
        Server { desks: Arc::new(Desks { routes, reception, office, info, trial, access_log }) }
    }

    /// Serves one request of `peer`. Every path ends in an answer.
    pub async fn serve(self, request: Request<Incoming>, peer: SocketAddr) -> Reply {
        let began = Instant::now();
        let desks = &self.desks;
        let table = desks.routes.0.load_full();
        let (parts, body) = request.into_parts();
        // The line is written after the parts are gone.
        let line = desks.access_log.then(|| (parts.method.clone(), parts.uri.path().to_owned()));
        let mut served = Served::default();
        let path = parts.uri.path();
        let result = if path.starts_with(ingress::EXECUTE) {
            desks.reception.execute(&table, parts, body, &mut served).await
        } else if path == "/api" || path.starts_with("/api/") {
            desks.office.serve(&table, parts, body, canonical(peer.ip())).await
        } else {
            desks.reception.route(&table, parts, body, &mut served).await
        };
        let mut reply = result.unwrap_or_else(|refusal| refusal.reply());
        if desks.trial.is_on() && !reply.status().is_server_error() {
            reply = desks.prove(reply).await;
        }
        desks.info.count(reply.status());
        if let Some((method, path)) = line {
            log_access(&method, &path, &reply, peer, &served, began);
        }
        reply
    }
}

impl Desks {
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

/// An IPv4 peer of an IPv6 socket is an IPv4 peer.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn log_access(
    method: &hyper::Method,
    path: &str,
    reply: &Reply,
    peer: SocketAddr,
    served: &Served,
    began: Instant,
) {
    let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (status, peer) = (reply.status().as_u16(), canonical(peer.ip()));
    match (&served.script, served.execution) {
        (Some(script), Some(execution)) => {
            tracing::info!(target: "picloud::access", status, duration_us, %peer, script, %execution, "{method} {path}");
        }
        _ => tracing::info!(target: "picloud::access", status, duration_us, %peer, "{method} {path}"),
    }
}
