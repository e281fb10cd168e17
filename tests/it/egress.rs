//! What scripts call: that they get what they asked for, and that they reach nothing that is not theirs.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, TempDir, until};
use crate::http::Answer;
use crate::peers::{Peer, say};

/// Lets the scripts of app `default` call this.
fn allow(daemon: &Daemon, egress: Value) {
    daemon.done("PATCH", "/apps/default", json!({ "egress": egress }));
}

/// A daemon whose scripts may call this machine.
fn open_daemon() -> Daemon {
    let daemon = Daemon::start();
    allow(&daemon, json!({ "networks": ["127.0.0.0/8"] }));
    daemon
}

fn run(daemon: &Daemon, source: &str) -> Answer {
    let script = daemon.script_with(source, json!({ "timeout_seconds": 30 }));
    daemon.post(&format!("/api/execute/{script}"), "")
}

/// Runs a script to its value.
#[track_caller]
fn value(daemon: &Daemon, source: &str) -> Value {
    let answer = run(daemon, source);
    assert_eq!(answer.status, 200, "{source}: {answer}");
    let record = daemon.execution(&answer.execution_id());
    // A run that left memory behind would have a line about it.
    assert_eq!(record["script_logs"], json!([]), "{source}");
    answer.json()
}

/// Runs a script that fails, and can catch it, for this reason.
#[track_caller]
fn fails(daemon: &Daemon, source: &str, why: &str) {
    let answer = run(daemon, source);
    assert_eq!((answer.status, &answer.json()["reason"]), (502, &json!("runtime")), "{source}: {answer}");
    assert!(answer.error().contains(why), "{source}: {answer}");
    assert_eq!(
        value(daemon, &format!("let end = \"went\"; try {{ {source}; }} catch {{ end = \"caught\"; }} end")),
        "caught"
    );
}

#[test]
fn requests_arrive_as_they_were_meant() {
    let (daemon, peer) = (open_daemon(), Peer::echo());
    let url = peer.url("/x");
    let none = Value::Null;
    for (call, method, path, body, kind, length) in [
        (format!("get({url:?})"), "GET", "/x", "", none.clone(), none.clone()),
        (format!("delete({url:?})"), "DELETE", "/x", "", none.clone(), none.clone()),
        (
            format!("post({url:?}, #{{ a: [1, \"ü\"] }})"),
            "POST",
            "/x",
            "{\"a\":[1,\"ü\"]}",
            json!("application/json"),
            json!("14"),
        ),
        (format!("post({url:?}, \"hi\")"), "POST", "/x", "hi", json!("text/plain;charset=UTF-8"), json!("2")),
        (
            format!("put({url:?}, blob(3, 65))"),
            "PUT",
            "/x",
            "AAA",
            json!("application/octet-stream"),
            json!("3"),
        ),
        (format!("patch({url:?}, ())"), "PATCH", "/x", "", none.clone(), json!("0")),
        (
            format!("post({url:?}, \"a=b\", #{{ headers: #{{ \"Content-Type\": \"x/y\" }} }})"),
            "POST",
            "/x",
            "a=b",
            json!("x/y"),
            json!("3"),
        ),
        (
            format!("get({:?}, #{{ query: #{{ q: \"a&b=ü\", n: 1 }} }})", peer.url("/x?z=1#f")),
            "GET",
            "/x?z=1&n=1&q=a%26b%3D%C3%BC",
            "",
            none.clone(),
            none.clone(),
        ),
        (
            format!("request(\"propfind\", {url:?}, #{{ body: 7 }})"),
            "PROPFIND",
            "/x",
            "7",
            json!("application/json"),
            json!("1"),
        ),
    ] {
        let wanted = json!({ "method": method, "path": path, "body": body, "type": kind, "length": length });
        assert_eq!(value(&daemon, &format!("http::{call}.json")), wanted, "{call}");
    }
    let source =
        format!("http::get({url:?}, #{{ headers: #{{ \"X-One\": 1, authorization: \"secret\" }} }}).status");
    assert_eq!(value(&daemon, &source), 200);
    let asked = peer.seen().pop().unwrap();
    let agent = format!("picloud/{}", env!("CARGO_PKG_VERSION"));
    let host = peer.address.to_string();
    for (name, value) in
        [("x-one", "1"), ("authorization", "secret"), ("user-agent", &*agent), ("host", &*host)]
    {
        assert_eq!(asked.header(name), Some(value), "{asked:?}");
    }
    assert_eq!(asked.header("accept-encoding"), None);
}

#[test]
fn answers_come_as_they_are() {
    let (daemon, peer) = (
        open_daemon(),
        Peer::new(|asked, out| match asked.path.as_str() {
            "/headers" => say(out, 201, "X-A: 1\r\nx-a: 2\r\nSet-Cookie: a=1, b\r\nSet-Cookie: c=2\r\n", b""),
            "/bytes" => say(out, 200, "content-type: image/png\r\n", b"\x89\xff\x00"),
            "/latin" => say(out, 200, "content-type: text/plain; charset=latin1\r\n", b"M\xfcller"),
            "/lies" => say(out, 200, "content-type: application/json\r\n", b"{nope"),
            "/problem" => {
                say(out, 404, "content-type: application/problem+json\r\n", b"{\"title\":\"gone\"}")
            }
            "/packed" => say(
                out,
                200,
                "content-type: application/json\r\ncontent-encoding: gzip\r\n",
                &[31, 139, 8, 0],
            ),
            "/chunked" => drop(out.write_all(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            )),
            "/until-the-end" => drop(out.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it")),
            _ => say(out, 204, "", b""),
        }),
    );
    for (path, source, wanted) in [
        (
            "/headers",
            "[res.status, res.ok, res.headers[\"x-a\"], res.headers[\"set-cookie\"]]",
            json!([201, true, "1, 2", ["a=1, b", "c=2"]]),
        ),
        ("/headers", "[res.body, res.json]", json!(["", null])),
        ("/bytes", "[type_of(res.body), res.body.len()]", json!(["blob", 3])),
        ("/latin", "[type_of(res.body), res.body.len()]", json!(["blob", 6])),
        ("/lies", "[res.body, res.json]", json!(["{nope", null])),
        ("/problem", "[res.status, res.ok, res.json.title]", json!([404, false, "gone"])),
        ("/packed", "[type_of(res.body), res.body.len(), res.json]", json!(["blob", 4, null])),
        ("/chunked", "res.body", json!("abcde")),
        ("/until-the-end", "res.body", json!("all of it")),
        ("/nothing", "[res.status, res.body]", json!([204, ""])),
    ] {
        let source = format!("let res = http::get({:?}); {source}", peer.url(path));
        assert_eq!(value(&daemon, &source), wanted, "{path}");
    }
    let source = format!("http::get({:?}, #{{ json: false }}).keys()", peer.url("/problem"));
    assert_eq!(value(&daemon, &source), json!(["body", "headers", "ok", "status"]));
    let source = format!("http::request(\"HEAD\", {:?}).body", peer.url("/nothing"));
    assert_eq!(value(&daemon, &source), "");
}

#[test]
fn what_is_not_public_is_refused_in_every_spelling() {
    let (daemon, peer) = (Daemon::start(), Peer::echo());
    let port = peer.address.port();
    for (host, why) in [
        ("127.0.0.1", "127.0.0.1 is a loopback address; allow its network"),
        ("localhost", "localhost is 127.0.0.1, which is a loopback address"),
        ("LOCALHOST", "which is a loopback address"),
        ("2130706433", "2130706433 is 127.0.0.1, which is a loopback address"),
        ("0x7f000001", "which is a loopback address"),
        ("0177.0.0.1", "which is a loopback address"),
        ("0x7f.1", "which is a loopback address"),
        ("127.1", "which is a loopback address"),
        ("[::1]", "::1 is a loopback address"),
        ("[::ffff:127.0.0.1]", "is 127.0.0.1, which is a loopback address"),
        ("[::ffff:7f00:1]", "is 127.0.0.1, which is a loopback address"),
        ("[64:ff9b::7f00:1]", "is a loopback address"),
        ("0.0.0.0", "is an address of this host only"),
        ("0", "is an address of this host only"),
        ("[::]", "is the unspecified address"),
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        ("2852039166", "2852039166 is 169.254.169.254, which is a link-local address"),
        ("[fe80::1]", "is a link-local address"),
        ("10.0.0.1", "is a private address"),
        ("192.168.1.1", "is a private address"),
        ("[fd00::1]", "is a private address"),
        ("100.100.100.200", "an address shared behind a provider's NAT"),
        ("224.0.0.1", "is a multicast address"),
        ("255.255.255.255", "is the broadcast address"),
    ] {
        let answer = run(&daemon, &format!("http::get(\"http://{host}:{port}/\")"));
        assert_eq!(answer.status, 502, "{host}: {answer}");
        assert!(answer.error().contains(why), "{host}: {answer}");
    }
    for (call, why) in [
        ("get(\"ftp://127.0.0.1/\")", "only http:// and https:// can be called"),
        ("get(\"file:///etc/passwd\")", "only http:// and https:// can be called"),
        ("get(\"http://me:pw@a.org/\")", "a name or a password has no place in it"),
        ("get(\"/x\")", "cannot be called: write one like https://"),
        ("get(\"http://nowhere.invalid/\")", "the host nowhere.invalid could not be found"),
        (
            "get(\"http://a.org/\", #{ timeout_ms: 1 })",
            "there is no option \"timeout_ms\"; there are headers, query",
        ),
        ("get(\"http://a.org/\", #{ timeout: -1 })", "timeout must be 0 to 300 seconds"),
        ("get(\"http://a.org/\", #{ headers: #{ host: \"b\" } })", "header \"host\" cannot be set"),
        ("get(\"http://a.org/\", #{ headers: #{ x: \"a\\r\\nb: c\" } })", "has a value that cannot be sent"),
        ("get(\"http://a.org/\", #{ headers: 7 })", "headers must be a map"),
        ("post(\"http://a.org/\", |x| x)", "the body holds a"),
        ("request(\"CONNECT\", \"http://a.org/\")", "the method must be a word"),
    ] {
        fails(&daemon, &format!("http::{call}"), why);
    }
    assert!(peer.seen().is_empty());
}

#[test]
fn an_app_calls_whom_its_rules_name() {
    let (daemon, peer, other) = (open_daemon(), Peer::echo(), Peer::echo());
    let port = peer.address.port();
    let named = format!("http::get(\"http://localhost:{port}/\").status");
    assert_eq!(value(&daemon, &named), 200);
    allow(&daemon, json!({ "allow": [format!("localhost:{port}")], "networks": ["127.0.0.0/8"] }));
    assert_eq!(value(&daemon, &named), 200);
    for url in [peer.url("/"), format!("http://localhost:{}/", other.address.port()), "http://a.org/".into()]
    {
        fails(
            &daemon,
            &format!("http::get({url:?})"),
            "is none of the hosts that this app may call; allow it",
        );
    }
    // A rule for a host opens no network.
    allow(&daemon, json!({ "allow": ["localhost"] }));
    fails(&daemon, &named, "localhost is 127.0.0.1, which is a loopback address");
    allow(&daemon, json!({ "allow": [], "networks": ["0.0.0.0/0", "::/0"] }));
    fails(&daemon, &named, "is none of the hosts that this app may call");
    assert!(other.seen().is_empty());
    for (egress, why) in [
        (json!({ "allow": ["http://a.org"] }), "egress.allow[0]"),
        (json!({ "networks": ["10.0.0.0/40"] }), "egress.networks[0]"),
        (json!({ "alow": [] }), "unknown field `alow`"),
    ] {
        let answer = daemon.api("PATCH", "/apps/default", json!({ "egress": egress }));
        assert_eq!(answer.status, 422, "{answer}");
        assert!(answer.error().contains(why), "{answer}");
    }
    let app = daemon.done("POST", "/apps", json!({ "slug": "a", "egress": { "networks": ["10.1.2.3/8"] } }));
    assert_eq!(app["egress"], json!({ "allow": null, "networks": ["10.0.0.0/8"] }));
}

#[test]
fn redirects_are_followed_under_the_same_rules() {
    let target = Peer::echo();
    let away = target.url("/away");
    let peer = Peer::new(move |asked, out| {
        let (status, to) = asked.path[1..].split_once('/').unwrap();
        let to = match to {
            "loop" => asked.path.clone(),
            "away" => away.clone(),
            "metadata" => "http://169.254.169.254/latest".to_owned(),
            "file" => "file:///etc/passwd".to_owned(),
            "user" => "http://u:p@a.org/".to_owned(),
            _ => "/200/end".to_owned(),
        };
        let status = status.parse().unwrap();
        let told = format!("{} {}", asked.method, asked.body.len());
        say(out, status, &format!("location: {to}\r\n"), told.as_bytes());
    });
    let daemon = open_daemon();
    let post = |path: &str| {
        format!(
            "http::post({:?}, \"body\", #{{ headers: #{{ cookie: \"c\", \"x-key\": \"k\" }} }})",
            peer.url(path)
        )
    };
    for (path, end) in [
        ("/301/x", "GET 0"),
        ("/302/x", "GET 0"),
        ("/303/x", "GET 0"),
        ("/307/x", "POST 4"),
        ("/308/x", "POST 4"),
    ] {
        assert_eq!(value(&daemon, &format!("{}.body", post(path))), end, "{path}");
        assert_eq!(peer.seen().pop().unwrap().header("x-key"), Some("k"), "{path}");
    }
    assert_eq!(value(&daemon, &format!("{}.json.method", post("/307/away"))), "POST");
    let asked = target.seen().pop().unwrap();
    assert_eq!((asked.header("cookie"), asked.header("x-key")), (None, None), "{asked:?}");
    fails(&daemon, &post("/302/metadata"), "169.254.169.254 is a link-local address");
    fails(&daemon, &post("/302/file"), "only http:// and https:// can be called");
    fails(&daemon, &post("/302/user"), "a name or a password has no place in it");
    let before = peer.seen().len();
    fails(&daemon, &post("/302/loop"), "redirected more than 5 times, at last by");
    assert_eq!(peer.seen().len(), before + 2 * 6);
    let stays = format!("http::get({:?}, #{{ redirects: 0 }})", peer.url("/302/away"));
    assert_eq!(
        value(&daemon, &format!("let res = {stays}; [res.status, res.headers.location]")),
        json!([302, target.url("/away")])
    );
    allow(&daemon, json!({ "allow": [peer.address.to_string()], "networks": ["127.0.0.1"] }));
    fails(&daemon, &post("/302/away"), "is none of the hosts that this app may call");
}

#[test]
fn answers_are_bounded() {
    let peer = Peer::new(|asked, out| match asked.path.as_str() {
        "/endless" => {
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            while out
                .write_all(b"4000\r\n")
                .and_then(|()| out.write_all(&[b'x'; 0x4000]))
                .and_then(|()| out.write_all(b"\r\n"))
                .is_ok()
            {}
        }
        "/announced" => drop(out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999999\r\n\r\nx")),
        "/head" => {
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\n");
            while out
                .write_all(
                    b"x-filler: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n",
                )
                .is_ok()
            {}
        }
        "/line" => while out.write_all(&[b'x'; 4096]).is_ok() {},
        "/bomb" => {
            // What claims to be packed is never unpacked.
            say(out, 200, "content-encoding: gzip\r\ncontent-type: text/plain\r\n", &[31; 9000]);
        }
        "/cut" => drop(out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")),
        "/none" => {}
        "/text" => say(out, 200, "content-type: text/plain\r\n", &[b'x'; 200_000]),
        "/bytes" => say(out, 200, "content-type: image/png\r\n", &[b'x'; 20_000]),
        "/nested" => say(out, 200, "content-type: application/json\r\n", "[".repeat(100_000).as_bytes()),
        _ => say(
            out,
            200,
            "content-type: application/json\r\n",
            format!("[{}0]", "0,".repeat(50_000)).as_bytes(),
        ),
    });
    let daemon = open_daemon();
    for (path, options, why) in [
        ("/endless", "#{}", "has more than 262144 bytes"),
        ("/announced", "#{}", "has more than 262144 bytes"),
        ("/text", "#{ max_bytes: 1000 }", "has more than 1000 bytes"),
        ("/head", "#{}", ""),
        ("/line", "#{}", ""),
        ("/cut", "#{}", "gave no proper answer"),
        ("/none", "#{}", "gave no proper answer"),
        ("/bytes", "#{}", "the body has 20000 bytes, and a blob of this script at most 10000"),
        ("/items", "#{}", "the answer is larger than values of this script may be (size of array/blob)"),
    ] {
        fails(&daemon, &format!("http::get({:?}, {options})", peer.url(path)), why);
    }
    for (path, source, wanted) in [
        ("/text", "res.body.len()", json!(200_000)),
        ("/bomb", "[type_of(res.body), res.body.len()]", json!(["blob", 9000])),
        ("/nested", "[res.json, res.body.len()]", json!([null, 100_000])),
    ] {
        let source = format!("let res = http::get({:?}); {source}", peer.url(path));
        assert_eq!(value(&daemon, &source), wanted, "{path}");
    }
    let items = format!("http::get({:?}, #{{ json: false }}).body.len()", peer.url("/items"));
    assert_eq!(value(&daemon, &items), 100_003);
    let setup = Setup::default().set("egress.answer_bytes_max", 5000).start();
    allow(&setup, json!({ "networks": ["127.0.0.1"] }));
    fails(&setup, &format!("http::get({:?})", peer.url("/text")), "has more than 5000 bytes");
    let raised = format!("http::get({:?}, #{{ max_bytes: 250000 }}).body.len()", peer.url("/text"));
    assert_eq!(value(&setup, &raised), 200_000);
}

/// A server that takes requests and never answers them, or never to the end.
fn hanging() -> Peer {
    Peer::new(|asked, out| {
        if asked.path == "/body" {
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
            let _ = out.write_all(b"x").and_then(|()| out.flush());
        }
        loop {
            thread::park();
        }
    })
}

#[test]
fn a_server_that_hangs_holds_nobody() {
    let (daemon, peer) = (open_daemon(), hanging());
    for path in ["/head", "/body"] {
        let url = peer.url(path);
        fails(&daemon, &format!("http::get({url:?}, #{{ timeout: 0.1 }})"), "no answer within ");
        let script = daemon.script_with(
            &format!("try {{ http::get({url:?}) }} catch {{ 1 }}"),
            json!({ "timeout_seconds": 1 }),
        );
        let answer = daemon.post(&format!("/api/execute/{script}"), "");
        assert_eq!((answer.status, &answer.json()["reason"]), (504, &json!("timeout")), "{answer}");

        let seen = peer.seen().len();
        daemon.serve_async(path, &format!("try {{ http::get({url:?}) }} catch {{ 1 }}"));
        let execution = daemon.accepted(path, "");
        until("the call", || (peer.seen().len() > seen).then_some(()));
        daemon.done("POST", &format!("/executions/{execution}/cancel"), Value::Null);
        let end = daemon.ended(&execution);
        assert!(end["error"].as_str().unwrap().contains("cancelled"), "{end:#}");
        assert_eq!(end["script_logs"], json!([]), "it left memory behind");
    }
}

#[test]
fn a_call_under_way_does_not_keep_the_house_open() {
    let mut daemon = Setup::default().set("server.drain_grace_seconds", 0).start();
    allow(&daemon, json!({ "networks": ["127.0.0.1"] }));
    let peer = hanging();
    daemon.serve_async("/hang", &format!("http::get({:?})", peer.url("/head")));
    let execution = daemon.accepted("/hang", "");
    until("the call", || (!peer.seen().is_empty()).then_some(()));
    daemon.stop_and_start_again();
    // It was cut, and begins again.
    until("the second call", || (peer.seen().len() > 1).then_some(()));
    daemon.done("POST", &format!("/executions/{execution}/cancel"), Value::Null);
}

#[test]
fn calls_wait_for_a_place() {
    let daemon = Setup::default().set("egress.calls_max", 1).set("scripts.threads", 4).start();
    allow(&daemon, json!({ "networks": ["127.0.0.1"] }));
    let (peer, good) = (hanging(), Peer::echo());
    daemon.serve_async("/hang", &format!("http::get({:?})", peer.url("/head")));
    let execution = daemon.accepted("/hang", "");
    until("the call", || (!peer.seen().is_empty()).then_some(()));
    let call = format!("http::get({:?}, #{{ timeout: 0.05 }})", good.url("/"));
    fails(&daemon, &call, "too many calls of this app or of the device are under way");
    daemon.done("POST", &format!("/executions/{execution}/cancel"), Value::Null);
    daemon.ended(&execution);
    assert_eq!(value(&daemon, &format!("http::get({:?}).status", good.url("/"))), 200);
}

#[test]
fn certificates_are_checked() {
    let (peer, pem) = Peer::tls(&["localhost"]);
    let (port, dir) = (peer.address.port(), TempDir::new());
    let url = format!("https://localhost:{port}/");
    let strict = open_daemon();
    fails(
        &strict,
        &format!("http::get({url:?})"),
        "UnknownIssuer; name the authority of a local network in egress.ca_file",
    );
    let daemon = Setup::default().set("egress.ca_file", dir.file("ca.pem", &pem)).start();
    allow(&daemon, json!({ "networks": ["127.0.0.0/8"] }));
    assert_eq!(value(&daemon, &format!("http::get({url:?}).body")), "hello");
    // The right server under another of its names, and another server of this name.
    fails(&daemon, &format!("http::get(\"https://127.0.0.1:{port}/\")"), "certificate");
    let (other, _) = Peer::tls(&["localhost"]);
    fails(&daemon, &format!("http::get(\"https://localhost:{}/\")", other.address.port()), "certificate");
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let clear = plain.local_addr().unwrap().port();
    thread::spawn(move || {
        plain.incoming().flatten().for_each(|mut socket| drop(socket.write_all(b"HTTP/1.1 400 X\r\n\r\n")))
    });
    fails(&daemon, &format!("http::get(\"https://localhost:{clear}/\")"), "no TLS with https://localhost");
    let to_tls =
        Peer::new(move |_, out| say(out, 302, &format!("location: https://localhost:{port}/\r\n"), b""));
    assert_eq!(value(&daemon, &format!("http::get({:?}).body", to_tls.url("/"))), "hello");
}

#[test]
fn a_device_that_calls_itself_knows_its_chain() {
    // Each run waits for the next one, more of them than there are benches.
    let daemon = Setup::default().set("scripts.threads", 2).start();
    allow(&daemon, json!({ "networks": ["127.0.0.0/8"] }));
    let url = format!("http://localhost:{}/chain", daemon.address.port());
    daemon.serve(
        "/chain",
        &format!(
            "let me = [ctx.trigger_depth, ctx.root_execution_id, \"x-picloud-chain\" in request.headers];
             if ctx.trigger_depth < 3 {{ [me] + http::get({url:?}).json }} else {{ [me] }}"
        ),
    );
    let answer = daemon.get("/chain");
    let root = answer.execution_id();
    let steps: Vec<Value> = (0..4).map(|depth| json!([depth, root, false])).collect();
    assert_eq!(answer.json(), json!(steps), "{answer}");
    // What others claim is not believed, and not shown.
    let forged = format!("3.{root}.{}", "0".repeat(64));
    let answer = daemon.request("GET", "/chain").header("x-picloud-chain", &forged).send();
    assert_eq!(answer.json()[0], json!([0, answer.execution_id(), false]));
    // One that calls itself for ever ends at the cap: eight below the first.
    let url = format!("http://localhost:{}/loop", daemon.address.port());
    daemon.serve("/loop", &format!("#{{ inner: http::get({url:?}).json }}"));
    let answer = daemon.get("/loop");
    let mut inner = &answer.json();
    let depth = std::iter::from_fn(|| inner.get("inner").map(|next| inner = next)).count();
    assert_eq!((depth, &inner["reason"]), (9, &json!("depth_exceeded")), "{answer}");
}

#[test]
fn nobody_else_hears_of_chains_or_proxies() {
    let (good, proxy) = (Peer::echo(), Peer::echo());
    let daemon = Setup::default()
        .env("HTTP_PROXY", &proxy.url(""))
        .env("http_proxy", &proxy.url(""))
        .env("ALL_PROXY", &proxy.url(""))
        .start();
    allow(&daemon, json!({ "networks": ["127.0.0.1"] }));
    assert_eq!(value(&daemon, &format!("http::get({:?}).status", good.url("/"))), 200);
    assert!(proxy.seen().is_empty());
}

#[test]
fn a_file_of_authorities_that_is_of_no_use_is_named() {
    let dir = TempDir::new();
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    for (file, why) in [
        (dir.path().join("missing.pem").to_str().unwrap().to_owned(), "No such file"),
        (dir.file("empty.pem", "hello"), "there is no certificate in it"),
    ] {
        let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data];
        let ran = crate::harness::picloud(&args, &[("PICLOUD_EGRESS_CA_FILE", &file)]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains(&format!("egress.ca_file {file} cannot be used: {why}")), "{}", ran.err);
    }
}

#[test]
fn the_command_line_says_whom_an_app_may_call() {
    let daemon = Daemon::start();
    let url = format!("http://{}", daemon.address);
    let run = |args: &[&str]| {
        let all: Vec<&str> = ["app", "update", "default"].into_iter().chain(args.iter().copied()).collect();
        crate::harness::picloud(&all, &[("PICLOUD_URL", &url), ("PICLOUD_API_KEY", crate::harness::KEY)])
    };
    for (args, allow, networks) in [
        (
            &["--egress-network", "192.168.1.0/24,fd00::/8"][..],
            json!(null),
            json!(["192.168.1.0/24", "fd00::/8"]),
        ),
        (
            &["--egress-allow", "a.org", "--egress-allow", "*.b.org:443"],
            json!(["a.org", "*.b.org:443"]),
            json!(["192.168.1.0/24", "fd00::/8"]),
        ),
        (&["--egress-allow", "none", "--egress-network", "none"], json!([]), json!([])),
        (&["--egress-allow", "any", "--name", "Mine"], json!(null), json!([])),
    ] {
        let ran = run(args);
        assert_eq!((ran.code, ran.out.as_str()), (0, "updated app default\n"), "{args:?}: {}", ran.err);
        let app = daemon.done("GET", "/apps/default", Value::Null);
        assert_eq!(app["egress"], json!({ "allow": allow, "networks": networks }), "{args:?}");
    }
    assert_eq!(daemon.done("GET", "/apps/default", Value::Null)["name"], "Mine");
    let (nothing, wrong) = (run(&[]), run(&["--egress-network", "home"]));
    assert_eq!(nothing.code, 64, "{}", nothing.err);
    assert!(wrong.code == 1 && wrong.err.contains("\"home\" is no network"), "{}", wrong.err);
}
