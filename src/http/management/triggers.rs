//! Triggers: flat JSON of one kind each, and what a person does with them: pause, resume, run now.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::input::{Call, page_of};
use super::{Office, Outcome, blocking, broken, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::model::{Tick, Timetable, Trigger, TriggerOn, UnixMs};
use crate::store::{Snapshot, TriggerFields};

impl Office {
    pub(super) async fn triggers(&self, call: Call, app: Uuid, rest: &[&str]) -> Outcome {
        match rest {
            [] => self.trigger_list(call, app).await,
            [id] => {
                let trigger = self.find_trigger(app, id)?;
                self.trigger(call, trigger).await
            }
            [id, verb @ ("pause" | "resume" | "run")] => {
                let trigger = self.find_trigger(app, id)?;
                if call.method != Method::POST {
                    return not_allowed("POST");
                }
                match *verb {
                    "run" => self.run_trigger(trigger.id).await,
                    verb => {
                        let enabled = Some(verb == "resume");
                        self.change_trigger(trigger.id, TriggerFields { enabled, ..Default::default() }).await
                    }
                }
            }
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn trigger_list(&self, call: Call, app: Uuid) -> Outcome {
        match call.method {
            Method::GET => {
                let paging = call.paging()?;
                let (catalog, store) = (self.store.catalog(), self.store.clone());
                let page = move || {
                    let snapshot = store.read().map_err(|error| broken(&error))?;
                    let all = catalog.triggers.iter().filter(|(_, trigger)| trigger.app_id == app);
                    let all = all.map(|(id, trigger)| (*id, trigger.clone()));
                    page_of(all, &paging, |trigger| view(trigger, tick(&snapshot, trigger), UnixMs::now()))
                };
                blocking(page).await?
            }
            Method::POST => {
                let new: TriggerFields = call.json().await?;
                let (id, now) = (self.store.new_id(), UnixMs::now());
                let make = move |changes: &mut crate::store::Changes<'_>| {
                    changes.create_trigger(new.create(id, app, now)?)
                };
                let trigger = self.change(make).await?;
                self.show_trigger(StatusCode::CREATED, trigger).await
            }
            _ => not_allowed("GET, POST"),
        }
    }

    async fn trigger(&self, call: Call, trigger: Arc<Trigger>) -> Outcome {
        match call.method {
            Method::GET => self.show_trigger(StatusCode::OK, trigger).await,
            Method::PATCH => {
                let fields: TriggerFields = call.json().await?;
                self.change_trigger(trigger.id, fields).await
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_trigger(trigger.id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PATCH, DELETE"),
        }
    }

    async fn change_trigger(&self, id: Uuid, fields: TriggerFields) -> Outcome {
        let change = self.change(move |changes| changes.update_trigger(id, fields, UnixMs::now()));
        let trigger = change.await?;
        self.show_trigger(StatusCode::OK, trigger).await
    }

    async fn run_trigger(&self, id: Uuid) -> Outcome {
        let row = self.change(move |changes| changes.run_trigger(id, UnixMs::now())).await?;
        let body = json!({ "execution_id": row.execution_id, "accepted_at": row.accepted_at });
        Ok(reply::json(StatusCode::ACCEPTED, &body))
    }

    async fn show_trigger(&self, status: StatusCode, trigger: Arc<Trigger>) -> Outcome {
        let id = trigger.id;
        let tick = self.read(move |snapshot| snapshot.tick(id)).await?;
        Ok(reply::json(status, &view(&trigger, tick, UnixMs::now())))
    }

    fn find_trigger(&self, app: Uuid, id: &str) -> Result<Arc<Trigger>, Refusal> {
        let catalog = self.store.catalog();
        let found = Uuid::try_parse(id)
            .ok()
            .and_then(|id| catalog.triggers.get(&id))
            .filter(|trigger| trigger.app_id == app);
        found.cloned().ok_or_else(|| Refusal::not_found(format!("trigger not found: {id}")))
    }
}

fn tick(snapshot: &Snapshot, trigger: &Trigger) -> Option<Tick> {
    // A tick that cannot be read is missing in the list; asking for the trigger itself says why.
    snapshot.tick(trigger.id).ok().flatten()
}

/// A trigger as it is sent.
fn view(trigger: &Trigger, tick: Option<Tick>, now: UnixMs) -> Value {
    let mut view = json!({
        "id": trigger.id,
        "app_id": trigger.app_id,
        "kind": trigger.on.kind(),
        "script_id": trigger.script_id,
        "enabled": trigger.enabled,
    });
    let fields = match &trigger.on {
        TriggerOn::Kv { prefix, set, delete } => {
            let on: Vec<&str> = [("set", *set), ("delete", *delete)]
                .into_iter()
                .filter_map(|(word, counts)| counts.then_some(word))
                .collect();
            json!({ "prefix": prefix, "on": on })
        }
        TriggerOn::Queue { queue, attempts_max } => json!({ "queue": queue, "max_attempts": attempts_max }),
        TriggerOn::Cron { schedule, time_zone, catch_up, overlap } => json!({
            "schedule": schedule,
            "timezone": time_zone,
            "catch_up": catch_up,
            "overlap": overlap,
            "next_at": next_at(trigger, tick, now),
            "last_at": tick.and_then(|tick| tick.last),
        }),
        TriggerOn::DeadLetter { of_script } => json!({ "source_script_id": of_script }),
        TriggerOn::Startup => json!({}),
    };
    let dates = json!({ "created_at": trigger.created_at, "updated_at": trigger.updated_at });
    for part in [fields, dates] {
        let (Value::Object(all), Value::Object(part)) = (&mut view, part) else { continue };
        all.extend(part);
    }
    view
}

/// When a schedule strikes next, unless it is paused.
fn next_at(trigger: &Trigger, tick: Option<Tick>, now: UnixMs) -> Option<UnixMs> {
    let TriggerOn::Cron { schedule, time_zone, .. } = &trigger.on else { return None };
    let timetable = Timetable::new(schedule, time_zone).ok().filter(|_| trigger.enabled)?;
    timetable.next(tick.map_or(now, |tick| tick.through.max(now)))
}
