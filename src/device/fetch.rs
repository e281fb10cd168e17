//! Fetching an update from a URL. Who may be believed is for its signature to say.

use std::io::Read;
use std::time::Duration;

use ureq::http::Uri;

use super::desk::{Refused, Upload};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// From the first byte of the request to the head of the answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// From one part of it to the next.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
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
pub(super) fn fetch(url: &Uri, upload: Upload) -> Result<Upload, Refused> {
    fetch_within(IDLE_TIME_MAX, url, upload)
}

fn fetch_within(idle_time_max: Duration, url: &Uri, mut upload: Upload) -> Result<Upload, Refused> {
    let config = ureq::Agent::config_builder()
        .max_redirects(REDIRECTS_MAX)
        .proxy(None)
        .timeout_connect(Some(CONNECT_TIME_MAX))
        .timeout_recv_response(Some(ANSWER_TIME_MAX))
        .timeout_per_read(Some(idle_time_max))
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;
    use crate::device::testing::Folder;
    use crate::device::{Phase, Settings, Updates};

    #[test]
    fn what_does_not_go_on_is_given_up() {
        let folder = Folder::new();
        let image =
            r#"{"compatible":"x","version":"1.0.0","build":"2026-01-01T00:00:00Z","slot_bytes":4096}"#;
        folder.file("usr/lib/picloud/image.json", image.as_bytes());
        let (place, directory) = (folder.place(), folder.path().join("device"));
        let updates = Updates::new(Settings { place, directory, kept_free_bytes: 0, schema: 1 });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = parse(&format!("http://{}/x", listener.local_addr().unwrap())).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 2048]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\nit begins").unwrap();
            // Until the other side goes.
            stream.read(&mut [0]).unwrap_or(0)
        });
        let upload = updates.begin(Phase::Downloading, None).unwrap();
        let why = fetch_within(Duration::from_millis(300), &url, upload).err().unwrap().to_string();
        assert!(why.contains(&shown(&url)) && why.contains("timeout"), "{why}");
        assert_eq!(server.join().unwrap(), 0);
        assert_eq!(std::fs::read_dir(folder.path().join("device")).unwrap().count(), 0);
    }
}
