//! Changes of the set-up, made by the writer inside a transaction.
//!
//! A change checks everything before it writes anything, because it shares its transaction with others: what
//! it refuses must leave no trace.

mod domains;
mod triggers;
mod users;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use super::catalog::Catalog;
use super::codec::{self, Stored};
use super::shares::Shares;
use super::space::Full;
use super::tables::{APPS, DEAD_LETTERS, DOMAINS, KEYS, OUTBOX, ROUTES, SCRIPTS, VERSIONS};
use super::{ChangeError, Error, Ids, secrets};
use crate::model::{
    Access, App, AppLimits, BodyMode, DeadLetter, DispatchMode, Durability, Egress, HostPattern, Key, Name,
    PathPattern, Route, RouteMethod, Row, Sandbox, Script, ScriptSource, Slug, UnixMs, Version,
};

pub use domains::DomainPatch;
pub use triggers::{CronRun, KvChange, KvChanges, Strike, Struck, TriggerFields};
pub use users::UserPatch;
pub(super) use users::drop_sessions_that_are_over;

const APPS_MAX: usize = 1_000;
const SCRIPTS_MAX: usize = 20_000;
const ROUTES_MAX: usize = 50_000;
const KEYS_MAX: usize = 1_000;
/// Versions kept of one script; the oldest that is not active goes first.
const VERSIONS_MAX: usize = 100;

/// Dead letters that one transaction of a bulk command looks at.
const LETTERS_PER_LOOK: usize = 100;

/// Reads a field that may be null: absent leaves it, null clears it.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// What a PATCH of an app may change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppPatch {
    /// A new slug.
    pub slug: Option<Slug>,
    /// A new name.
    pub name: Option<Name>,
    /// What its scripts may call, as a whole.
    pub egress: Option<Egress>,
    /// New limits, replacing all old ones.
    pub limits: Option<AppLimits>,
}

/// What a PATCH of a script may change. A source must have been compiled before.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptPatch {
    /// A new name.
    pub name: Option<Name>,
    /// A new source: a new version, if it differs from the active one.
    pub source: Option<ScriptSource>,
    /// A new time limit, or null for the device's.
    #[serde(deserialize_with = "nullable")]
    pub timeout_seconds: Option<Option<u16>>,
    /// New overrides, replacing all old ones.
    pub sandbox: Option<Sandbox>,
    /// Who may run it.
    pub access: Option<Access>,
}

/// What a PATCH of a route may change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutePatch {
    /// Another method.
    pub method: Option<RouteMethod>,
    /// Another path.
    pub path: Option<PathPattern>,
    /// Another script of the app.
    pub script_id: Option<Uuid>,
    /// Another host, or null for all.
    #[serde(deserialize_with = "nullable")]
    pub host: Option<Option<HostPattern>>,
    /// Sync or async.
    pub dispatch_mode: Option<DispatchMode>,
    /// When its rows are durable.
    pub durability: Option<Durability>,
    /// How bodies are read.
    pub body: Option<BodyMode>,
    /// Who may call.
    pub access: Option<Access>,
}

/// What a PATCH of a key may change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyPatch {
    /// A new name.
    pub name: Option<Name>,
    /// Another end, or null for none.
    #[serde(deserialize_with = "nullable")]
    pub expires_at: Option<Option<UnixMs>>,
}

/// The set-up inside the writer's transaction.
pub struct Changes<'a> {
    pub(super) txn: &'a WriteTransaction,
    catalog: &'a mut Catalog,
    ids: &'a Ids,
    /// Rows that this transaction put into the outbox.
    pub(crate) enqueued: Vec<Arc<Row>>,
    /// Bytes of dead letters that it removed.
    pub(crate) dead_bytes_freed: u64,
    /// Bytes of sources that it wrote.
    pub(crate) source_bytes_added: u64,
    /// Bytes of sources that it removed.
    pub(crate) source_bytes_freed: u64,
    /// Bytes that it was asked to keep, but for those rows.
    pub(crate) kept_bytes: Cell<u64>,
    /// How rows are made, and how many there may be.
    terms: Terms<'a>,
    /// Why nothing may be added, if so.
    full: Option<Full>,
    /// Changes that were refused for it.
    pub(crate) refused_full: u64,
}

/// How changes make rows.
pub(crate) struct Terms<'a> {
    /// The limit of scripts that name none.
    pub(crate) timeout_async: Duration,
    /// What the outbox has room for.
    pub(crate) room: Room,
    /// What each app has.
    pub(crate) shares: &'a Shares,
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Room {
    /// Whether so much fits.
    pub(crate) fn has(self, rows: u64, bytes: u64) -> bool {
        rows <= self.rows && bytes <= self.bytes
    }

    /// Takes so much.
    pub(crate) fn take(&mut self, rows: u64, bytes: u64) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

pub(super) type Changed<T> = Result<T, ChangeError>;

impl<'a> Changes<'a> {
    pub(crate) fn new(
        txn: &'a WriteTransaction,
        catalog: &'a mut Catalog,
        ids: &'a Ids,
        terms: Terms<'a>,
        full: Option<Full>,
    ) -> Changes<'a> {
        Changes {
            txn,
            catalog,
            ids,
            enqueued: Vec::new(),
            dead_bytes_freed: 0,
            source_bytes_added: 0,
            source_bytes_freed: 0,
            kept_bytes: Cell::new(0),
            terms,
            full,
            refused_full: 0,
        }
    }

    /// Refuses what adds something while the card is full; what takes something away need not ask.
    pub(super) fn check_storage(&mut self) -> Changed<()> {
        let Some(full) = self.full.clone() else { return Ok(()) };
        self.refused_full += 1;
        Err(ChangeError::StorageFull(full))
    }

    /// The set-up as this change finds it.
    pub fn catalog(&self) -> &Catalog {
        self.catalog
    }

    /// An id that comes after all others.
    pub fn new_id(&self) -> Uuid {
        self.ids.at(UnixMs::now())
    }

    /// Stores a new app.
    pub fn create_app(&mut self, app: App) -> Changed<Arc<App>> {
        self.check_storage()?;
        check_room(self.catalog.apps.len(), APPS_MAX, "apps")?;
        self.check_slug(app.id, &app.slug)?;
        put(self.txn, &self.kept_bytes, APPS, &mut self.catalog.apps, app.id, app)
    }

    /// Changes an app.
    pub fn update_app(&mut self, id: Uuid, patch: AppPatch, now: UnixMs) -> Changed<Arc<App>> {
        self.check_storage()?;
        let mut app = found(&self.catalog.apps, "app", id)?.as_ref().clone();
        app.slug = patch.slug.unwrap_or(app.slug);
        app.name = patch.name.unwrap_or(app.name);
        app.egress = patch.egress.unwrap_or(app.egress);
        app.limits = patch.limits.unwrap_or(app.limits);
        app.updated_at = now;
        self.check_slug(id, &app.slug)?;
        put(self.txn, &self.kept_bytes, APPS, &mut self.catalog.apps, id, app)
    }

    /// Removes an app with its domains, routes, triggers, scripts and secrets.
    pub fn delete_app(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.apps, "app", id)?;
        let of_app = |owner: Uuid| owner == id;
        let domains: Vec<Uuid> =
            self.catalog.domains.values().filter(|d| of_app(d.app_id)).map(|d| d.id).collect();
        let routes: Vec<Uuid> =
            self.catalog.routes.values().filter(|r| of_app(r.app_id)).map(|r| r.id).collect();
        let scripts: Vec<Uuid> =
            self.catalog.scripts.values().filter(|s| of_app(s.app_id)).map(|s| s.id).collect();
        for domain in domains {
            remove(self.txn, DOMAINS, &mut self.catalog.domains, domain)?;
        }
        for route in routes {
            remove(self.txn, ROUTES, &mut self.catalog.routes, route)?;
        }
        self.delete_triggers_of(id)?;
        for script in scripts {
            self.delete_script(script)?;
        }
        secrets::delete_all(self.txn, id)?;
        remove(self.txn, APPS, &mut self.catalog.apps, id)
    }

    fn check_slug(&self, id: Uuid, slug: &Slug) -> Changed<()> {
        match self.catalog.apps.values().find(|other| other.slug == *slug && other.id != id) {
            Some(_) => Err(ChangeError::Conflict(format!("slug: an app \"{slug}\" exists"))),
            None => Ok(()),
        }
    }

    /// Stores a new script with its first version.
    pub fn create_script(&mut self, script: Script, source: ScriptSource) -> Changed<Arc<Script>> {
        self.check_storage()?;
        check_room(self.catalog.scripts.len(), SCRIPTS_MAX, "scripts")?;
        found(&self.catalog.apps, "app", script.app_id)?;
        self.check_script_name(&script)?;
        self.put_version(script.id, script.active_version, source, script.created_at)?;
        put(self.txn, &self.kept_bytes, SCRIPTS, &mut self.catalog.scripts, script.id, script)
    }

    /// Changes a script; a source that differs from the active one becomes a new version and active.
    pub fn update_script(&mut self, id: Uuid, patch: ScriptPatch, now: UnixMs) -> Changed<Arc<Script>> {
        self.check_storage()?;
        let mut script = found(&self.catalog.scripts, "script", id)?.as_ref().clone();
        script.name = patch.name.unwrap_or(script.name);
        script.timeout_seconds = patch.timeout_seconds.unwrap_or(script.timeout_seconds);
        script.sandbox = patch.sandbox.unwrap_or(script.sandbox);
        script.access = patch.access.unwrap_or(script.access);
        script.updated_at = now;
        self.check_script_name(&script)?;
        if let Some(source) = patch.source
            && self.version(id, script.active_version)?.source != source
        {
            script.latest_version += 1;
            script.active_version = script.latest_version;
            self.put_version(id, script.latest_version, source, now)?;
            self.prune_versions(id, script.active_version)?;
        }
        put(self.txn, &self.kept_bytes, SCRIPTS, &mut self.catalog.scripts, id, script)
    }

    /// Makes an earlier (or later) version the active one.
    pub fn rollback_script(&mut self, id: Uuid, version: u32, now: UnixMs) -> Changed<Arc<Script>> {
        let mut script = found(&self.catalog.scripts, "script", id)?.as_ref().clone();
        self.version(id, version)?;
        script.active_version = version;
        script.updated_at = now;
        put(self.txn, &self.kept_bytes, SCRIPTS, &mut self.catalog.scripts, id, script)
    }

    /// Removes a script with its versions. Its routes stay and answer that the script is gone; its triggers stay and make
    /// no work.
    pub fn delete_script(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.scripts, "script", id)?;
        let span = (id.as_u128(), 0)..=(id.as_u128(), u32::MAX);
        let mut freed = 0;
        self.txn.open_table(VERSIONS)?.retain_in(span, |_, bytes| {
            freed += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            false
        })?;
        self.source_bytes_freed += freed;
        remove(self.txn, SCRIPTS, &mut self.catalog.scripts, id)
    }

    fn check_script_name(&self, script: &Script) -> Changed<()> {
        let twin = |other: &&Arc<Script>| {
            other.app_id == script.app_id && other.name == script.name && other.id != script.id
        };
        match self.catalog.scripts.values().find(twin) {
            Some(_) => Err(ChangeError::Conflict(format!("name: the app has a script \"{}\"", script.name))),
            None => Ok(()),
        }
    }

    fn version(&self, script: Uuid, version: u32) -> Changed<Version> {
        let table = self.txn.open_table(VERSIONS)?;
        let bytes = table.get((script.as_u128(), version))?;
        let bytes =
            bytes.ok_or_else(|| ChangeError::NotFound { what: "version", id: version.to_string() })?;
        Ok(codec::decode(bytes.value())?)
    }

    fn put_version(
        &mut self,
        script: Uuid,
        version: u32,
        source: ScriptSource,
        created_at: UnixMs,
    ) -> Changed<()> {
        let bytes = codec::encode(&Version { version, source, created_at });
        self.txn.open_table(VERSIONS)?.insert((script.as_u128(), version), bytes.as_slice())?;
        self.source_bytes_added += u64::try_from(bytes.len()).unwrap_or(0);
        self.kept_bytes.set(self.kept_bytes.get() + u64::try_from(bytes.len()).unwrap_or(0));
        Ok(())
    }

    fn prune_versions(&mut self, script: Uuid, active: u32) -> Changed<()> {
        let mut table = self.txn.open_table(VERSIONS)?;
        let span = (script.as_u128(), 0)..=(script.as_u128(), u32::MAX);
        let mut surplus = table.range(span.clone())?.count().saturating_sub(VERSIONS_MAX);
        let mut freed = 0;
        table.retain_in(span, |(_, version), bytes| {
            let goes = surplus > 0 && version != active;
            surplus -= usize::from(goes);
            freed += if goes { u64::try_from(bytes.len()).unwrap_or(u64::MAX) } else { 0 };
            !goes
        })?;
        self.source_bytes_freed += freed;
        Ok(())
    }

    /// Stores a route.
    pub fn create_route(&mut self, route: Route) -> Changed<Arc<Route>> {
        self.check_storage()?;
        check_room(self.catalog.routes.len(), ROUTES_MAX, "routes")?;
        found(&self.catalog.apps, "app", route.app_id)?;
        self.check_route(&route)?;
        put(self.txn, &self.kept_bytes, ROUTES, &mut self.catalog.routes, route.id, route)
    }

    /// Changes a route.
    pub fn update_route(&mut self, id: Uuid, patch: RoutePatch, now: UnixMs) -> Changed<Arc<Route>> {
        self.check_storage()?;
        let mut route = found(&self.catalog.routes, "route", id)?.as_ref().clone();
        route.method = patch.method.unwrap_or(route.method);
        route.path = patch.path.unwrap_or(route.path);
        route.script_id = patch.script_id.unwrap_or(route.script_id);
        route.host = patch.host.unwrap_or(route.host);
        route.dispatch_mode = patch.dispatch_mode.unwrap_or(route.dispatch_mode);
        route.durability = patch.durability.unwrap_or(route.durability);
        route.body = patch.body.unwrap_or(route.body);
        route.access = patch.access.unwrap_or(route.access);
        route.updated_at = now;
        self.check_route(&route)?;
        put(self.txn, &self.kept_bytes, ROUTES, &mut self.catalog.routes, id, route)
    }

    /// Removes a route.
    pub fn delete_route(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.routes, "route", id)?;
        remove(self.txn, ROUTES, &mut self.catalog.routes, id)
    }

    fn check_route(&self, route: &Route) -> Changed<()> {
        if route.path.shadows_api() {
            let why = "begins with /api, which is PiCloud's own; no request would reach it".to_owned();
            return Err(ChangeError::Invalid { field: "path", why });
        }
        match self.catalog.scripts.get(&route.script_id) {
            Some(script) if script.app_id == route.app_id => {}
            _ => {
                let why = format!("the app has no script {}", route.script_id);
                return Err(ChangeError::Invalid { field: "script_id", why });
            }
        }
        let shape = route.path.shape();
        let twin = |other: &&Arc<Route>| {
            other.app_id == route.app_id
                && other.id != route.id
                && other.host == route.host
                && other.method == route.method
                && other.path.shape() == shape
        };
        match self.catalog.routes.values().find(twin) {
            Some(other) => Err(ChangeError::Conflict(format!(
                "path: {} {} conflicts with {} {} (route {})",
                route.method, route.path, other.method, other.path, other.id
            ))),
            None => Ok(()),
        }
    }

    /// Stores a key.
    pub fn create_key(&mut self, key: Key) -> Changed<Arc<Key>> {
        self.check_storage()?;
        check_room(self.catalog.keys.len(), KEYS_MAX, "keys")?;
        self.check_key_name(key.id, &key.name)?;
        put(self.txn, &self.kept_bytes, KEYS, &mut self.catalog.keys, key.id, key)
    }

    /// Changes a key.
    pub fn update_key(&mut self, id: Uuid, patch: KeyPatch, now: UnixMs) -> Changed<Arc<Key>> {
        self.check_storage()?;
        let mut key = found(&self.catalog.keys, "key", id)?.as_ref().clone();
        key.name = patch.name.unwrap_or(key.name);
        key.expires_at = patch.expires_at.unwrap_or(key.expires_at);
        key.updated_at = now;
        self.check_key_name(id, &key.name)?;
        put(self.txn, &self.kept_bytes, KEYS, &mut self.catalog.keys, id, key)
    }

    /// Removes a key: from this commit on it opens nothing.
    pub fn delete_key(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.keys, "key", id)?;
        if self.catalog.keys.len() == 1 {
            return Err(ChangeError::Conflict("this is the last key; make another one first".into()));
        }
        remove(self.txn, KEYS, &mut self.catalog.keys, id)
    }

    fn check_key_name(&self, id: Uuid, name: &Name) -> Changed<()> {
        match self.catalog.keys.values().find(|other| other.name == *name && other.id != id) {
            Some(_) => Err(ChangeError::Conflict(format!("name: a key \"{name}\" exists"))),
            None => Ok(()),
        }
    }

    /// Takes a dead letter back into the outbox; `revive` makes the new row of it and
    /// of the id that it gets. One commit: it is never in both.
    pub fn redrive(
        &mut self,
        id: Uuid,
        revive: impl FnOnce(DeadLetter, Uuid) -> Changed<Row>,
    ) -> Changed<Arc<Row>> {
        self.check_storage()?;
        let letter = self.dead_letter(id)?;
        let row = Arc::new(revive(letter, self.new_id())?);
        if let Some(number) = row.pinned_version
            && self
                .version(row.script_id, number)
                .is_err_and(|error| matches!(error, ChangeError::NotFound { .. }))
        {
            let why = format!("version {number} of the script is not kept any more; use the active version");
            return Err(ChangeError::Conflict(why));
        }
        self.purge(id)?;
        self.txn
            .open_table(OUTBOX)?
            .insert(row.execution_id.as_u128(), codec::encode(row.as_ref()).as_slice())?;
        self.enqueued.push(row.clone());
        Ok(row)
    }

    /// Removes a dead letter for good.
    pub fn purge(&mut self, id: Uuid) -> Changed<()> {
        match self.txn.open_table(DEAD_LETTERS)?.remove(id.as_u128())? {
            Some(bytes) => {
                self.dead_bytes_freed += u64::try_from(bytes.value().len()).unwrap_or(0);
                Ok(())
            }
            None => Err(ChangeError::NotFound { what: "dead letter", id: id.to_string() }),
        }
    }

    /// Ids of dead letters that `keep` picks among the next hundred after `after`, oldest first, and where to go
    /// on; `None` at the end. Bounded, because it holds up the writer.
    pub fn dead_letter_ids(
        &self,
        after: Option<Uuid>,
        keep: impl Fn(&DeadLetter) -> bool,
    ) -> Changed<(Vec<Uuid>, Option<Uuid>)> {
        let mut ids = Vec::new();
        let table = self.txn.open_table(DEAD_LETTERS)?;
        let from = after.map_or(0, |id| id.as_u128().saturating_add(1));
        for (looked, entry) in table.range(from..)?.enumerate() {
            let letter: DeadLetter = codec::decode(entry?.1.value())?;
            if keep(&letter) {
                ids.push(letter.id);
            }
            if looked + 1 == LETTERS_PER_LOOK {
                return Ok((ids, Some(letter.id)));
            }
        }
        Ok((ids, None))
    }

    fn dead_letter(&self, id: Uuid) -> Changed<DeadLetter> {
        let table = self.txn.open_table(DEAD_LETTERS)?;
        let bytes = table.get(id.as_u128())?;
        let bytes = bytes.ok_or_else(|| ChangeError::NotFound { what: "dead letter", id: id.to_string() })?;
        Ok(codec::decode(bytes.value())?)
    }
}

type Shelf<T> = Arc<BTreeMap<Uuid, Arc<T>>>;

pub(super) fn found<'s, T>(shelf: &'s Shelf<T>, what: &'static str, id: Uuid) -> Changed<&'s Arc<T>> {
    shelf.get(&id).ok_or_else(|| ChangeError::NotFound { what, id: id.to_string() })
}

fn check_room(have: usize, most: usize, what: &str) -> Changed<()> {
    if have < most {
        return Ok(());
    }
    Err(ChangeError::Conflict(format!(
        "this device holds {have} {what}, as many as it may; remove one first"
    )))
}

fn put<T: Stored>(
    txn: &WriteTransaction,
    kept_bytes: &Cell<u64>,
    table: TableDefinition<'_, u128, &[u8]>,
    shelf: &mut Shelf<T>,
    id: Uuid,
    value: T,
) -> Changed<Arc<T>> {
    let bytes = codec::encode(&value);
    txn.open_table(table)?.insert(id.as_u128(), bytes.as_slice())?;
    kept_bytes.set(kept_bytes.get() + u64::try_from(bytes.len()).unwrap_or(0));
    let value = Arc::new(value);
    Arc::make_mut(shelf).insert(id, value.clone());
    Ok(value)
}

fn remove<T>(
    txn: &WriteTransaction,
    table: TableDefinition<'_, u128, &[u8]>,
    shelf: &mut Shelf<T>,
    id: Uuid,
) -> Changed<()> {
    txn.open_table(table)?.remove(id.as_u128()).map_err(Error::from)?;
    Arc::make_mut(shelf).remove(&id);
    Ok(())
}
