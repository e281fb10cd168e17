//! The management API: what can be set up, changed and removed, and what is refused.

use serde_json::{Value, json};

use crate::harness::{Daemon, id};

const UNKNOWN: &str = "0192e4a0-7e5b-7000-8000-000000000000";

/// A request that is refused with this status and a message that says this.
#[track_caller]
fn refused(daemon: &Daemon, method: &str, path: &str, body: Value, status: u16, says: &str) {
    let answer = daemon.api(method, path, body);
    assert_eq!(answer.status, status, "{method} {path}: {answer}");
    assert!(answer.error().contains(says), "{method} {path}: {says} is not in {answer}");
}

/// Walks an object through its life: created, read, listed, changed and removed.
#[track_caller]
fn lives(daemon: &Daemon, list: &str, new: &Value, change: &Value, changed: &Value) {
    let created = daemon.api("POST", list, new.clone());
    assert_eq!(created.status, 201, "{list}: {created}");
    let (object, one) = (created.json(), format!("{list}/{}", id(&created.json())));
    for (field, value) in new.as_object().unwrap() {
        assert_eq!(object[field], *value, "{list}: {field}: {object:#}");
    }
    let instant = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(instant(&object["created_at"]), instant(&object["updated_at"]));
    let found = |object: &Value| daemon.all(list).iter().any(|item| item["id"] == object["id"]);
    assert!(found(&object), "{list} lists it");
    let read = daemon.done("GET", &one, Value::Null);
    assert_eq!((&read["id"], &read["created_at"]), (&object["id"], &object["created_at"]), "{one}");
    let patched = daemon.api("PATCH", &one, change.clone());
    assert_eq!(patched.status, 200, "{one}: {patched}");
    let patched = patched.json();
    for (field, value) in changed.as_object().unwrap() {
        assert_eq!(patched[field], *value, "{one}: {field}: {patched:#}");
    }
    assert_eq!(patched["created_at"], object["created_at"]);
    assert!(instant(&patched["updated_at"]) >= instant(&object["updated_at"]));
    let untouched = daemon.done("PATCH", &one, json!({}));
    for (field, value) in changed.as_object().unwrap() {
        assert_eq!(untouched[field], *value, "an empty change changes nothing: {one}");
    }
    refused(daemon, "PUT", &one, json!({}), 405, "this answers GET, PATCH, DELETE");
    refused(daemon, "DELETE", list, Value::Null, 405, "this answers GET, POST");
    refused(daemon, "PATCH", &one, json!({ "colour": 1 }), 422, "colour");
    let removed = daemon.api("DELETE", &one, Value::Null);
    assert_eq!((removed.status, removed.body.len()), (204, 0), "{removed}");
    assert!(!found(&object));
    for method in ["GET", "PATCH", "DELETE"] {
        refused(
            daemon,
            method,
            &one,
            if method == "PATCH" { json!({}) } else { Value::Null },
            404,
            "not found: ",
        );
    }
    for unknown in [UNKNOWN, "nope"] {
        refused(
            daemon,
            "GET",
            &format!("{list}/{unknown}"),
            Value::Null,
            404,
            &format!("not found: {unknown}"),
        );
    }
}

#[test]
fn every_object_has_its_life() {
    let daemon = Daemon::start();
    let script = daemon.script("1");
    let other = daemon.script("2");
    lives(
        &daemon,
        "/apps",
        &json!({ "slug": "shop", "name": "Shop" }),
        &json!({ "name": "New" }),
        &json!({ "slug": "shop", "name": "New" }),
    );
    lives(
        &daemon,
        "/apps",
        &json!({ "slug": "shop" }),
        &json!({ "slug": "store" }),
        &json!({ "slug": "store", "name": "shop" }),
    );
    let pattern = |pattern: &str| json!({ "pattern": pattern });
    lives(&daemon, "/apps/default/domains", &pattern("a.test"), &pattern("*.b.test"), &pattern("*.b.test"));
    lives(
        &daemon,
        "/apps/default/scripts",
        &json!({ "name": "s", "source": "1", "timeout_seconds": 7, "access": "key" }),
        &json!({ "timeout_seconds": null, "sandbox": { "max_operations": 9 } }),
        &json!({ "name": "s", "source": "1", "timeout_seconds": null, "access": "key", "active_version": 1,
            "sandbox": { "max_operations": 9, "max_memory_bytes": null, "max_string_bytes": null,
                "max_array_items": null, "max_map_entries": null, "max_call_levels": null } }),
    );
    lives(
        &daemon,
        "/apps/default/routes",
        &json!({ "method": "GET", "path": "/a/{x}", "script_id": script, "host": "a.test", "dispatch_mode": "async",
            "durability": "strict", "body": "raw", "access": "key" }),
        &json!({ "method": "ANY", "path": "/b", "host": null, "script_id": other, "dispatch_mode": "sync",
            "durability": "relaxed", "body": "auto", "access": "public" }),
        &json!({ "method": "ANY", "path": "/b", "host": null, "script_id": other, "dispatch_mode": "sync",
            "durability": "relaxed", "body": "auto", "access": "public" }),
    );
    let expiry = "2999-01-01T00:00:00.000Z";
    lives(
        &daemon,
        "/keys",
        &json!({ "name": "k", "expires_at": expiry }),
        &json!({ "name": "l", "expires_at": null }),
        &json!({ "name": "l", "expires_at": null }),
    );
}

#[test]
fn an_app_is_named_by_id_or_slug_and_takes_its_own_along() {
    let daemon = Daemon::start();
    let app = id(&daemon.done("POST", "/apps", json!({ "slug": "shop" })));
    daemon.done("POST", "/apps/shop/domains", json!({ "pattern": "shop.test" }));
    let script = id(&daemon.done("POST", "/apps/shop/scripts", json!({ "name": "s", "source": "7" })));
    let route = json!({ "method": "GET", "path": "/x", "script_id": script });
    daemon.done("POST", &format!("/apps/{app}/routes"), route);
    assert_eq!(daemon.request("GET", "/x").host("shop.test").send().text(), "7");
    for list in ["domains", "scripts", "routes"] {
        assert_eq!(daemon.all(&format!("/apps/shop/{list}")), daemon.all(&format!("/apps/{app}/{list}")));
        let item = id(&daemon.all(&format!("/apps/shop/{list}"))[0]);
        refused(&daemon, "GET", &format!("/apps/default/{list}/{item}"), Value::Null, 404, &item);
        refused(&daemon, "GET", &format!("/apps/nope/{list}"), Value::Null, 404, "app not found: nope");
    }
    daemon.done("DELETE", "/apps/shop", Value::Null);
    assert_eq!(daemon.request("GET", "/x").host("shop.test").send().status, 404);
    assert_eq!(
        daemon.post(&format!("/api/execute/{script}"), "").error(),
        format!("script not found: {script}")
    );
    daemon.done("POST", "/apps/default/domains", json!({ "pattern": "shop.test" }));
}

#[test]
fn conflicts_are_409_and_name_the_field() {
    let daemon = Daemon::start();
    let script = daemon.script_with("1", json!({ "name": "s" }));
    daemon.done("POST", "/apps", json!({ "slug": "shop" }));
    daemon.done("POST", "/apps/shop/domains", json!({ "pattern": "shop.test" }));
    daemon.done("POST", "/keys", json!({ "name": "k" }));
    let second = daemon.script_with("1", json!({ "name": "t" }));
    refused(&daemon, "POST", "/apps", json!({ "slug": "shop" }), 409, "slug: an app \"shop\" exists");
    refused(&daemon, "PATCH", "/apps/shop", json!({ "slug": "default" }), 409, "slug");
    let claim = "pattern: \"shop.test\" is claimed by shop";
    refused(&daemon, "POST", "/apps/default/domains", json!({ "pattern": "Shop.Test." }), 409, claim);
    refused(&daemon, "POST", "/apps/shop/domains", json!({ "pattern": "*" }), 409, "is claimed by default");
    let name = "name: the app has a script \"s\"";
    refused(&daemon, "POST", "/apps/default/scripts", json!({ "name": "s", "source": "1" }), 409, name);
    refused(&daemon, "PATCH", &format!("/apps/default/scripts/{second}"), json!({ "name": "s" }), 409, name);
    daemon.done("POST", "/apps/shop/scripts", json!({ "name": "s", "source": "1" }));
    refused(&daemon, "POST", "/keys", json!({ "name": "k" }), 409, "name: a key \"k\" exists");
    let route = |method: &str, path: &str| json!({ "method": method, "path": path, "script_id": script });
    let first = daemon.route("GET", "/a/{x}", &script, json!({}));
    for path in ["/a/{x}", "/a/{y}", "/%61/{y}"] {
        let says = format!("conflicts with GET /a/{{x}} (route {first})");
        refused(&daemon, "POST", "/apps/default/routes", route("GET", path), 409, &says);
    }
    for (method, path) in
        [("POST", "/a/{y}"), ("ANY", "/a/{y}"), ("GET", "/a/{*y}"), ("GET", "/a/b"), ("GET", "/a/{y}/")]
    {
        daemon.done("POST", "/apps/default/routes", route(method, path));
    }
    daemon.route("GET", "/a/{y}", &script, json!({ "host": "a.test" }));
    let literal =
        id(daemon.all("/apps/default/routes").iter().find(|route| route["path"] == "/a/b").unwrap());
    refused(
        &daemon,
        "PATCH",
        &format!("/apps/default/routes/{literal}"),
        json!({ "path": "/a/{z}" }),
        409,
        "conflicts",
    );
}

#[test]
fn what_cannot_be_is_422_and_names_the_field() {
    let daemon = Daemon::start();
    let script = daemon.script("1");
    daemon.done("POST", "/apps", json!({ "slug": "shop" }));
    let foreign = id(&daemon.done("POST", "/apps/shop/scripts", json!({ "name": "s", "source": "1" })));
    let long = "x".repeat(101);
    let route = |field: &str, value: Value| {
        let mut route = json!({ "method": "GET", "path": "/x", "script_id": script });
        route[field] = value;
        route
    };
    for (path, body, says) in [
        ("/apps", json!({}), "slug"),
        ("/apps", json!({ "slug": "Shop" }), "slug: must be 1 to 63 of a-z"),
        ("/apps", json!({ "slug": UNKNOWN }), "slug: must not look like an id"),
        ("/apps", json!({ "slug": 7 }), "slug"),
        ("/apps", json!({ "slug": "a", "name": "" }), "name: must be 1 to 100 characters"),
        ("/apps", json!({ "slug": "a", "name": long }), "name"),
        ("/apps", json!({ "slug": "a", "nmae": "x" }), "nmae"),
        ("/apps", json!([]), "body"),
        ("/apps/default/domains", json!({ "pattern": "a..b" }), "pattern: must be a host name"),
        (
            "/apps/default/domains",
            json!({ "pattern": "a.test:80" }),
            "pattern: must be a host without a port",
        ),
        ("/apps/default/domains", json!({ "pattern": "müller.de" }), "pattern: must be ASCII"),
        ("/apps/default/domains", json!({}), "pattern"),
        ("/apps/default/scripts", json!({ "name": "s" }), "source"),
        ("/apps/default/scripts", json!({ "source": "1" }), "name"),
        ("/apps/default/scripts", json!({ "name": "s\n", "source": "1" }), "name"),
        (
            "/apps/default/scripts",
            json!({ "name": "s", "source": "/".repeat(65_537) }),
            "source: is 65537 bytes long",
        ),
        ("/apps/default/scripts", json!({ "name": "s", "source": "1", "access": "all" }), "access"),
        (
            "/apps/default/scripts",
            json!({ "name": "s", "source": "1", "timeout_seconds": 301 }),
            "timeout_seconds: is 301",
        ),
        ("/apps/default/routes", route("method", json!("GET POST")), "method"),
        ("/apps/default/routes", route("path", json!("x")), "path: must begin with '/'"),
        ("/apps/default/routes", route("path", json!("/{*rest}/x")), "path: has {*rest} before its end"),
        ("/apps/default/routes", route("path", json!("/{x}/{x}")), "path: names {x} twice"),
        ("/apps/default/routes", route("path", json!("/a?b")), "path"),
        ("/apps/default/routes", route("path", json!("/api")), "path: begins with /api"),
        ("/apps/default/routes", route("path", json!("/api/v2/x")), "path: begins with /api"),
        ("/apps/default/routes", route("path", json!("/%61pi/x")), "path: begins with /api"),
        ("/apps/default/routes", route("script_id", json!(UNKNOWN)), "script_id: the app has no script"),
        ("/apps/default/routes", route("script_id", json!(foreign)), "script_id: the app has no script"),
        ("/apps/default/routes", route("script_id", json!("x")), "script_id"),
        ("/apps/default/routes", route("host", json!("a b")), "host"),
        ("/apps/default/routes", route("dispatch_mode", json!("later")), "dispatch_mode"),
        ("/apps/default/routes", route("durability", json!("maybe")), "durability"),
        ("/apps/default/routes", route("body", json!("xml")), "body"),
        ("/keys", json!({}), "name"),
        ("/keys", json!({ "name": "k", "expires_at": "soon" }), "expires_at"),
    ] {
        refused(&daemon, "POST", path, body, 422, says);
    }
    for path in ["/apix", "/x/api", "/{any}/v1"] {
        daemon.route("GET", path, &script, json!({}));
    }
}

#[test]
fn a_source_is_compiled_before_it_is_stored() {
    let daemon = Daemon::start();
    let script = daemon.script("1");
    let source = "let a = 1;\nlet b = (;";
    let one = format!("/apps/default/scripts/{script}");
    for (method, path, body) in [
        ("POST", "/validate", json!({ "source": source })),
        ("POST", "/apps/default/scripts", json!({ "name": "bad", "source": source })),
        ("PATCH", &one, json!({ "source": source })),
    ] {
        let answer = daemon.api(method, path, body);
        assert_eq!(answer.status, 422, "{answer}");
        let body = answer.json();
        assert_eq!(
            (&body["line"], &body["column"], &body["field"]),
            (&json!(2), &json!(10), &json!("source")),
            "{body}"
        );
        assert!(body["error"].is_string());
    }
    assert_eq!(daemon.done("POST", "/validate", json!({ "source": "1" })), json!({ "valid": true }));
    assert_eq!(daemon.done("GET", &one, Value::Null)["active_version"], 1);
    refused(&daemon, "POST", "/validate", json!({}), 422, "source");
    refused(&daemon, "GET", "/validate", Value::Null, 405, "POST");
}

#[test]
fn every_source_is_a_version_that_can_come_back() {
    let daemon = Daemon::start();
    let script = daemon.serve("/x", "1");
    let one = format!("/apps/default/scripts/{script}");
    for (source, version) in [("2", 2), ("2", 2), ("3", 3), ("1", 4)] {
        let patched = daemon.done("PATCH", &one, json!({ "source": source }));
        assert_eq!((&patched["active_version"], &patched["source"]), (&json!(version), &json!(source)));
        assert_eq!(daemon.get("/x").text(), source);
    }
    let versions = daemon.all(&format!("{one}/versions"));
    let seen: Vec<(&Value, &Value)> =
        versions.iter().map(|version| (&version["version"], &version["source"])).collect();
    let wanted =
        [(json!(4), json!("1")), (json!(3), json!("3")), (json!(2), json!("2")), (json!(1), json!("1"))];
    assert_eq!(seen, wanted.each_ref().map(|(version, source)| (version, source)));
    let back = daemon.done("POST", &format!("{one}/rollback"), json!({ "version": 2 }));
    assert_eq!(
        (&back["active_version"], &back["latest_version"], &back["source"]),
        (&json!(2), &json!(4), &json!("2"))
    );
    assert_eq!(daemon.get("/x").text(), "2");
    let record = daemon.execution(&daemon.get("/x").execution_id());
    assert_eq!(record["script_version"], 2);
    let next = daemon.done("PATCH", &one, json!({ "source": "5" }));
    assert_eq!(next["active_version"], 5, "versions are never written anew");
    refused(
        &daemon,
        "POST",
        &format!("{one}/rollback"),
        json!({ "version": 9 }),
        404,
        "version not found: 9",
    );
    refused(&daemon, "POST", &format!("{one}/rollback"), json!({ "version": "x" }), 422, "version");
    refused(&daemon, "POST", &format!("{one}/rollback"), json!({}), 422, "version");
}

#[test]
fn one_can_ask_which_route_would_answer() {
    let daemon = Daemon::start();
    let script = daemon.script("1");
    let route = daemon.route("GET", "/a/{x}/{*rest}", &script, json!({}));
    daemon.done("POST", "/apps", json!({ "slug": "shop" }));
    daemon.done("POST", "/apps/shop/domains", json!({ "pattern": "shop.test" }));
    let ask = |body: Value| daemon.done("POST", "/apps/default/routes/match", body);
    let found = ask(json!({ "method": "GET", "path": "/a/caf%C3%A9/b/c?q=1", "host": "any.test:80" }));
    assert_eq!((&found["matched"], &found["route"]["id"]), (&json!(true), &json!(route)), "{found}");
    assert_eq!((&found["params"], &found["rest"]), (&json!({ "x": "café" }), &json!("b/c")));
    for (body, error) in [
        (json!({ "method": "POST", "path": "/a/1/2" }), "no route matches POST /a/1/2"),
        (
            json!({ "method": "GET", "path": "/a/1/2", "host": "shop.test" }),
            "host \"shop.test\" belongs to app shop",
        ),
    ] {
        assert_eq!(ask(body), json!({ "matched": false, "error": error }));
    }
    refused(&daemon, "POST", "/apps/default/routes/match", json!({}), 422, "method");
}

#[test]
fn only_keys_open_the_office() {
    let daemon = Daemon::start();
    let key = daemon.done("POST", "/keys", json!({ "name": "phone" }));
    let secret = key["secret"].as_str().unwrap();
    assert!(secret.starts_with(key["hint"].as_str().unwrap().trim_end_matches('…')), "{key}");
    let one = daemon.done("GET", &format!("/keys/{}", id(&key)), Value::Null);
    assert!(one.get("secret").is_none() && one.get("hash").is_none(), "{one}");
    let expired = json!({ "name": "old", "expires_at": "2020-01-01T00:00:00Z" });
    let expired = daemon.done("POST", "/keys", expired)["secret"].as_str().unwrap().to_owned();
    let ask = |value: &str| daemon.request("GET", "/api/v1/apps").header("authorization", value).send();
    assert_eq!(ask(&format!("Bearer {secret}")).status, 200);
    for header in
        ["Bearer wrong", "", "Bearer", &format!("Basic {secret}"), secret, &format!("Bearer {expired}")]
    {
        let answer = ask(header);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{header}");
    }
    for (method, path) in [
        ("GET", "/api/v1/apps"),
        ("GET", "/api/v1/metrics"),
        ("GET", "/api/v1/nothing"),
        ("POST", "/api/v1/validate"),
        ("POST", "/api/v1/health"),
        ("GET", "/api/v1/logs/tail"),
    ] {
        let answer = daemon.request(method, path).send();
        assert_eq!(answer.status, 401, "{method} {path}: {answer}");
    }
    let ends = json!({ "expires_at": "2020-01-01T00:00:00Z" });
    daemon.done("PATCH", &format!("/keys/{}", id(&key)), ends);
    assert_eq!(ask(&format!("Bearer {secret}")).status, 401, "from the change on");
    daemon.done("PATCH", &format!("/keys/{}", id(&key)), json!({ "expires_at": null }));
    assert_eq!(ask(&format!("Bearer {secret}")).status, 200);
    daemon.done("DELETE", &format!("/keys/{}", id(&key)), Value::Null);
    assert_eq!(ask(&format!("Bearer {secret}")).status, 401);
}

#[test]
fn wrong_bodies_and_paths_are_told_apart() {
    let daemon = Daemon::start();
    let ask = |body: &[u8]| daemon.request("POST", "/api/v1/apps").key(crate::harness::KEY).body(body).send();
    for (body, status, says) in [
        (&b"{"[..], 400, "bad request: invalid JSON body: "),
        (b"{\"slug\":\"a\"} x", 400, "invalid JSON body"),
        (b"\xff\xfe", 400, "invalid JSON body"),
        (b"{\"slug\":\"\xff\"}", 400, "invalid JSON body"),
        (b"", 422, "slug"),
        (b"null", 422, "body: must be a JSON object"),
        (b"[\"shop\"]", 422, "body: must be a JSON object"),
        (&b"[".repeat(100_000)[..], 400, "invalid JSON body"),
        (&b"{\"slug\":".repeat(100_000)[..], 422, "slug"),
        (
            &format!("{{\"slug\":\"{}\"}}", "x".repeat(1024 * 1024)).into_bytes()[..],
            413,
            "1048576 bytes are allowed",
        ),
    ] {
        let answer = ask(body);
        assert_eq!(
            answer.status,
            status,
            "{:?}: {answer}",
            String::from_utf8_lossy(&body[..body.len().min(40)])
        );
        assert!(answer.error().contains(says), "{answer}");
    }
    for path in
        ["/nothing", "/apps/default/nothing", "/apps/", "/executions/a/b", "/apps/default/scripts/x/y", ""]
    {
        let answer = daemon.api("GET", path, Value::Null);
        assert_eq!(answer.status, 404, "{path}: {answer}");
    }
    for path in ["/api", "/api/", "/api/v2/apps", "/api/v1"] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
    for (path, allow) in [
        ("/metrics", "GET"),
        ("/outbox", "GET"),
        ("/logs", "GET"),
        ("/health", "GET, POST"),
        ("/dead-letters/purge", "POST"),
    ] {
        let answer = daemon.api("DELETE", path, Value::Null);
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{path}: {answer}");
    }
}

#[test]
fn the_last_key_stays() {
    let daemon = Daemon::start();
    let keys = daemon.all("/keys");
    assert_eq!(keys.len(), 1, "the first start makes one");
    let last = daemon.api("DELETE", &format!("/keys/{}", id(&keys[0])), Value::Null);
    assert_eq!((last.status, last.error()), (409, "this is the last key; make another one first".to_owned()));
    daemon.done("POST", "/keys", json!({ "name": "another" }));
    daemon.done("DELETE", &format!("/keys/{}", id(&keys[0])), Value::Null);
}
