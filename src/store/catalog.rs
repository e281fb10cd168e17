//! What the device is set up to do, in memory: apps, domains, scripts, routes, keys and users.
//!
//! Immutable and swapped whole after the commit that changed it, so that a request reads it without a lock.
//! Sources stay in the file. Each map is shared until a change touches it.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::model::{App, Domain, Key, Route, Script, Session, Trigger, User};

/// One state of the set-up.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// By id, as all of these.
    pub apps: Arc<BTreeMap<Uuid, Arc<App>>>,
    /// Claims on hosts.
    pub domains: Arc<BTreeMap<Uuid, Arc<Domain>>>,
    /// Scripts without their sources.
    pub scripts: Arc<BTreeMap<Uuid, Arc<Script>>>,
    /// Routes.
    pub routes: Arc<BTreeMap<Uuid, Arc<Route>>>,
    /// Triggers.
    pub triggers: Arc<BTreeMap<Uuid, Arc<Trigger>>>,
    /// Api keys.
    pub keys: Arc<BTreeMap<Uuid, Arc<Key>>>,
    /// Who may log in.
    pub users: Arc<BTreeMap<Uuid, Arc<User>>>,
    /// Who is logged in.
    pub sessions: Arc<BTreeMap<Uuid, Arc<Session>>>,
}

impl Catalog {
    /// Whether nothing changed between the two.
    pub(crate) fn is_same(&self, other: &Catalog) -> bool {
        Arc::ptr_eq(&self.apps, &other.apps)
            && Arc::ptr_eq(&self.domains, &other.domains)
            && Arc::ptr_eq(&self.scripts, &other.scripts)
            && Arc::ptr_eq(&self.routes, &other.routes)
            && Arc::ptr_eq(&self.triggers, &other.triggers)
            && Arc::ptr_eq(&self.keys, &other.keys)
            && Arc::ptr_eq(&self.users, &other.users)
            && Arc::ptr_eq(&self.sessions, &other.sessions)
    }

    /// The app with this id or slug.
    pub fn app(&self, id_or_slug: &str) -> Option<&Arc<App>> {
        match Uuid::try_parse(id_or_slug) {
            Ok(id) => self.apps.get(&id),
            Err(_) => self.apps.values().find(|app| app.slug.as_str() == id_or_slug),
        }
    }
}
