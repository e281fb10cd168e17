//! A link shortener: codes, own ones too, and how often each was followed.

use std::thread;

use serde_json::{Value, json};

use crate::cli::Desk;
use crate::http::Answer;

const LINKS: &str = r#"
    fn create(wish) {
        if type_of(wish.url) != "string" || !wish.url.starts_with("http") {
            return respond(422, #{ error: "url must begin with http" });
        }
        let code = wish.code ?? id::short();
        if !kv::set("link/" + code, #{ url: wish.url, since: time::now() }, #{ if_version: 0 }) {
            return respond(409, #{ error: `${code} is taken` });
        }
        respond(201, #{ code: code }, #{ location: "/l/" + code })
    }

    if request.method == "POST" { return create(request.body) }
    let links = [];
    let cursor = ();
    do {
        let page = kv::list("link/", #{ limit: 2, cursor: cursor });
        for item in page.items {
            let code = item.key.sub_string(5);
            links.push(#{ code: code, url: item.value.url, hits: kv::get_or("hits/" + code, 0) });
        }
        cursor = page.cursor;
    } while cursor != ();
    links
"#;

const FOLLOW: &str = r#"
    let code = request.params.code;
    let link = kv::get("link/" + code);
    if link == () { return respond(404, #{ error: `there is no link ${code}` }) }
    kv::incr("hits/" + code);
    redirect(link.url, 307)
"#;

fn create(desk: &Desk, wish: Value) -> Answer {
    desk.daemon.post("/links", &wish.to_string())
}

#[test]
fn links_are_made_followed_counted_and_listed() {
    let mut desk = Desk::new();
    desk.deploys("links", LINKS, &["POST /links", "GET /links"]);
    desk.deploys("follow", FOLLOW, &["GET /l/{code}"]);
    let own = create(&desk, json!({ "url": "https://example.org/a?b=c", "code": "mine" }));
    assert_eq!((own.status, own.header("location")), (201, Some("/l/mine")), "{own}");
    let random = create(&desk, json!({ "url": "http://example.net/" })).json();
    let random = random["code"].as_str().unwrap();
    assert_ne!(create(&desk, json!({ "url": "http://example.net/" })).json()["code"], random);
    for (wish, status, says) in [
        (json!({ "url": "http://other.example/", "code": "mine" }), 409, "mine is taken"),
        (json!({ "url": "javascript:alert(1)" }), 422, "must begin with http"),
        (json!({}), 422, "must begin with http"),
        (json!({ "url": "http://a.example/", "code": "" }), 201, ""),
        (json!({ "url": "http://a.example/", "code": "k".repeat(600) }), 502, "at most 512"),
        (json!({ "url": "http://a.example/", "code": 7 }), 201, ""),
    ] {
        let answer = create(&desk, wish.clone());
        assert_eq!(answer.status, status, "{wish}: {answer}");
        assert!(answer.text().contains(says), "{wish}: {answer}");
    }
    let followed = desk.daemon.get("/l/mine");
    assert_eq!((followed.status, followed.header("location")), (307, Some("https://example.org/a?b=c")));
    assert_eq!(desk.daemon.get("/l/nobody").status, 404);
    hits_are_exact(&mut desk, random);
    let kept = desk.does(&["kv", "get", "link/mine"]);
    assert!(kept.contains("https://example.org/a?b=c"), "{kept}");
    desk.does(&["kv", "rm", "link/mine"]);
    assert_eq!(desk.daemon.get("/l/mine").status, 404);
}

/// Many follow at once, the daemon is killed, and the list has each of them.
fn hits_are_exact(desk: &mut Desk, random: &str) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(desk.daemon.get(&format!("/l/{random}")).status, 307);
                }
            });
        }
    });
    desk.daemon.kill_and_start_again();
    let listed = desk.daemon.get("/links").json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 5, "{listed:?}");
    for (code, url, hits) in [("mine", "https://example.org/a?b=c", 1), (random, "http://example.net/", 100)]
    {
        let link = listed.iter().find(|link| link["code"] == code).unwrap();
        assert_eq!(*link, json!({ "code": code, "url": url, "hits": hits }));
    }
    let runs = desk.json(&["executions", "--script", "follow", "--status", "success", "--limit", "0"]);
    // Those of the last second may be forgotten by their records' log, but not by the counter.
    assert!(runs["items"].as_array().unwrap().len() >= 100, "{runs}");
}
