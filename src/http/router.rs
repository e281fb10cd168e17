//! The route table: whose host, which route. In memory, immutable, built from the catalog and swapped whole.
//!
//! Segments decide in the contract's order, literal before `{param}` before `{*rest}`, from left to right, and a
//! choice that leads nowhere is taken back. Ready-made matchers refuse `/a/{x}` beside `/a/{*rest}`, which the
//! contract allows; hence this trie.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::model::{self, App, Host, HostPattern, Key, Route, Script, Session, User};
use crate::store::Catalog;

/// Everything a request is held against.
#[derive(Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Arc<AppTable>>,
    wildcard: HashMap<Box<str>, Arc<AppTable>>,
    catch_all: Option<Arc<AppTable>>,
    by_app: HashMap<Uuid, Arc<AppTable>>,
    scripts: Arc<std::collections::BTreeMap<Uuid, Arc<Script>>>,
    keys: HashMap<[u8; 32], Arc<Key>>,
    sessions: HashMap<[u8; 32], (Arc<Session>, Arc<User>)>,
}

/// The routes of one app.
pub struct AppTable {
    app: Arc<App>,
    routes: Vec<Arc<Route>>,
    scripts: Vec<Option<Arc<Script>>>,
    /// Tries of routes that name a host, the most precise host first.
    hosts: Vec<(HostPattern, Node)>,
    any_host: Node,
}

/// A route and what it leads to.
pub struct Target {
    /// The route.
    pub route: Arc<Route>,
    /// Its script; `None` if it was removed.
    pub script: Option<Arc<Script>>,
}

/// A route that takes a request.
pub struct Match {
    /// Which.
    pub target: Arc<Target>,
    /// Decoded parameters by name, in the pattern's order.
    pub params: Vec<(String, String)>,
    /// Decoded rest; empty without `{*rest}`.
    pub rest: String,
}

#[derive(Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    param: Option<Box<Node>>,
    here: Leaf,
    rest: Leaf,
}

/// The routes that end at a node: those of one method, and that of any.
#[derive(Default)]
struct Leaf {
    named: Vec<Arc<Target>>,
    any: Option<Arc<Target>>,
}

impl RouteTable {
    /// Builds the table. What `old` has of unchanged apps is taken over.
    pub fn build(catalog: &Catalog, old: &RouteTable) -> RouteTable {
        let mut routes: HashMap<Uuid, Vec<Arc<Route>>> = HashMap::new();
        for route in catalog.routes.values() {
            routes.entry(route.app_id).or_default().push(route.clone());
        }
        let by_app: HashMap<Uuid, Arc<AppTable>> = catalog
            .apps
            .values()
            .map(|app| {
                let routes = routes.remove(&app.id).unwrap_or_default();
                (app.id, AppTable::reuse_or_build(app, routes, catalog, old.by_app.get(&app.id)))
            })
            .collect();
        let keys = catalog.keys.values().map(|key| (key.hash, key.clone())).collect();
        let sessions = catalog.sessions.values().filter_map(|session| {
            let user = catalog.users.get(&session.user_id)?;
            Some((session.hash, (session.clone(), user.clone())))
        });
        let sessions = sessions.collect();
        let scripts = catalog.scripts.clone();
        let mut table = RouteTable { by_app, scripts, keys, sessions, ..RouteTable::default() };
        for domain in catalog.domains.values() {
            if let Some(app) = table.by_app.get(&domain.app_id).cloned() {
                table.claim(&domain.pattern, app);
            }
        }
        table
    }

    fn claim(&mut self, pattern: &HostPattern, app: Arc<AppTable>) {
        if pattern.is_catch_all() {
            self.catch_all = Some(app);
        } else if let Some(suffix) = pattern.suffix() {
            self.wildcard.insert(suffix.into(), app);
        } else {
            self.exact.insert(pattern.as_str().into(), app);
        }
    }

    /// The app that claims this host: exactly, by the longest wildcard, or by `*`.
    pub fn app(&self, host: &Host<'_>) -> Option<&Arc<AppTable>> {
        let host = host.as_str();
        if let Some(app) = self.exact.get(host) {
            return Some(app);
        }
        if !self.wildcard.is_empty() {
            // Skips a leading dot: a wildcard stands for at least one character.
            let dots = host.char_indices().skip(1).filter(|(_, c)| *c == '.');
            let suffixes = dots.map(|(at, _)| &host[at..]);
            if let Some(app) = suffixes.into_iter().find_map(|suffix| self.wildcard.get(suffix)) {
                return Some(app);
            }
        }
        self.catch_all.as_ref()
    }

    /// The routes of an app, whatever hosts it claims.
    pub fn app_by_id(&self, app: Uuid) -> Option<&Arc<AppTable>> {
        self.by_app.get(&app)
    }

    /// A script, by id.
    pub fn script(&self, id: Uuid) -> Option<&Arc<Script>> {
        self.scripts.get(&id)
    }

    /// A key, by the hash of its secret.
    pub fn key(&self, hash: &[u8; 32]) -> Option<&Arc<Key>> {
        self.keys.get(hash)
    }

    /// The session with this hash, and whose it is.
    pub fn session(&self, hash: &[u8; 32]) -> Option<&(Arc<Session>, Arc<User>)> {
        self.sessions.get(hash)
    }
}

impl AppTable {
    fn reuse_or_build(
        app: &Arc<App>,
        routes: Vec<Arc<Route>>,
        catalog: &Catalog,
        old: Option<&Arc<AppTable>>,
    ) -> Arc<AppTable> {
        let scripts: Vec<_> =
            routes.iter().map(|route| catalog.scripts.get(&route.script_id).cloned()).collect();
        let same_scripts = |old: &AppTable| {
            let pairs = old.scripts.iter().zip(&scripts);
            old.scripts.len() == scripts.len()
                && pairs.into_iter().all(|(a, b)| a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr))
        };
        let same_routes = |old: &AppTable| {
            old.routes.len() == routes.len() && old.routes.iter().zip(&routes).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        match old {
            Some(old) if Arc::ptr_eq(&old.app, app) && same_routes(old) && same_scripts(old) => old.clone(),
            _ => Arc::new(AppTable::build(app.clone(), routes, scripts)),
        }
    }

    fn build(app: Arc<App>, routes: Vec<Arc<Route>>, scripts: Vec<Option<Arc<Script>>>) -> AppTable {
        let (mut any_host, mut hosts) = (Node::default(), HashMap::<HostPattern, Node>::new());
        for (route, script) in routes.iter().zip(&scripts) {
            let target = Arc::new(Target { route: route.clone(), script: script.clone() });
            match &route.host {
                None => any_host.insert(target),
                Some(host) => hosts.entry(host.clone()).or_default().insert(target),
            }
        }
        let mut hosts: Vec<_> = hosts.into_iter().collect();
        hosts.sort_by_key(|(host, _)| std::cmp::Reverse(host.precedence()));
        AppTable { app, routes, scripts, hosts, any_host }
    }

    /// The app.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The route that takes this request: by host, then path, then method. `path` is as it was sent.
    pub fn find(&self, host: &Host<'_>, method: &str, path: &str) -> Option<Match> {
        let path = model::normalise_path(path);
        let segments = path.strip_prefix('/')?;
        let hosts = self.hosts.iter().filter(|(pattern, _)| pattern.matches(host)).map(|(_, node)| node);
        hosts.chain([&self.any_host]).find_map(|node| node.find(segments, method))
    }
}

impl Node {
    fn insert(&mut self, target: Arc<Target>) {
        let path = target.route.path.normalised().into_owned();
        let mut node = self;
        for segment in path.split('/').skip(1) {
            match segment.strip_prefix('{') {
                Some(name) if name.starts_with('*') => return node.rest.insert(target),
                Some(_) => node = node.param.get_or_insert_default(),
                None => node = node.literals.entry(segment.into()).or_default(),
            }
        }
        node.here.insert(target);
    }

    fn find(&self, segments: &str, method: &str) -> Option<Match> {
        let mut values = Vec::new();
        let (target, rest) = self.walk(Some(segments), method, &mut values)?;
        let pattern = target.route.path.normalised();
        let names = pattern.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
        let decoded = |value: &str| model::decode_param(value).into_owned();
        let params = names.zip(&values).map(|(name, value)| (name.to_owned(), decoded(value))).collect();
        let rest: Vec<String> = rest.split('/').map(decoded).collect();
        Some(Match { params, rest: rest.join("/"), target: target.clone() })
    }

    /// Visits each node at most once, so it is bounded by the number of routes whatever the path.
    fn walk<'t, 'p>(
        &'t self,
        left: Option<&'p str>,
        method: &str,
        values: &mut Vec<&'p str>,
    ) -> Option<(&'t Arc<Target>, &'p str)> {
        let Some(left) = left else {
            return self.here.find(method).map(|target| (target, ""));
        };
        let (segment, after) = match left.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (left, None),
        };
        let literal = self.literals.get(segment).and_then(|node| node.walk(after, method, values));
        if literal.is_some() {
            return literal;
        }
        if let Some(param) = &self.param
            && !segment.is_empty()
        {
            values.push(segment);
            let found = param.walk(after, method, values);
            if found.is_some() {
                return found;
            }
            values.pop();
        }
        self.rest.find(method).map(|target| (target, left))
    }
}

impl Leaf {
    fn insert(&mut self, target: Arc<Target>) {
        if target.route.method.is_any() { self.any = Some(target) } else { self.named.push(target) }
    }

    fn find(&self, method: &str) -> Option<&Arc<Target>> {
        self.named.iter().find(|target| target.route.method.as_str() == method).or(self.any.as_ref())
    }
}

/// The host of a request: of an absolute target (RFC 9112 3.2.2), else of its `Host` header.
pub(super) fn request_host(parts: &hyper::http::request::Parts) -> Cow<'_, str> {
    if let Some(authority) = parts.uri.authority() {
        return authority.as_str().into();
    }
    let header = parts.headers.get(hyper::header::HOST);
    header.map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default()
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
