//! Updates and factory resets of the appliance: what a client brings is checked and left for root's helper.

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::input::Call;
use super::serving::serving;
use super::{Office, Outcome, blocking, broken, not_allowed};
use crate::device::{self, Phase, Refused, Upload};
use crate::http::body::{Stream, Unread};
use crate::http::reply::{self, Refusal};

/// Bytes of an upload that are written at once.
const WRITE_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FromUrl {
    url: String,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    confirm: String,
}

impl Office {
    /// `POST /api/v1/health`: proves that what is written now is on the card, and says what there is and works.
    pub(super) async fn check_health(&self, call: &Call) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("GET, POST");
        }
        let began = std::time::Instant::now();
        // A change without anything in it is a commit of its own all the same.
        self.change(|_| Ok(())).await?;
        let apps = self.store.catalog().apps.len();
        let store = self.store.clone();
        let serving = blocking(move || serving(&store)).await?.map_err(|error| broken(&error))?;
        let body = json!({
            "status": "ok",
            "commit_ms": began.elapsed().as_secs_f64() * 1e3,
            "apps": apps,
            "routes": serving.routes,
            "scripts": serving.scripts,
            "store_bytes": self.store.file_bytes(),
            // An empty change finds room also on a card that takes nothing else.
            "storage_full": self.store.space().full(began).is_some(),
        });
        Ok(reply::json(StatusCode::OK, &body))
    }

    pub(super) async fn updates(&self, call: Call) -> Outcome {
        match call.method {
            Method::GET => self.standing(StatusCode::OK).await,
            Method::POST => self.update(call).await,
            Method::DELETE => {
                let updates = self.updates.clone();
                blocking(move || updates.cancel()).await?.map_err(refused)?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, POST, DELETE"),
        }
    }

    async fn standing(&self, status: StatusCode) -> Outcome {
        let updates = self.updates.clone();
        let standing = blocking(move || updates.standing()).await?.map_err(refused)?;
        Ok(reply::json(status, &standing))
    }

    async fn update(&self, call: Call) -> Outcome {
        let force = call.parsed("force")?.unwrap_or(false);
        match call.content_type.as_str() {
            "application/json" => {
                // Before its body: a computer that is none says so to whatever it is asked.
                let updates = self.updates.clone();
                blocking(move || updates.standing()).await?.map_err(refused)?;
                let FromUrl { url, force: also } = call.json().await?;
                let updates = self.updates.clone();
                blocking(move || updates.fetch(&url, force || also)).await?.map_err(refused)?;
            }
            "" | "application/octet-stream" | "application/x-tar" => {
                let upload = self.receive_update(call).await?;
                blocking(move || upload.finish(force)).await?.map_err(refused)?;
            }
            other => {
                let message = format!(
                    "{other:?} is no update: send application/octet-stream, or application/json with a url"
                );
                return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
            }
        }
        self.standing(StatusCode::ACCEPTED).await
    }

    async fn receive_update(&self, call: Call) -> Result<Upload, Refusal> {
        let idle_max = self.custody.upload_time_max;
        // How many bytes are too many is for the desk to say.
        let mut parts = Stream::new(call.into_body(), u64::MAX, idle_max).map_err(unread)?;
        let (updates, bytes) = (self.updates.clone(), parts.bytes_at_least());
        let known = Some(bytes).filter(|bytes| *bytes > 0);
        let begun = blocking(move || updates.begin(Phase::Receiving, known)).await?;
        let mut upload = begun.map_err(refused)?;
        let mut gathered = Vec::new();
        loop {
            let part = parts.next().await.map_err(unread)?;
            upload.goes_on().map_err(refused)?;
            gathered.extend_from_slice(part.as_deref().unwrap_or_default());
            if part.is_none() || gathered.len() >= WRITE_BYTES {
                let data = std::mem::take(&mut gathered);
                let written = blocking(move || upload.write(&data).map(|()| upload)).await?;
                upload = written.map_err(refused)?;
            }
            if part.is_none() {
                return Ok(upload);
            }
        }
    }

    /// `/api/v1/factory-reset`: GET says what must be confirmed, POST does it.
    pub(super) async fn factory_reset(&self, call: Call) -> Outcome {
        let updates = self.updates.clone();
        blocking(move || updates.standing()).await?.map_err(refused)?;
        let host_name = device::host_name();
        match call.method {
            Method::GET => Ok(reply::json(StatusCode::OK, &json!({ "confirm": host_name }))),
            Method::POST => {
                let Reset { confirm } = call.json().await?;
                if confirm != host_name {
                    let why =
                        format!("must be {host_name:?}, the name of the device that will lose everything");
                    return Err(Refusal::invalid("confirm", why));
                }
                let updates = self.updates.clone();
                blocking(move || updates.request_reset()).await?.map_err(refused)?;
                tracing::warn!("a factory reset was asked for: the device restarts and forgets everything");
                Ok(reply::json(StatusCode::ACCEPTED, &json!({ "state": "resetting" })))
            }
            _ => not_allowed("GET, POST"),
        }
    }
}

fn refused(why: Refused) -> Refusal {
    let message = why.to_string();
    match why {
        Refused::NoAppliance(_) | Refused::Busy(_) | Refused::TooLate | Refused::Cancelled => {
            Refusal::new(StatusCode::CONFLICT, message)
        }
        Refused::NothingToCancel => Refusal::not_found(message),
        Refused::Full { .. } => Refusal::overloaded(message, "storage_full"),
        Refused::TooLarge(_) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message),
        Refused::Bad(_) | Refused::Unfetched(_) => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message),
        Refused::Failed(_) => {
            tracing::error!("an update failed: {message}");
            Refusal::internal()
        }
    }
}

fn unread(unread: Unread) -> Refusal {
    Refusal::bad_request(format!("body read failed: {unread}"))
}
