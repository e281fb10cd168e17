//! Dead letters: read, run again, or let go.

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::executions::Whose;
use super::input::{Call, List, parse_cursor};
use super::{Office, Outcome, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::model::{DeadLetter, Row, UnixMs};
use crate::store::{ChangeError, Changes};

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhichVersion {
    #[default]
    Active,
    Original,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redrive {
    #[serde(default)]
    version: WhichVersion,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Many {
    app: Option<String>,
    script: Option<String>,
    #[serde(default)]
    version: WhichVersion,
}

impl Office {
    pub(super) async fn dead_letters(&self, call: Call, rest: &[&str]) -> Outcome {
        match (&call.method, rest) {
            (&Method::GET, []) => self.letter_list(&call).await,
            (_, []) => not_allowed("GET"),
            (&Method::POST, ["redrive"]) => self.redrive_many(call.json().await?).await,
            (&Method::POST, ["purge"]) => self.purge_many(call.json().await?).await,
            (_, ["redrive" | "purge"]) => not_allowed("POST"),
            (&Method::GET, [id]) => {
                let id = letter_id(id)?;
                let letter = self.read(move |snapshot| snapshot.dead_letter(id)).await?;
                Ok(reply::json(StatusCode::OK, &view(&letter.ok_or_else(|| unknown(id))?)))
            }
            (&Method::DELETE, [id]) => {
                let id = letter_id(id)?;
                self.change(move |changes| changes.purge(id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            (_, [_]) => not_allowed("GET, DELETE"),
            (&Method::POST, [id, "redrive"]) => {
                let id = letter_id(id)?;
                let Redrive { version } = call.json().await?;
                let row = self.change(move |changes| redrive(changes, id, version)).await?;
                Ok(reply::json(StatusCode::ACCEPTED, &json!({ "execution_id": row.execution_id })))
            }
            (_, [_, "redrive"]) => not_allowed("POST"),
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn letter_list(&self, call: &Call) -> Outcome {
        let (whose, paging) = (self.whose(call)?, call.paging()?);
        let before = paging.cursor.as_deref().map(parse_cursor).transpose()?;
        let keep = move |letter: &DeadLetter| whose.takes(letter.row.app_id, letter.row.script_id);
        let page = self.read(move |snapshot| snapshot.dead_letters(before, paging.limit, keep)).await?;
        let items: Vec<Value> = page.items.iter().map(view).collect();
        Ok(reply::json(StatusCode::OK, &List { items, next_cursor: page.next }))
    }

    async fn redrive_many(&self, many: Many) -> Outcome {
        let whose = self.resolve(many.app.as_deref(), many.script.as_deref())?;
        let (began, version) = (self.store.new_id(), many.version);
        let (mut count, mut skipped, mut after) = (0, 0, None);
        loop {
            let batch = move |changes: &mut Changes<'_>| {
                let (ids, next) = pick(changes, whose, began, after)?;
                let (mut moved, all) = (0, ids.len());
                for id in ids {
                    match redrive(changes, id, version) {
                        Ok(_) => moved += 1,
                        Err(error @ (ChangeError::Store(_) | ChangeError::StorageFull(_))) => {
                            return Err(error);
                        }
                        // Its script is gone: it stays, to be read or purged.
                        Err(
                            ChangeError::NotFound { .. }
                            | ChangeError::Conflict(_)
                            | ChangeError::Invalid { .. },
                        ) => {}
                    }
                }
                Ok((moved, all - moved, next))
            };
            let (moved, stuck, next) = self.change(batch).await?;
            count += moved;
            skipped += stuck;
            after = next;
            if after.is_none() {
                return Ok(reply::json(StatusCode::OK, &json!({ "count": count, "skipped": skipped })));
            }
        }
    }

    async fn purge_many(&self, many: Many) -> Outcome {
        let whose = self.resolve(many.app.as_deref(), many.script.as_deref())?;
        let began = self.store.new_id();
        let (mut count, mut after) = (0, None);
        loop {
            let batch = move |changes: &mut Changes<'_>| {
                let (ids, next) = pick(changes, whose, began, after)?;
                for id in &ids {
                    changes.purge(*id)?;
                }
                Ok((ids.len(), next))
            };
            let (gone, next) = self.change(batch).await?;
            count += gone;
            after = next;
            if after.is_none() {
                return Ok(reply::json(StatusCode::OK, &json!({ "count": count })));
            }
        }
    }
}

/// The next letters of a bulk command, of those that were dead when it began; and where to go on.
fn pick(
    changes: &Changes<'_>,
    whose: Whose,
    began: Uuid,
    after: Option<Uuid>,
) -> Result<(Vec<Uuid>, Option<Uuid>), ChangeError> {
    changes.dead_letter_ids(after, |letter| {
        letter.id < began && whose.takes(letter.row.app_id, letter.row.script_id)
    })
}

fn redrive(
    changes: &mut Changes<'_>,
    id: Uuid,
    version: WhichVersion,
) -> Result<std::sync::Arc<Row>, ChangeError> {
    let catalog = changes.catalog().clone();
    changes.redrive(id, move |letter, execution_id| {
        let script = letter.row.script_id;
        if !catalog.scripts.contains_key(&script) {
            return Err(ChangeError::Conflict(format!("script not found: {script}")));
        }
        let pinned_version = match version {
            WhichVersion::Active => None,
            WhichVersion::Original if letter.script_version == 0 => None,
            WhichVersion::Original => Some(letter.script_version),
        };
        let now = UnixMs::now();
        Ok(Row {
            execution_id,
            attempts: 0,
            crashes: 0,
            due_at: now,
            accepted_at: now,
            pinned_version,
            redriven_from: Some(id),
            age_ms: 0,
            wait_ms: 0,
            // Another message may have its key by now.
            unique: None,
            client: None,
            ..letter.row
        })
    })
}

fn letter_id(text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text)
        .map_err(|_| Refusal::bad_request(format_args!("\"{text}\" is not a dead letter id")))
}

fn unknown(id: Uuid) -> Refusal {
    Refusal::not_found(format!("dead letter not found: {id}"))
}

fn view(letter: &DeadLetter) -> Value {
    let row = &letter.row;
    let secret = |name: &str| matches!(name, "authorization" | "cookie" | "proxy-authorization");
    let headers: Map<String, Value> = row
        .request
        .headers
        .iter()
        .map(|(name, value)| {
            (name.clone(), if secret(name) { "[redacted]".into() } else { value.as_str().into() })
        })
        .collect();
    json!({
        "id": letter.id,
        "execution_id": row.execution_id,
        "app_id": row.app_id,
        "script_id": row.script_id,
        "script_name": row.script_name,
        "script_version": letter.script_version,
        "route_id": row.route_id,
        "trigger_id": row.trigger_id,
        "event": row.event.as_ref().and_then(|event| serde_json::from_slice::<Value>(event).ok()),
        "kind": row.kind,
        "reason": letter.reason,
        "attempts": row.history,
        "request": {
            "method": row.request.method,
            "path": row.request.path,
            "headers": headers,
            "body": String::from_utf8_lossy(row.request.body.bytes()),
            "query": row.request.query,
        },
        "root_execution_id": row.root_execution_id,
        "trigger_depth": row.trigger_depth,
        "redriven_from": row.redriven_from,
        "accepted_at": row.accepted_at,
        "died_at": letter.died_at,
        "created_at": letter.died_at,
        "updated_at": letter.died_at,
    })
}
