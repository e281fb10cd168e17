//! The set-up in the reference: apps and what belongs to them, and the commands of the management API.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::found::Found;
use super::world::{Item, Shelf, World, put, revived, shelf_differs};
use crate::model::{
    App, Domain, HostPattern, Key, Name, PathPattern, Route, Script, ScriptSource, Slug, UnixMs, User,
    Version,
};
use crate::store::catalog::Catalog;
use crate::store::{
    AppPatch, ChangeError, Changes, DomainPatch, KeyPatch, RoutePatch, ScriptPatch, Settings,
};

/// Versions that the store keeps of a script.
const VERSIONS_KEPT: usize = 100;

/// A management command.
#[derive(Clone, Debug)]
pub(super) enum Op {
    CreateApp(App),
    RenameApp { id: Uuid, slug: Slug, name: Name, now: UnixMs },
    DeleteApp(Uuid),
    CreateDomain(Domain),
    MoveDomain { id: Uuid, pattern: HostPattern, now: UnixMs },
    DeleteDomain(Uuid),
    CreateScript(Script, ScriptSource),
    Source { id: Uuid, source: ScriptSource, now: UnixMs },
    Rollback { id: Uuid, version: u32, now: UnixMs },
    DeleteScript(Uuid),
    CreateRoute(Route),
    MoveRoute { id: Uuid, path: PathPattern, now: UnixMs },
    DeleteRoute(Uuid),
    CreateKey(Key),
    RenameKey { id: Uuid, name: Name, now: UnixMs },
    DeleteKey(Uuid),
    Redrive { letter: Uuid, execution: Uuid, now: UnixMs },
    Purge(Uuid),
}

impl Op {
    /// Asks the store for it.
    pub(super) fn make(self, desk: &mut Changes<'_>) -> Result<(), ChangeError> {
        match self {
            Op::CreateApp(app) => desk.create_app(app).map(drop),
            Op::RenameApp { id, slug, name, now } => desk
                .update_app(
                    id,
                    AppPatch { slug: Some(slug), name: Some(name), egress: None, limits: None },
                    now,
                )
                .map(drop),
            Op::DeleteApp(id) => desk.delete_app(id),
            Op::CreateDomain(domain) => desk.create_domain(domain).map(drop),
            Op::MoveDomain { id, pattern, now } => {
                let patch = DomainPatch { pattern: Some(pattern), tls: None };
                desk.update_domain(id, patch, now).map(drop)
            }
            Op::DeleteDomain(id) => desk.delete_domain(id),
            Op::CreateScript(script, source) => desk.create_script(script, source).map(drop),
            Op::Source { id, source, now } => {
                let patch = ScriptPatch { source: Some(source), ..ScriptPatch::default() };
                desk.update_script(id, patch, now).map(drop)
            }
            Op::Rollback { id, version, now } => desk.rollback_script(id, version, now).map(drop),
            Op::DeleteScript(id) => desk.delete_script(id),
            Op::CreateRoute(route) => desk.create_route(route).map(drop),
            Op::MoveRoute { id, path, now } => {
                desk.update_route(id, RoutePatch { path: Some(path), ..RoutePatch::default() }, now).map(drop)
            }
            Op::DeleteRoute(id) => desk.delete_route(id),
            Op::CreateKey(key) => desk.create_key(key).map(drop),
            Op::RenameKey { id, name, now } => {
                desk.update_key(id, KeyPatch { name: Some(name), expires_at: None }, now).map(drop)
            }
            Op::DeleteKey(id) => desk.delete_key(id),
            Op::Redrive { letter, execution, now } => {
                desk.redrive(letter, |letter, _| Ok(revived(letter, execution, now))).map(drop)
            }
            Op::Purge(id) => desk.purge(id),
        }
    }

    /// Does it to the reference. False if it must be refused; then nothing was changed.
    pub(super) fn apply(&self, world: &mut World) -> bool {
        let setup = &mut world.setup;
        match self.clone() {
            Op::CreateApp(app) => setup.is_slug_free(&app) && setup.put_app(app),
            Op::RenameApp { id, slug, name, now } => {
                let app = of(&setup.apps, id).map(|app| App { slug, name, updated_at: now, ..app });
                app.is_some_and(|app| setup.is_slug_free(&app) && setup.put_app(app))
            }
            Op::DeleteApp(id) => setup.delete_app(id),
            Op::CreateDomain(domain) => setup.put_domain(domain),
            Op::MoveDomain { id, pattern, now } => of(&setup.domains, id)
                .is_some_and(|domain| setup.put_domain(Domain { pattern, updated_at: now, ..domain })),
            Op::DeleteDomain(id) => setup.domains.remove(&id.as_u128()).is_some(),
            Op::CreateScript(script, source) => setup.create_script(script, source),
            Op::Source { id, source, now } => setup.new_source(id, source, now),
            Op::Rollback { id, version, now } => setup.rollback(id, version, now),
            Op::DeleteScript(id) => setup.delete_script(id),
            Op::CreateRoute(route) => setup.put_route(route),
            Op::MoveRoute { id, path, now } => of(&setup.routes, id)
                .is_some_and(|route| setup.put_route(Route { path, updated_at: now, ..route })),
            Op::DeleteRoute(id) => setup.routes.remove(&id.as_u128()).is_some(),
            Op::CreateKey(key) => setup.put_key(key),
            Op::RenameKey { id, name, now } => {
                of(&setup.keys, id).is_some_and(|key| setup.put_key(Key { name, updated_at: now, ..key }))
            }
            Op::DeleteKey(id) => setup.keys.len() > 1 && setup.keys.remove(&id.as_u128()).is_some(),
            Op::Redrive { letter, execution, now } => world.redrive(letter.as_u128(), execution, now),
            Op::Purge(id) => world.letters.remove(&id.as_u128()).is_some(),
        }
    }
}

/// What the device is set up to do.
#[derive(Clone, Debug, Default)]
pub(super) struct SetUp {
    pub(super) apps: Shelf<App>,
    pub(super) domains: Shelf<Domain>,
    pub(super) scripts: Shelf<Script>,
    pub(super) routes: Shelf<Route>,
    pub(super) keys: Shelf<Key>,
    pub(super) users: Shelf<User>,
    pub(super) versions: BTreeMap<(u128, u32), Arc<Item<Version>>>,
    /// Whether a source came or went since the bounds were looked at.
    pub(super) touched: bool,
}

fn of<T: Clone>(shelf: &Shelf<T>, id: Uuid) -> Option<T> {
    shelf.get(&id.as_u128()).map(|item| item.value.clone())
}

fn all<T>(shelf: &Shelf<T>) -> impl Iterator<Item = &T> {
    shelf.values().map(|item| &item.value)
}

impl SetUp {
    fn is_slug_free(&self, app: &App) -> bool {
        all(&self.apps).all(|other| other.slug != app.slug || other.id == app.id)
    }

    fn put_app(&mut self, app: App) -> bool {
        put(&mut self.apps, app.id, app);
        true
    }

    fn delete_app(&mut self, id: Uuid) -> bool {
        self.domains.retain(|_, domain| domain.value.app_id != id);
        self.routes.retain(|_, route| route.value.app_id != id);
        let scripts: Vec<Uuid> =
            all(&self.scripts).filter(|script| script.app_id == id).map(|script| script.id).collect();
        for script in scripts {
            self.delete_script(script);
        }
        self.apps.remove(&id.as_u128()).is_some()
    }

    fn put_domain(&mut self, domain: Domain) -> bool {
        let taken = all(&self.domains).any(|other| other.pattern == domain.pattern && other.id != domain.id);
        let may = !taken && self.apps.contains_key(&domain.app_id.as_u128());
        if may {
            put(&mut self.domains, domain.id, domain);
        }
        may
    }

    fn create_script(&mut self, script: Script, source: ScriptSource) -> bool {
        let twin = |other: &Script| other.app_id == script.app_id && other.name == script.name;
        if all(&self.scripts).any(twin) || !self.apps.contains_key(&script.app_id.as_u128()) {
            return false;
        }
        self.put_version(script.id, 1, source, script.created_at);
        put(&mut self.scripts, script.id, script);
        true
    }

    fn new_source(&mut self, id: Uuid, source: ScriptSource, now: UnixMs) -> bool {
        let Some(mut script) = of(&self.scripts, id) else { return false };
        script.updated_at = now;
        if self.versions[&(id.as_u128(), script.active_version)].value.source != source {
            script.latest_version += 1;
            script.active_version = script.latest_version;
            self.put_version(id, script.latest_version, source, now);
            let of_script = self.versions.range((id.as_u128(), 0)..=(id.as_u128(), u32::MAX));
            let kept: Vec<(u128, u32)> = of_script.map(|(key, _)| *key).collect();
            let surplus = kept.len().saturating_sub(VERSIONS_KEPT);
            kept[..surplus].iter().for_each(|key| drop(self.versions.remove(key)));
        }
        put(&mut self.scripts, id, script);
        true
    }

    fn rollback(&mut self, id: Uuid, version: u32, now: UnixMs) -> bool {
        let Some(mut script) = of(&self.scripts, id) else { return false };
        let there = self.versions.contains_key(&(id.as_u128(), version));
        if there {
            script.active_version = version;
            script.updated_at = now;
            put(&mut self.scripts, id, script);
        }
        there
    }

    fn delete_script(&mut self, id: Uuid) -> bool {
        let before = self.versions.len();
        self.versions.retain(|(script, _), _| *script != id.as_u128());
        self.touched |= self.versions.len() < before;
        self.scripts.remove(&id.as_u128()).is_some()
    }

    fn put_version(&mut self, script: Uuid, version: u32, source: ScriptSource, created_at: UnixMs) {
        let version = Version { version, source, created_at };
        let key = (script.as_u128(), version.version);
        self.versions.insert(key, Item::new(version));
        self.touched = true;
    }

    /// Drops old sources after a batch: too many bytes, then a tenth more, or too old. Active ones stay. They are
    /// looked at when one came or went, or at a checkpoint; the age only once a day.
    pub(super) fn drop_sources(
        &mut self,
        settings: &Settings,
        day_due: bool,
        checkpoint: bool,
        now: UnixMs,
    ) -> bool {
        let touched = std::mem::take(&mut self.touched);
        let weigh = |item: &Arc<Item<Version>>| u64::try_from(item.bytes.len()).unwrap();
        let mut held: u64 = self.versions.values().map(weigh).sum();
        let over = held > settings.versions_bytes_max;
        if !(touched || (checkpoint && day_due)) || !(over || day_due) {
            return false;
        }
        let goal = if over { settings.versions_bytes_max / 10 * 9 } else { settings.versions_bytes_max };
        let active = |(script, number): &(u128, u32)| {
            self.scripts.get(script).is_some_and(|script| script.value.active_version == *number)
        };
        let mut idle: Vec<(UnixMs, (u128, u32))> = self
            .versions
            .iter()
            .filter(|(key, _)| !active(key))
            .map(|(key, item)| (item.value.created_at, *key))
            .collect();
        idle.sort();
        for (created_at, key) in idle {
            if held > goal || now.since(created_at) > settings.versions_age_max {
                held -= self.versions.remove(&key).map_or(0, |version| weigh(&version));
            }
        }
        true
    }

    /// The simulation's paths are plain: two are in each other's way if they are the same.
    fn put_route(&mut self, route: Route) -> bool {
        let script = of(&self.scripts, route.script_id);
        let twin = |other: &Route| {
            other.id != route.id
                && (other.app_id, other.method.as_str(), other.path.as_str())
                    == (route.app_id, route.method.as_str(), route.path.as_str())
        };
        let may = self.apps.contains_key(&route.app_id.as_u128())
            && !route.path.as_str().starts_with("/api")
            && script.is_some_and(|script| script.app_id == route.app_id)
            && !all(&self.routes).any(twin);
        if may {
            put(&mut self.routes, route.id, route);
        }
        may
    }

    fn put_key(&mut self, key: Key) -> bool {
        let free = all(&self.keys).all(|other| other.name != key.name || other.id == key.id);
        if free {
            put(&mut self.keys, key.id, key);
        }
        free
    }

    /// Where the tables of a file are not this.
    pub(super) fn differs(&self, found: &Found) -> Option<String> {
        let versions = self.versions.iter().map(|(key, item)| (key, &item.bytes));
        shelf_differs("app", &self.apps, &found.apps)
            .or_else(|| shelf_differs("domain", &self.domains, &found.domains))
            .or_else(|| shelf_differs("script", &self.scripts, &found.scripts))
            .or_else(|| shelf_differs("route", &self.routes, &found.routes))
            .or_else(|| shelf_differs("key", &self.keys, &found.keys))
            .or_else(|| shelf_differs("user", &self.users, &found.users))
            .or_else(|| (!versions.eq(&found.versions)).then(|| "the script versions are others".to_owned()))
    }

    /// Whether the catalog that the store holds in memory is this.
    pub(super) fn is_in_memory(&self, catalog: &Catalog) -> bool {
        fn same<T: PartialEq>(shelf: &Shelf<T>, other: &BTreeMap<Uuid, Arc<T>>) -> bool {
            let held = other.iter().map(|(id, value)| (id.as_u128(), value.as_ref()));
            shelf.iter().map(|(id, item)| (*id, &item.value)).eq(held)
        }
        same(&self.apps, &catalog.apps)
            && same(&self.domains, &catalog.domains)
            && same(&self.scripts, &catalog.scripts)
            && same(&self.routes, &catalog.routes)
            && same(&self.keys, &catalog.keys)
            && same(&self.users, &catalog.users)
    }
}
