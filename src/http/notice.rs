//! A page in place of the house: why it is closed.
//!
//! Serves one text to whoever asks for anything. It needs no store and no configuration, because either may be why it
//! is needed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::listener::Listener;
use super::reply::{self, Reply};
use crate::model::is_private;

/// Connections at once; more wait in the kernel.
const GUESTS_MAX: usize = 64;
/// A connection lasts no longer.
const STAY_MAX: Duration = Duration::from_secs(30);
/// Seconds after which a client may try again.
const AGAIN: &str = "60";

/// What everybody is told.
const CLOSED: &str = "this PiCloud cannot start";

/// Tells everybody who comes to these sockets that the house is closed, for ever; and who is near, why.
pub async fn tell_closed(listeners: Vec<Listener>, why: String) {
    let (why, places) = (Arc::new(why), Arc::new(Semaphore::new(GUESTS_MAX)));
    let doors =
        listeners.into_iter().map(|listener| tokio::spawn(door(listener, why.clone(), places.clone())));
    for door in doors.collect::<Vec<_>>() {
        // A door ends only with the process.
        let _ = door.await;
    }
}

async fn door(listener: Listener, why: Arc<String>, places: Arc<Semaphore>) {
    let Ok(socket) = TcpListener::from_std(listener.into_socket()) else { return };
    while let Ok(place) = places.clone().acquire_owned().await {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let why = why.clone();
                tokio::spawn(async move {
                    let _ = timeout(STAY_MAX, serve(stream, peer, &why)).await;
                    drop(place);
                });
            }
            // Out of descriptors: those who are here go first.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, why: &str) {
    let why = is_private(peer.ip().to_canonical()).then_some(why);
    let service = service_fn(|request: Request<_>| {
        let answer = answer(&request, why);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever breaks off has seen enough.
    let _ = connection.await;
}

fn answer<B>(request: &Request<B>, why: Option<&str>) -> Reply {
    let accepts = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut answer = if accepts.contains("text/html") {
        let mut page: Response<_> = reply::text("text/html; charset=utf-8", page(why));
        *page.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        page
    } else {
        let error = why.map_or_else(|| CLOSED.to_owned(), |why| format!("{CLOSED}: {why}"));
        reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": error, "reason": "cannot_start" }))
    };
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static(AGAIN));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    answer
}

fn page(why: Option<&str>) -> String {
    let why = why.map_or_else(String::new, |why| format!("<pre>{}</pre>", escaped(why)));
    include_str!("notice.html").replace("{{why}}", &why)
}

/// As text between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str, why: Option<&str>) -> Reply {
        answer(&Request::builder().header(ACCEPT, accept).body(()).unwrap(), why)
    }

    #[test]
    fn people_get_a_page_and_programs_get_json() {
        for (accept, kind) in [("text/html,*/*", "text/html; charset=utf-8"), ("*/*", "application/json")] {
            let answer = ask(accept, Some("x"));
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.headers()[CONTENT_TYPE], kind);
            assert_eq!(answer.headers()[RETRY_AFTER], AGAIN);
        }
    }

    #[test]
    fn the_reason_is_text() {
        let near = page(Some("<b>&"));
        assert!(near.contains("<pre>&lt;b&gt;&amp;</pre>") && !near.contains("{{"), "{near}");
        assert!(!page(None).contains("<pre>"), "who is far is not told why");
    }
}
