//! Apps and the hosts they claim.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use super::input::{Call, page_of};
use super::{Office, Outcome, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::model::{App, AppLimits, Domain, Egress, HostPattern, Name, Slug, TlsSource, UnixMs};
use crate::store::{AppPatch, DomainPatch};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewApp {
    slug: Slug,
    name: Option<Name>,
    #[serde(default)]
    egress: Egress,
    #[serde(default)]
    limits: AppLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewDomain {
    pattern: HostPattern,
    #[serde(default)]
    tls: TlsSource,
}

impl Office {
    pub(super) async fn app_list(&self, call: Call) -> Outcome {
        match call.method {
            Method::GET => {
                let catalog = self.store.catalog();
                page_of(catalog.apps.iter().map(|(id, app)| (*id, app.clone())), &call.paging()?, App::clone)
            }
            Method::POST => {
                let new: NewApp = call.json().await?;
                let name = match new.name {
                    Some(name) => name,
                    None => new.slug.as_str().parse().map_err(|why| Refusal::invalid("name", why))?,
                };
                self.check_limits(&new.limits)?;
                let (id, now) = (self.store.new_id(), UnixMs::now());
                let NewApp { slug, limits, egress, .. } = new;
                let app = App { id, slug, name, egress, limits, created_at: now, updated_at: now };
                let app = self.change(move |changes| changes.create_app(app)).await?;
                Ok(reply::json(StatusCode::CREATED, app.as_ref()))
            }
            _ => not_allowed("GET, POST"),
        }
    }

    pub(super) async fn app(&self, call: Call, id_or_slug: &str) -> Outcome {
        let app = self.find_app(id_or_slug)?;
        match call.method {
            Method::GET => Ok(reply::json(StatusCode::OK, app.as_ref())),
            Method::PATCH => {
                let patch: AppPatch = call.json().await?;
                self.check_limits(&patch.limits.unwrap_or_default())?;
                let app =
                    self.change(move |changes| changes.update_app(app.id, patch, UnixMs::now())).await?;
                Ok(reply::json(StatusCode::OK, app.as_ref()))
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_app(app.id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PATCH, DELETE"),
        }
    }

    fn check_limits(&self, limits: &AppLimits) -> Result<(), Refusal> {
        limits.check(&self.app_ceilings).map_err(|(field, why)| Refusal::invalid(field, why))
    }

    pub(super) async fn domains(&self, call: Call, app: Uuid, rest: &[&str]) -> Outcome {
        match rest {
            [] => self.domain_list(call, app).await,
            [id] => self.domain(call, app, id).await,
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn domain_list(&self, call: Call, app: Uuid) -> Outcome {
        match call.method {
            Method::GET => {
                let catalog = self.store.catalog();
                let all = catalog.domains.iter().filter(|(_, domain)| domain.app_id == app);
                page_of(all.map(|(id, domain)| (*id, domain.clone())), &call.paging()?, Domain::clone)
            }
            Method::POST => {
                let NewDomain { pattern, tls } = call.json().await?;
                let now = UnixMs::now();
                let domain = Domain {
                    id: self.store.new_id(),
                    app_id: app,
                    pattern,
                    tls,
                    created_at: now,
                    updated_at: now,
                };
                let domain = self.change(move |changes| changes.create_domain(domain)).await?;
                Ok(reply::json(StatusCode::CREATED, domain.as_ref()))
            }
            _ => not_allowed("GET, POST"),
        }
    }

    async fn domain(&self, call: Call, app: Uuid, id: &str) -> Outcome {
        let domain = self.find_domain(app, id)?;
        match call.method {
            Method::GET => Ok(reply::json(StatusCode::OK, domain.as_ref())),
            Method::PATCH => {
                let patch: DomainPatch = call.json().await?;
                let change =
                    self.change(move |changes| changes.update_domain(domain.id, patch, UnixMs::now()));
                Ok(reply::json(StatusCode::OK, change.await?.as_ref()))
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_domain(domain.id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PATCH, DELETE"),
        }
    }

    fn find_domain(&self, app: Uuid, id: &str) -> Result<Arc<Domain>, Refusal> {
        let catalog = self.store.catalog();
        let found = Uuid::try_parse(id)
            .ok()
            .and_then(|id| catalog.domains.get(&id))
            .filter(|domain| domain.app_id == app);
        found.cloned().ok_or_else(|| Refusal::not_found(format!("domain not found: {id}")))
    }
}
