//! Changes of domains: the hosts that apps claim.

use std::sync::Arc;

use serde::Deserialize;
use uuid::Uuid;

use super::{Changed, Changes, check_room, found, put, remove};
use crate::model::{Domain, HostPattern, TlsSource, UnixMs};
use crate::store::ChangeError;
use crate::store::tables::DOMAINS;

const DOMAINS_MAX: usize = 5_000;

/// What a PATCH of a domain may change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainPatch {
    /// A new claim.
    pub pattern: Option<HostPattern>,
    /// Where its certificate comes from.
    pub tls: Option<TlsSource>,
}

impl Changes<'_> {
    /// Stores a claim.
    pub fn create_domain(&mut self, domain: Domain) -> Changed<Arc<Domain>> {
        self.check_storage()?;
        check_room(self.catalog.domains.len(), DOMAINS_MAX, "domains")?;
        self.check_claim(&domain)?;
        found(&self.catalog.apps, "app", domain.app_id)?;
        put(self.txn, &self.kept_bytes, DOMAINS, &mut self.catalog.domains, domain.id, domain)
    }

    /// Changes what is claimed, or where its certificate comes from.
    pub fn update_domain(&mut self, id: Uuid, patch: DomainPatch, now: UnixMs) -> Changed<Arc<Domain>> {
        self.check_storage()?;
        let mut domain = found(&self.catalog.domains, "domain", id)?.as_ref().clone();
        domain.pattern = patch.pattern.unwrap_or(domain.pattern);
        domain.tls = patch.tls.unwrap_or(domain.tls);
        self.check_claim(&domain)?;
        domain.updated_at = now;
        put(self.txn, &self.kept_bytes, DOMAINS, &mut self.catalog.domains, id, domain)
    }

    /// Removes a claim.
    pub fn delete_domain(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.domains, "domain", id)?;
        remove(self.txn, DOMAINS, &mut self.catalog.domains, id)
    }

    fn check_claim(&self, Domain { id, pattern, tls, .. }: &Domain) -> Changed<()> {
        tls.check(pattern).map_err(|why| ChangeError::Invalid { field: "tls", why: why.to_string() })?;
        let Some(other) = self.catalog.domains.values().find(|d| d.pattern == *pattern && d.id != *id) else {
            return Ok(());
        };
        let owner = self.catalog.apps.get(&other.app_id).map_or("another app", |app| app.slug.as_str());
        Err(ChangeError::Conflict(format!("pattern: \"{pattern}\" is claimed by {owner}")))
    }
}
