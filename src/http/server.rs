//! The hall: which desk serves a request, and the line in the access log.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use hyper::Request;
use hyper::body::Incoming;

use super::ingress::{self, Reception, Served};
use super::management::Office;
use super::reply::Reply;
use super::router::RouteTable;

pub use super::ingress::Settings;

/// A handle on all desks, cheap to clone.
#[derive(Clone)]
pub struct Server {
    table: Arc<ArcSwap<RouteTable>>,
    reception: Reception,
    office: Office,
    access_log: bool,
}

impl Server {
    /// Puts the desks behind one door.
    pub(super) fn assemble(
        table: Arc<ArcSwap<RouteTable>>,
        reception: Reception,
        office: Office,
        access_log: bool,
    ) -> Server {
        Server { table, reception, office, access_log }
    }

    /// Serves one request of `peer`. Every path ends in an answer.
    pub async fn serve(self, request: Request<Incoming>, peer: SocketAddr) -> Reply {
        let began = Instant::now();
        let table = self.table.load_full();
        let (parts, body) = request.into_parts();
        // The line is written after the parts are gone.
        let line = self.access_log.then(|| (parts.method.clone(), parts.uri.path().to_owned()));
        let mut served = Served::default();
        let path = parts.uri.path();
        let result = if path.starts_with(ingress::EXECUTE) {
            self.reception.execute(&table, parts, body, &mut served).await
        } else if path == "/api" || path.starts_with("/api/") {
            self.office.serve(&table, parts, body, canonical(peer.ip())).await
        } else {
            self.reception.route(&table, parts, body, &mut served).await
        };
        let reply = result.unwrap_or_else(|refusal| refusal.reply());
        if let Some((method, path)) = line {
            log_access(&method, &path, &reply, peer, &served, began);
        }
        reply
    }
}

/// An IPv4 peer of an IPv6 socket is an IPv4 peer.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn log_access(method: &hyper::Method, path: &str, reply: &Reply, peer: SocketAddr, served: &Served, began: Instant) {
    let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (status, peer) = (reply.status().as_u16(), canonical(peer.ip()));
    match (&served.script, served.execution) {
        (Some(script), Some(execution)) => {
            tracing::info!(target: "picloud::access", status, duration_us, %peer, script, %execution, "{method} {path}");
        }
        _ => tracing::info!(target: "picloud::access", status, duration_us, %peer, "{method} {path}"),
    }
}
