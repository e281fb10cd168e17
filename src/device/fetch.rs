//! Fetching an update from a URL. Who may be believed is for its signature to say.

use std::io::Read;
use std::time::Duration;

use ureq::http::Uri;

use super::desk::{Refused, Upload};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// From the first byte of the request to the head of the answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// All of it, also by a slow line.
const TIME_MAX: Duration = Duration::from_secs(6 * 3600);
/// Releases are often one or two redirects away.
const REDIRECTS_MAX: u32 = 5;
const PART_BYTES: usize = 256 * 1024;

/// A URL that may be fetched from.
pub(super) fn parse(url: &str) -> Result<Uri, Refused> {
    let parsed: Option<Uri> = url.parse().ok();
    let fits = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    parsed
        .filter(fits)
        .ok_or_else(|| Refused::Unfetched(format!("{url:?} is no URL that begins with http:// or https://")))
}

/// Fetches all of it into `upload`.
pub(super) fn fetch(url: &Uri, mut upload: Upload) -> Result<Upload, Refused> {
    let config = ureq::Agent::config_builder()
        .max_redirects(REDIRECTS_MAX)
        .proxy(None)
        .timeout_connect(Some(CONNECT_TIME_MAX))
        .timeout_recv_response(Some(ANSWER_TIME_MAX))
        .timeout_global(Some(TIME_MAX))
        .user_agent(concat!("picloud/", env!("CARGO_PKG_VERSION")));
    let answer = config.build().new_agent().get(url).call();
    let answer = answer.map_err(|why| Refused::Unfetched(format!("{}: {why}", shown(url))))?;
    let body = answer.into_body();
    if let Some(bytes) = body.content_length() {
        upload.expect(bytes)?;
    }
    let (mut reader, mut part) = (body.into_reader(), vec![0; PART_BYTES]);
    loop {
        let count =
            reader.read(&mut part).map_err(|why| Refused::Unfetched(format!("{}: {why}", shown(url))))?;
        if count == 0 {
            return Ok(upload);
        }
        upload.write(&part[..count])?;
    }
}

/// The URL without its query, which may hold a token, and without a password.
fn shown(url: &Uri) -> String {
    let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let place = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{place}{}", url.scheme_str().unwrap_or_default(), url.path())
}
