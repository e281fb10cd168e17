//! `picloud status`: health, readiness and version of the device, on one screen.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::error::Error;
use super::render::{self, field, text};
use super::session::Session;

/// Asks, prints, and succeeds if the device is ready.
pub(super) fn run(session: &mut Session<'_>) -> Result<ExitCode, Error> {
    let (_, version) = session.client.probe("/api/v1/version")?;
    let (_, health) = session.client.probe("/api/v1/health")?;
    let (ready_status, ready) = session.client.probe("/api/v1/ready")?;
    let is_ready = ready_status == 200 && ready["ready"] == true;
    let url = session.client.url().to_owned();
    if session.json {
        session.document(&json!({ "url": url, "version": version, "health": health, "ready": ready }))?;
    } else {
        let mut rows = vec![
            vec!["url".to_owned(), url],
            vec!["version".to_owned(), text(&version["version"])],
            vec!["health".to_owned(), text(&health["status"])],
            vec!["ready".to_owned(), (if is_ready { "yes" } else { "no" }).to_owned()],
        ];
        for (answer, told) in [(&version, "version"), (&health, "status"), (&ready, "ready")] {
            rows.extend(others(answer, told));
        }
        session.say(render::aligned(&rows))?;
    }
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What an answer says beyond its main field.
fn others(answer: &Value, told: &str) -> Vec<Vec<String>> {
    let fields = answer.as_object().into_iter().flatten().filter(|(name, _)| *name != told);
    fields.map(|(name, _)| vec![render::clean(name), field(answer, name)]).collect()
}
