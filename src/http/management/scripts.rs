//! Scripts and their versions. A source is compiled before it is stored.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::input::{Call, List, page_of};
use super::{Office, Outcome, blocking, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::model::{Access, Name, Sandbox, Script, ScriptSource, TIMEOUT_SECONDS_MAX, UnixMs};
use crate::script;
use crate::store::ScriptPatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewScript {
    name: Name,
    source: ScriptSource,
    timeout_seconds: Option<u16>,
    #[serde(default)]
    sandbox: Sandbox,
    #[serde(default)]
    access: Access,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Validate {
    source: ScriptSource,
}

/// A script with the source of its active version.
#[derive(Serialize)]
struct WithSource<'a> {
    #[serde(flatten)]
    script: &'a Script,
    source: &'a str,
}

impl Office {
    pub(super) async fn scripts(&self, call: Call, app: Uuid, rest: &[&str]) -> Outcome {
        match rest {
            [] => self.script_list(call, app).await,
            [id] => {
                let script = self.find_script(app, id)?;
                self.script(call, script).await
            }
            [id, "versions"] => {
                let script = self.find_script(app, id)?.id;
                if call.method != Method::GET {
                    return not_allowed("GET");
                }
                let items = self.read(move |snapshot| snapshot.versions(script)).await?;
                Ok(reply::json(StatusCode::OK, &List { items, next_cursor: None }))
            }
            [id, "rollback"] => {
                let script = self.find_script(app, id)?.id;
                if call.method != Method::POST {
                    return not_allowed("POST");
                }
                let Rollback { version } = call.json().await?;
                let change = move |changes: &mut crate::store::Changes<'_>| {
                    changes.rollback_script(script, version, UnixMs::now())
                };
                self.reply_with_source(StatusCode::OK, self.change(change).await?).await
            }
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn script_list(&self, call: Call, app: Uuid) -> Outcome {
        match call.method {
            Method::GET => {
                let catalog = self.store.catalog();
                let all = catalog.scripts.iter().filter(|(_, script)| script.app_id == app);
                page_of(all.map(|(id, script)| (*id, script.clone())), &call.paging()?, Script::clone)
            }
            Method::POST => self.create_script(call, app).await,
            _ => not_allowed("GET, POST"),
        }
    }

    async fn create_script(&self, call: Call, app: Uuid) -> Outcome {
        let new: NewScript = call.json().await?;
        check_timeout(new.timeout_seconds)?;
        self.check_sandbox(&new.sandbox)?;
        check_compiles(new.source.clone()).await?;
        let now = UnixMs::now();
        let script = Script {
            id: self.store.new_id(),
            app_id: app,
            name: new.name,
            active_version: 1,
            latest_version: 1,
            timeout_seconds: new.timeout_seconds,
            sandbox: new.sandbox,
            access: new.access,
            created_at: now,
            updated_at: now,
        };
        let source = new.source.clone();
        let script = self.change(move |changes| changes.create_script(script, source)).await?;
        let body = WithSource { script: &script, source: new.source.as_str() };
        Ok(reply::json(StatusCode::CREATED, &body))
    }

    async fn script(&self, call: Call, script: Arc<Script>) -> Outcome {
        match call.method {
            Method::GET => self.reply_with_source(StatusCode::OK, script).await,
            Method::PATCH => {
                let patch: ScriptPatch = call.json().await?;
                check_timeout(patch.timeout_seconds.flatten())?;
                if let Some(sandbox) = &patch.sandbox {
                    self.check_sandbox(sandbox)?;
                }
                if let Some(source) = patch.source.clone() {
                    check_compiles(source).await?;
                }
                let change =
                    self.change(move |changes| changes.update_script(script.id, patch, UnixMs::now()));
                self.reply_with_source(StatusCode::OK, change.await?).await
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_script(script.id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PATCH, DELETE"),
        }
    }

    async fn reply_with_source(&self, status: StatusCode, script: Arc<Script>) -> Outcome {
        let (id, version) = (script.id, script.active_version);
        let stored = self.read(move |snapshot| snapshot.version(id, version)).await?;
        let stored = stored.ok_or_else(|| Refusal::not_found(format!("script not found: {id}")))?;
        Ok(reply::json(status, &WithSource { script: &script, source: stored.source.as_str() }))
    }

    fn check_sandbox(&self, sandbox: &Sandbox) -> Result<(), Refusal> {
        let (_, ceilings) = self.dispatch.executor().limits();
        ceilings.check(sandbox).map_err(|why| {
            let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, why.to_string());
            refusal.more.push(("field", "sandbox".into()));
            refusal
        })
    }

    /// `POST /api/v1/validate`: whether a source compiles, storing nothing.
    pub(super) async fn validate(&self, call: Call) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("POST");
        }
        let Validate { source } = call.json().await?;
        check_compiles(source).await?;
        Ok(reply::json(StatusCode::OK, &serde_json::json!({ "valid": true })))
    }
}

fn check_timeout(seconds: Option<u16>) -> Result<(), Refusal> {
    match seconds {
        Some(seconds) if !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds) => Err(Refusal::invalid(
            "timeout_seconds",
            format!("is {seconds}; 1 to {TIMEOUT_SECONDS_MAX} are allowed"),
        )),
        _ => Ok(()),
    }
}

/// Compiles off the event loop, because a long source takes a while on a small board.
async fn check_compiles(source: ScriptSource) -> Result<(), Refusal> {
    let compiled = blocking(move || script::compile(&source).map(drop)).await?;
    compiled.map_err(|error| {
        let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.message.clone());
        refusal.more =
            vec![("line", error.line.into()), ("column", error.column.into()), ("field", "source".into())];
        refusal
    })
}
