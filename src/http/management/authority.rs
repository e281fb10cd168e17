//! The device's own certificate authority as clients may have it: its root in the forms that systems take, and a page
//! that says how to trust it. There is no secret in any of them, so no key is asked for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::Outcome;
use crate::http::reply::{self, Refusal, Reply};
use crate::http::tls::{Root, Tls};

const PAGE: &str = include_str!("authority.html");
const PROFILE: &str = include_str!("authority.mobileconfig");

/// `GET /api/v1/ca`, `ca.pem`, `ca.crt`, `ca.crl` or `ca.mobileconfig`.
pub(super) fn show(tls: &Tls, form: &str, headers: &HeaderMap) -> Outcome {
    let root = tls.root();
    Ok(match form {
        "ca.pem" => file("application/x-pem-file", "picloud-ca.pem", root.pem.into()),
        "ca.crt" => file("application/x-x509-ca-cert", "picloud-ca.crt", Bytes::copy_from_slice(&root.der)),
        "ca.mobileconfig" => {
            file("application/x-apple-aspen-config", "picloud-ca.mobileconfig", profile(&root).into())
        }
        "ca.crl" => {
            let list = tls.revoked().map_err(|error| {
                tracing::error!(error, "the list of revoked certificates could not be made");
                Refusal::internal()
            })?;
            file("application/pkix-crl", "picloud-ca.crl", list.into())
        }
        _ if wants_page(headers) => reply::text("text/html; charset=utf-8", page(tls, &root)),
        _ => reply::json(StatusCode::OK, &told(&root)),
    })
}

fn told(root: &Root) -> serde_json::Value {
    json!({
        "name": root.name,
        "certificate": root.pem,
        "fingerprint": root.facts.fingerprint,
        "not_before": root.facts.not_before,
        "not_after": root.facts.not_after,
    })
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.to_ascii_lowercase().contains("text/html")
}

fn file(kind: &'static str, name: &str, bytes: Bytes) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(bytes)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        reply.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    reply
}

fn page(tls: &Tls, root: &Root) -> String {
    let host = tls.own_host();
    let port = tls.port().filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    PAGE.replace("{{name}}", &escape(&root.name))
        .replace("{{fingerprint}}", &spaced(&root.facts.fingerprint))
        .replace("{{url}}", &escape(&format!("https://{host}.local{port}")))
}

/// A configuration profile as Apple's systems install it. Its ids are those of the certificate, so that installing it
/// twice replaces it.
fn profile(root: &Root) -> String {
    let id = |part: u8| {
        let mut bytes: Vec<u8> = root.facts.fingerprint.bytes().collect();
        bytes.push(part);
        let mut id = [0; 16];
        for (at, byte) in bytes.iter().enumerate() {
            id[at % 16] ^= byte.rotate_left(u32::try_from(at / 16).unwrap_or_default());
        }
        uuid::Builder::from_custom_bytes(id).into_uuid().to_string()
    };
    PROFILE
        .replace("{{name}}", &escape(&root.name))
        .replace("{{certificate}}", &STANDARD.encode(&root.der))
        .replace("{{certificate_id}}", &id(1))
        .replace("{{profile_id}}", &id(2))
}

/// Pairs of digits, as systems show them to be compared.
fn spaced(hex: &str) -> String {
    let pairs = hex.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_uppercase());
    pairs.collect::<Vec<_>>().join(":")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
