//! Whose host a request is for.

use serde_json::{Value, json};

use crate::harness::{Daemon, id};

/// An app whose every path answers with its slug.
fn app(daemon: &Daemon, slug: &str, patterns: &[&str]) {
    daemon.done("POST", "/apps", json!({ "slug": slug, "name": slug }));
    for pattern in patterns {
        daemon.done("POST", &format!("/apps/{slug}/domains"), json!({ "pattern": pattern }));
    }
    let script = json!({ "name": "who", "source": format!("\"{slug}\"") });
    let script = id(&daemon.done("POST", &format!("/apps/{slug}/scripts"), script));
    let route = json!({ "method": "ANY", "path": "/{*rest}", "script_id": script });
    daemon.done("POST", &format!("/apps/{slug}/routes"), route);
}

#[test]
fn the_most_precise_claim_wins() {
    let daemon = Daemon::start();
    app(&daemon, "exact", &["shop.example.org", "192.168.7.7", "::1"]);
    app(&daemon, "long", &["*.shop.example.org"]);
    app(&daemon, "short", &["*.example.org"]);
    daemon.done("DELETE", "/apps/default", Value::Null);
    app(&daemon, "rest", &["*"]);
    for (host, slug) in [
        ("shop.example.org", "exact"),
        ("SHOP.Example.ORG", "exact"),
        ("shop.example.org.", "exact"),
        ("shop.example.org:8080", "exact"),
        ("Shop.example.org.:80", "exact"),
        ("192.168.7.7", "exact"),
        ("192.168.7.7:8080", "exact"),
        ("[::1]", "exact"),
        ("[::1]:8080", "exact"),
        ("[0:0:0::0001]:80", "exact"),
        ("a.shop.example.org", "long"),
        ("a.b.shop.example.org:1", "long"),
        ("www.example.org", "short"),
        ("xshop.example.org", "short"),
        ("example.org", "rest"),
        (".example.org", "rest"),
        ("localhost", "rest"),
        ("[::2]", "rest"),
        ("", "rest"),
        ("..", "rest"),
    ] {
        let answer = daemon.request("GET", "/x").host(host).send();
        assert_eq!((answer.status, answer.json()), (200, json!(slug)), "{host}");
    }
    let mut old = daemon.connect();
    old.send("GET /x HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().unwrap().json(), "rest", "HTTP/1.0 needs no host");
    let mut absolute = daemon.connect();
    absolute.send("GET http://a.shop.example.org/x HTTP/1.1\r\nhost: a.shop.example.org\r\n\r\n");
    assert_eq!(absolute.answer().unwrap().json(), "long", "a target may be absolute");
}

#[test]
fn without_a_claim_nothing_is_served() {
    let daemon = Daemon::start();
    app(&daemon, "shop", &["shop.test"]);
    daemon.done("DELETE", "/apps/default", Value::Null);
    for (host, named) in [
        ("other.test", "other.test"),
        ("Other.Test.:80", "other.test"),
        ("a\\b", "a\\\\b"),
        ("[::2]:80", "::2"),
        ("", ""),
    ] {
        let answer = daemon.request("GET", "/").host(host).send();
        assert_eq!((answer.status, answer.error()), (404, format!("no app claims host \"{named}\"")));
    }
    assert_eq!(daemon.request("GET", "/").host("shop.test").send().json(), "shop");
}

#[test]
fn routes_may_name_a_host() {
    let daemon = Daemon::start();
    let answer = |text: &str| daemon.script(&format!("\"{text}\""));
    let (any, exact, wide) = (answer("any"), answer("exact"), answer("wide"));
    daemon.route("GET", "/x", &any, json!({}));
    daemon.route("GET", "/x", &exact, json!({ "host": "a.b.test" }));
    daemon.route("GET", "/x", &wide, json!({ "host": "*.b.test" }));
    for (host, who) in [("a.b.test", "exact"), ("c.b.test", "wide"), ("b.test", "any")] {
        assert_eq!(daemon.request("GET", "/x").host(host).send().json(), who, "{host}");
    }
}

#[test]
fn a_change_of_claims_is_seen_at_once() {
    let daemon = Daemon::start();
    app(&daemon, "shop", &["shop.test"]);
    let ask = || daemon.request("GET", "/shop").host("shop.test").send();
    assert_eq!(ask().json(), "shop");
    let domain = id(&daemon.all("/apps/shop/domains")[0]);
    daemon.done("PATCH", &format!("/apps/shop/domains/{domain}"), json!({ "pattern": "store.test" }));
    assert_eq!(ask().error(), "no route matches GET /shop", "it belongs to the catch-all now");
    assert_eq!(daemon.request("GET", "/").host("store.test").send().json(), "shop");
    daemon.done("DELETE", &format!("/apps/shop/domains/{domain}"), Value::Null);
    assert_ne!(daemon.request("GET", "/").host("store.test").send().json(), "shop");
}

#[test]
fn an_absolute_target_beats_the_header() {
    let daemon = Daemon::start();
    let app = id(&daemon.done("POST", "/apps", json!({ "slug": "other" })));
    daemon.done("POST", &format!("/apps/{app}/domains"), json!({ "pattern": "other.org" }));
    let mut connection = daemon.connect();
    connection.send(b"GET http://other.org/hello/you HTTP/1.1\r\nHost: elsewhere.org\r\n\r\n");
    let answer = connection.answer().unwrap();
    assert_eq!((answer.status, answer.error()), (404, "no route matches GET /hello/you".to_owned()));
}
