//! Routes, and which of them a request would take.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::input::{Call, page_of};
use super::{Office, Outcome, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::http::router::RouteTable;
use crate::model::{
    Access, BodyMode, DispatchMode, Durability, Host, HostPattern, PathPattern, Route, RouteMethod, UnixMs,
};
use crate::store::RoutePatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRoute {
    method: RouteMethod,
    path: PathPattern,
    script_id: Uuid,
    host: Option<HostPattern>,
    #[serde(default)]
    dispatch_mode: DispatchMode,
    #[serde(default)]
    durability: Durability,
    #[serde(default)]
    body: BodyMode,
    #[serde(default)]
    access: Access,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    method: RouteMethod,
    path: String,
    #[serde(default)]
    host: Option<String>,
}

impl Office {
    pub(super) async fn routes(
        &self,
        call: Call,
        table: &Arc<RouteTable>,
        app: Uuid,
        rest: &[&str],
    ) -> Outcome {
        match rest {
            [] => self.route_list(call, app).await,
            ["match"] if call.method == Method::POST => {
                let question: Question = call.json().await?;
                Ok(reply::json(StatusCode::OK, &which(&question, table, app)))
            }
            ["match"] => not_allowed("POST"),
            [id] => {
                let route = self.find_route(app, id)?;
                self.route(call, route).await
            }
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn route_list(&self, call: Call, app: Uuid) -> Outcome {
        match call.method {
            Method::GET => {
                let catalog = self.store.catalog();
                let all = catalog.routes.iter().filter(|(_, route)| route.app_id == app);
                page_of(all.map(|(id, route)| (*id, route.clone())), &call.paging()?, Route::clone)
            }
            Method::POST => {
                let new: NewRoute = call.json().await?;
                let now = UnixMs::now();
                let route = Route {
                    id: self.store.new_id(),
                    app_id: app,
                    script_id: new.script_id,
                    host: new.host,
                    method: new.method,
                    path: new.path,
                    dispatch_mode: new.dispatch_mode,
                    durability: new.durability,
                    body: new.body,
                    access: new.access,
                    created_at: now,
                    updated_at: now,
                };
                let route = self.change(move |changes| changes.create_route(route)).await?;
                Ok(reply::json(StatusCode::CREATED, route.as_ref()))
            }
            _ => not_allowed("GET, POST"),
        }
    }

    async fn route(&self, call: Call, route: Arc<Route>) -> Outcome {
        match call.method {
            Method::GET => Ok(reply::json(StatusCode::OK, route.as_ref())),
            Method::PATCH => {
                let patch: RoutePatch = call.json().await?;
                let change = self.change(move |changes| changes.update_route(route.id, patch, UnixMs::now()));
                Ok(reply::json(StatusCode::OK, change.await?.as_ref()))
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_route(route.id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PATCH, DELETE"),
        }
    }

    fn find_route(&self, app: Uuid, id: &str) -> Result<Arc<Route>, Refusal> {
        let catalog = self.store.catalog();
        let found = Uuid::try_parse(id)
            .ok()
            .and_then(|id| catalog.routes.get(&id))
            .filter(|route| route.app_id == app);
        found.cloned().ok_or_else(|| Refusal::not_found(format!("route not found: {id}")))
    }
}

fn which(question: &Question, table: &RouteTable, app: Uuid) -> serde_json::Value {
    let header = question.host.as_deref().unwrap_or_default();
    let host = Host::from_header(header);
    let claimed = table.app(&host);
    if question.host.is_some() && claimed.is_none_or(|claimed| claimed.app().id != app) {
        let error = match claimed {
            Some(other) => format!("host \"{host}\" belongs to app {}", other.app().slug),
            None => format!("no app claims host \"{host}\""),
        };
        return json!({ "matched": false, "error": error });
    }
    let path = question.path.split(['?', '#']).next().unwrap_or_default();
    let found = table.app_by_id(app).and_then(|routes| routes.find(&host, question.method.as_str(), path));
    let Some(found) = found else {
        return json!({ "matched": false, "error": format!("no route matches {} {path}", question.method) });
    };
    let params: serde_json::Map<_, _> =
        found.params.into_iter().map(|(name, value)| (name, value.into())).collect();
    json!({ "matched": true, "route": found.target.route.as_ref(), "params": params, "rest": found.rest })
}
