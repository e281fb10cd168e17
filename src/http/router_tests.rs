//! The route table against the contract, by rows and against a naive matcher.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::{
    Access, AppLimits, BodyMode, DispatchMode, Domain, Durability, Egress, Name, Slug, UnixMs,
};

/// Slug, claims, and routes as a method and a host with a path.
type Sketch<'s> = (&'s str, &'s [&'s str], &'s [(&'s str, &'s str)]);

fn catalog(apps: &[Sketch<'_>]) -> Catalog {
    let mut catalog = Catalog::default();
    let mut next = 0;
    let mut id = || {
        next += 1;
        Uuid::from_u128(next)
    };
    let now = UnixMs(0);
    for (slug, domains, routes) in apps {
        let app_id = id();
        let (slug, name): (Slug, Name) = (slug.parse().unwrap(), slug.parse().unwrap());
        let app = App {
            id: app_id,
            slug,
            name,
            egress: Egress::default(),
            limits: AppLimits::default(),
            created_at: now,
            updated_at: now,
        };
        Arc::make_mut(&mut catalog.apps).insert(app_id, Arc::new(app));
        for pattern in *domains {
            let pattern = pattern.parse().unwrap();
            let domain = Domain {
                id: id(),
                app_id,
                pattern,
                tls: Default::default(),
                created_at: now,
                updated_at: now,
            };
            Arc::make_mut(&mut catalog.domains).insert(domain.id, Arc::new(domain));
        }
        for (method, target) in *routes {
            let (host, path) = target.split_at(target.find('/').unwrap());
            let route = Route {
                id: id(),
                app_id,
                script_id: Uuid::nil(),
                host: (!host.is_empty()).then(|| host.parse().unwrap()),
                method: method.parse().unwrap(),
                path: path.parse().unwrap(),
                dispatch_mode: DispatchMode::Sync,
                durability: Durability::Auto,
                body: BodyMode::Json,
                access: Access::Public,
                created_at: now,
                updated_at: now,
            };
            Arc::make_mut(&mut catalog.routes).insert(route.id, Arc::new(route));
        }
    }
    catalog
}

fn table(apps: &[Sketch<'_>]) -> RouteTable {
    RouteTable::build(&catalog(apps), &RouteTable::default())
}

/// What takes `method` on `host` and `path`: the app and the pattern, with parameters and rest.
fn ask(table: &RouteTable, host: &str, method: &str, path: &str) -> String {
    let host = Host::from_header(host);
    let Some(app) = table.app(&host) else { return "no app".into() };
    let Some(found) = app.find(&host, method, path) else { return format!("{}: no route", app.app().slug) };
    let route = &found.target.route;
    let host = route.host.as_ref().map_or("", HostPattern::as_str);
    let params: Vec<String> = found.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{}: {} {host}{} [{}] {}", app.app().slug, route.method, route.path, params.join(" "), found.rest)
}

#[test]
fn hosts_go_to_the_app_with_the_best_claim() {
    let every = ("any", &["*"][..], &[("ANY", "/{*rest}")][..]);
    let wide = ("wide", &["*.example.org"][..], &[][..]);
    let deep = ("deep", &["*.a.example.org"][..], &[][..]);
    let exact = ("exact", &["example.org", "x.a.example.org", "::1"][..], &[][..]);
    let table = table(&[every, wide, deep, exact]);
    for (host, app) in [
        ("example.org", "exact"),
        ("EXAMPLE.org.:80", "exact"),
        ("[::1]:8080", "exact"),
        ("x.a.example.org", "exact"),
        ("y.a.example.org", "deep"),
        ("a.example.org", "wide"),
        ("b.c.example.org", "wide"),
        ("example.com", "any"),
        ("", "any"),
        (".example.org", "any"),
    ] {
        let said = ask(&table, host, "GET", "/");
        assert!(said.starts_with(&format!("{app}:")), "{host}: {said}");
    }
}

#[test]
fn without_a_claim_there_is_no_app() {
    assert_eq!(ask(&table(&[("a", &["a.org"], &[("GET", "/")])]), "b.org", "GET", "/"), "no app");
}

#[test]
fn paths_and_methods_go_to_the_most_precise_route() {
    let routes = [
        ("GET", "/"),
        ("GET", "/a/{x}"),
        ("GET", "/a/b"),
        ("POST", "/a/c"),
        ("ANY", "/a/{*rest}"),
        ("GET", "/a/{x}/d"),
        ("ANY", "/m"),
        ("GET", "/m"),
        ("GET", "/caf%C3%A9/{name}"),
        ("GET", "/files/{*path}"),
        ("GET", "/{one}/two/{three}"),
        ("GET", "my.org/a/b"),
        ("GET", "*.org/a/b"),
    ];
    let table = table(&[("app", &["*"], &routes)]);
    for (host, method, path, taken) in [
        ("h", "GET", "/", "GET / [] "),
        ("h", "GET", "/a/b", "GET /a/b [] "),
        ("h", "GET", "/a/z", "GET /a/{x} [x=z] "),
        ("h", "GET", "/a/c", "GET /a/{x} [x=c] "),
        ("h", "POST", "/a/c", "POST /a/c [] "),
        ("h", "POST", "/a/b", "ANY /a/{*rest} [] b"),
        ("h", "BREW", "/a/b/c", "ANY /a/{*rest} [] b/c"),
        ("h", "GET", "/a/b/d", "GET /a/{x}/d [x=b] "),
        ("h", "GET", "/a/b/e", "ANY /a/{*rest} [] b/e"),
        ("h", "GET", "/m", "GET /m [] "),
        ("h", "PUT", "/m", "ANY /m [] "),
        ("h", "GET", "/café/x", "GET /caf%C3%A9/{name} [name=x] "),
        ("h", "GET", "/caf%c3%a9/J%C3%BCrgen", "GET /caf%C3%A9/{name} [name=Jürgen] "),
        ("h", "GET", "/a/x%2Fy", "GET /a/{x} [x=x/y] "),
        ("h", "GET", "/files/", "GET /files/{*path} [] "),
        ("h", "GET", "/files/a%20b/c", "GET /files/{*path} [] a b/c"),
        ("h", "GET", "/one/two/3", "GET /{one}/two/{three} [one=one three=3] "),
        ("my.org", "GET", "/a/b", "GET my.org/a/b [] "),
        ("your.org", "GET", "/a/b", "GET *.org/a/b [] "),
        ("my.org", "GET", "/a/q", "GET /a/{x} [x=q] "),
    ] {
        assert_eq!(ask(&table, host, method, path), format!("app: {taken}"), "{method} {host} {path}");
    }
    for (method, path) in [
        ("GET", "/a"),
        ("GET", "/files"),
        ("PUT", "/"),
        ("GET", "//"),
        ("GET", "/one/two/"),
        ("OPTIONS", "*"),
    ] {
        assert_eq!(ask(&table, "h", method, path), "app: no route", "{method} {path}");
    }
}

#[test]
fn an_unchanged_app_keeps_its_table() {
    let one = catalog(&[("a", &["*"], &[("GET", "/")]), ("b", &[], &[("GET", "/")])]);
    let old = RouteTable::build(&one, &RouteTable::default());
    let mut two = one.clone();
    let b = one.app("b").unwrap().id;
    Arc::make_mut(&mut two.routes).retain(|_, route| route.app_id != b);
    let new = RouteTable::build(&two, &old);
    let a = one.app("a").unwrap().id;
    assert!(Arc::ptr_eq(&old.by_app[&a], &new.by_app[&a]));
    assert!(!Arc::ptr_eq(&old.by_app[&b], &new.by_app[&b]));
}

/// The contract read naively: all routes that match, the best of them by segments from the left, then by method.
fn naive<'r>(routes: &'r [(String, String)], method: &str, path: &str) -> Option<&'r (String, String)> {
    let segments: Vec<&str> = path[1..].split('/').collect();
    let rank = |pattern: &str| -> Option<Vec<u8>> {
        let parts: Vec<&str> = pattern[1..].split('/').collect();
        let mut ranks = vec![];
        for (at, part) in parts.iter().enumerate() {
            if part.starts_with("{*") {
                ranks.push(2);
                return (at < segments.len()).then_some(ranks);
            }
            let segment = segments.get(at)?;
            match part.starts_with('{') {
                true if !segment.is_empty() => ranks.push(1),
                false if part == segment => ranks.push(0),
                _ => return None,
            }
        }
        (parts.len() == segments.len()).then_some(ranks)
    };
    let fits = routes.iter().filter(|(named, _)| named == method || named == "ANY");
    fits.filter_map(|route| Some((rank(&route.1)?, route.0 == "ANY", route))).min().map(|(_, _, route)| route)
}

fn pattern() -> impl Strategy<Value = String> {
    let segment =
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just(String::new()), Just("{}".to_owned())];
    (prop::collection::vec(segment, 1..4), any::<bool>()).prop_map(|(segments, rest)| {
        let mut path = String::new();
        for (at, segment) in segments.iter().enumerate() {
            let named = if segment == "{}" { format!("{{p{at}}}") } else { segment.clone() };
            path = format!("{path}/{named}");
        }
        if rest { path + "/{*rest}" } else { path }
    })
}

proptest! {
    #[test]
    fn the_trie_agrees_with_the_naive_matcher(
        routes in prop::collection::btree_set(("(GET|POST|ANY)", pattern()), 0..12),
        path in "(/[abc]?){1,4}",
        method in "(GET|POST|PUT)",
    ) {
        let routes: Vec<(String, String)> = routes.into_iter().collect();
        let borrowed: Vec<(&str, &str)> = routes.iter().map(|(method, path)| (method.as_str(), path.as_str())).collect();
        let table = table(&[("a", &["*"], &borrowed)]);
        let host = Host::from_header("h");
        let found = table.app(&host).unwrap().find(&host, &method, &path);
        let found = found.map(|found| (found.target.route.method.to_string(), found.target.route.path.to_string()));
        prop_assert_eq!(found.as_ref(), naive(&routes, &method, &path));
    }
}
