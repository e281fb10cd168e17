//! `picloud rescue`: a page on the sockets that systemd hands over, while the daemon itself cannot start.

use std::process::ExitCode;

use super::sockets::Sockets;
use super::{Error, REASON, runtime_directory, systemd, tell_where};
use crate::http::tell_closed;

/// Serves the page until the process is ended.
pub fn rescue() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("picloud: {error}");
            systemd::failed(&error.to_string(), None);
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Error> {
    let sockets = Sockets::inherit()?;
    if sockets.is_empty() {
        return Err(Error::NoSockets);
    }
    let why = why();
    if let Some(directory) = runtime_directory() {
        tell_where(&directory, &sockets);
    }
    eprintln!("picloud: a page is served in place of the daemon, which cannot start: {why}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        systemd::ready(&format!("a page tells: {why}"));
        tell_closed(sockets.into_listeners(), why).await;
    });
    Ok(())
}

/// What the daemon left; else what systemd knows of its end (systemd.exec(5), $MONITOR_SERVICE_RESULT).
fn why() -> String {
    let left = runtime_directory().and_then(|directory| std::fs::read_to_string(directory.join(REASON)).ok());
    let left = left.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    left.unwrap_or_else(|| {
        let told = |name| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
        let (result, code, status) =
            (told("MONITOR_SERVICE_RESULT"), told("MONITOR_EXIT_CODE"), told("MONITOR_EXIT_STATUS"));
        format!("it ended again and again (result {result}, {code} {status}); its journal tells why")
    })
}
