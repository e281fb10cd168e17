//! Users: how a device without a screen is set up, how people log in and out, and what a session may do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, PICLOUD, Setup, TempDir, id};
use crate::http::{Answer, Request};
use crate::tls::{curl, root};

const ADA: &str = "ada@example.org";
const PASSWORD: &str = "correct horse";

/// The code that a fresh device has in its data directory.
#[track_caller]
fn code(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.data_dir().join("setup-code")).unwrap().trim().to_owned()
}

fn bare(daemon: &Daemon, path: &str, body: Value) -> Request {
    daemon.request("POST", &format!("/api/v1{path}")).body(body.to_string())
}

fn setup_with(daemon: &Daemon, code: &str) -> Answer {
    bare(daemon, "/setup", json!({ "email": ADA, "password": PASSWORD, "setup_code": code })).send()
}

fn login_with(daemon: &Daemon, email: &str, password: &str) -> Answer {
    bare(daemon, "/login", json!({ "email": email, "password": password })).send()
}

/// `picloud_session=<secret>` of an answer.
#[track_caller]
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").unwrap_or_else(|| panic!("no cookie: {answer}"));
    set.split(';').next().unwrap().to_owned()
}

/// A device with a user, and a session of it.
#[track_caller]
fn set_up(setup: Setup) -> (Daemon, String) {
    let daemon = setup.start();
    let answer = setup_with(&daemon, &code(&daemon));
    assert_eq!(answer.status, 201, "{answer}");
    (daemon, cookie(&answer))
}

#[track_caller]
fn login(daemon: &Daemon, password: &str) -> String {
    let answer = login_with(daemon, ADA, password);
    assert_eq!(answer.status, 200, "{answer}");
    cookie(&answer)
}

/// A request as the console's page sends it.
fn by_page(daemon: &Daemon, cookie: &str, method: &str, path: &str) -> Request {
    let request = daemon.request(method, path).header("cookie", cookie);
    request.header("origin", &daemon.url())
}

/// Who a session is, or the status of its refusal.
fn who(daemon: &Daemon, cookie: &str) -> Result<String, u16> {
    let answer = by_page(daemon, cookie, "GET", "/api/v1/me").send();
    if answer.status != 200 {
        return Err(answer.status);
    }
    Ok(answer.json()["user"]["email"].as_str().unwrap().to_owned())
}

#[test]
fn a_new_device_is_set_up_once_with_the_code_that_it_shows() {
    let mut daemon = Setup::default().without_device_key().start();
    let file = daemon.data_dir().join("setup-code");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = code(&daemon);
    assert!(daemon.log().contains("setup-code") && !daemon.log().contains(&shown), "{}", daemon.log());
    daemon.stop_and_start_again();
    assert_eq!(code(&daemon), shown, "a restart keeps it");
    assert!(!daemon.data_dir().join("device/set-up").exists());

    let began = Instant::now();
    let wrong = setup_with(&daemon, "AAAA-AAAA");
    assert_eq!(wrong.status, 403, "{wrong}");
    assert!(wrong.error().starts_with("setup_code: ") && began.elapsed() >= Duration::from_millis(500));

    let answer = setup_with(&daemon, &shown.to_lowercase().replace('-', " "));
    assert_eq!(answer.status, 201, "{answer}");
    let body = answer.json();
    assert_eq!(body["user"]["email"], ADA);
    assert!(body["user"].get("password").is_none(), "{body}");
    let secret = body["api_key"]["secret"].as_str().unwrap().to_owned();
    let by_key = daemon.request("GET", "/api/v1/users").key(&secret).send();
    assert_eq!(by_key.json()["items"][0], body["user"]);
    assert_eq!(who(&daemon, &cookie(&answer)).as_deref(), Ok(ADA));

    assert!(!file.exists(), "the code is still there");
    let mark = daemon.data_dir().join("device/set-up");
    assert_eq!(fs::metadata(&mark).unwrap().permissions().mode() & 0o777, 0o644);
    for code in [shown.as_str(), "AAAA-AAAA"] {
        let again = setup_with(&daemon, code);
        assert_eq!((again.status, again.error().contains("has a user already")), (409, true), "{again}");
    }
    daemon.kill_and_start_again();
    assert_eq!(setup_with(&daemon, &shown).status, 409);
    assert_eq!(who(&daemon, &cookie(&answer)).as_deref(), Ok(ADA), "a session outlives a restart");
    assert!(!file.exists() && mark.exists());
    let log = daemon.log();
    for hidden in [shown.as_str(), PASSWORD, secret.as_str(), cookie(&answer).as_str()] {
        assert!(!log.contains(hidden), "{hidden} is in the log:\n{log}");
    }
}

#[test]
fn the_code_may_come_as_a_credential() {
    let dir = TempDir::new();
    dir.file("setup-code", "shown-on-the-box\n");
    let credentials = dir.path().to_str().unwrap().to_owned();
    let daemon = Setup::default().env("CREDENTIALS_DIRECTORY", &credentials).start();
    assert!(!daemon.data_dir().join("setup-code").exists());
    assert_eq!(setup_with(&daemon, "SHOWN-ON-THE-BOX").status, 201);
    assert!(daemon.data_dir().join("device/set-up").exists());
}

#[test]
fn a_user_made_by_key_ends_the_setup_too() {
    let daemon = Daemon::start();
    let shown = code(&daemon);
    daemon.done("POST", "/users", json!({ "email": "eve@example.org", "password": PASSWORD }));
    assert!(!daemon.data_dir().join("setup-code").exists());
    assert!(daemon.data_dir().join("device/set-up").exists());
    assert_eq!(setup_with(&daemon, &shown).status, 409);
}

#[test]
fn what_the_setup_is_given_is_checked() {
    let daemon = Daemon::start();
    let code = code(&daemon);
    for (email, password, field) in
        [("nobody", PASSWORD, "email"), (ADA, "too short", "password"), (ADA, &"x".repeat(257), "password")]
    {
        let body = json!({ "email": email, "password": password, "setup_code": code });
        let answer = bare(&daemon, "/setup", body).send();
        assert_eq!((answer.status, &answer.json()["field"]), (422, &json!(field)), "{answer}");
        assert!(!answer.text().contains(password), "{answer}");
    }
    assert_eq!(bare(&daemon, "/setup", json!({ "email": ADA })).send().status, 422);
    assert_eq!(daemon.get("/api/v1/setup").status, 405);
    assert_eq!(setup_with(&daemon, &code).status, 201, "mistakes are no guesses");
}

#[test]
fn codes_cannot_be_guessed() {
    let daemon = Daemon::start();
    std::thread::scope(|scope| {
        let tries: Vec<_> =
            (0..10).map(|_| scope.spawn(|| setup_with(&daemon, "WRNG-CODE").status)).collect();
        tries.into_iter().for_each(|tried| assert_eq!(tried.join().unwrap(), 403));
    });
    let answer = setup_with(&daemon, &code(&daemon));
    assert_eq!(answer.status, 429, "{answer}");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((3_500..=3_600).contains(&wait), "{wait}");
}

#[test]
fn people_log_in_and_out() {
    let (daemon, first) = set_up(Setup::default());
    let answer = login_with(&daemon, "Ada@Example.ORG", PASSWORD);
    assert_eq!((answer.status, &answer.json()["user"]["email"]), (200, &json!(ADA)), "{answer}");
    let set = answer.header("set-cookie").unwrap();
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age=2592000"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure"), "it came in the clear: {set}");
    let second = cookie(&answer);
    assert_eq!(second.len(), "picloud_session=".len() + 64);
    assert_ne!(first, second);

    let unknown = login_with(&daemon, "eve@example.org", PASSWORD);
    let wrong = login_with(&daemon, ADA, "wrong horse");
    assert_eq!((unknown.status, wrong.status), (401, 401));
    assert_eq!(unknown.error(), wrong.error(), "nobody hears which of both was wrong");
    for odd in [json!({ "email": "", "password": "" }), json!({ "email": ADA, "password": "x".repeat(5000) })]
    {
        assert_eq!(bare(&daemon, "/login", odd).send().status, 401);
    }

    let out = by_page(&daemon, &second, "POST", "/api/v1/logout").send();
    assert_eq!(out.status, 204, "{out}");
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(who(&daemon, &second), Err(401));
    assert_eq!(who(&daemon, &first).as_deref(), Ok(ADA), "the other session goes on");
    assert_eq!(who(&daemon, "picloud_session=0"), Err(401));
    assert_eq!(who(&daemon, "picloud_session="), Err(401));
}

#[test]
fn passwords_cannot_be_guessed() {
    let (daemon, session) = set_up(Setup::default());
    for _ in 0..10 {
        login(&daemon, PASSWORD);
    }
    for number in 0..10 {
        let email = if number % 2 == 0 { ADA } else { "eve@example.org" };
        assert_eq!(login_with(&daemon, email, "wrong horse").status, 401);
    }
    let answer = login_with(&daemon, ADA, PASSWORD);
    assert_eq!(answer.status, 429, "{answer}");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&wait), "{wait}");
    assert_eq!(who(&daemon, &session).as_deref(), Ok(ADA), "who is in stays in");
}

/// The same work is done for both.
#[test]
fn the_time_does_not_tell_who_is_a_user() {
    let (daemon, _) = set_up(Setup::default());
    let fastest = |email: &str| {
        let one = |_| {
            let began = Instant::now();
            assert_eq!(login_with(&daemon, email, "wrong horse").status, 401);
            began.elapsed()
        };
        (0..4).map(one).min().unwrap()
    };
    let (user, nobody) = (fastest(ADA), fastest("eve@example.org"));
    assert!(nobody > user / 3 && user > nobody / 3, "{user:?} {nobody:?}");
}

#[test]
fn a_session_is_a_credential_of_the_management_api() {
    let (daemon, session) = set_up(Setup::default());
    let body = json!({ "slug": "boat", "name": "Boat" }).to_string();
    let post = |headers: &[(&str, &str)]| {
        let request = daemon.request("POST", "/api/v1/apps").header("cookie", &session).body(&body);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().status
    };
    let url = daemon.url();
    let other_port = "http://127.0.0.1:1";
    assert_eq!(post(&[]), 403, "it does not say where it comes from");
    for elsewhere in ["http://evil.example", other_port, "null"] {
        assert_eq!(post(&[("origin", elsewhere)]), 403, "{elsewhere}");
    }
    assert_eq!(post(&[("origin", &url), ("sec-fetch-site", "same-site")]), 403);
    assert_eq!(post(&[("sec-fetch-site", "same-origin")]), 201);
    assert_eq!(post(&[("origin", &url)]), 409, "it is there already");
    let read = daemon.request("GET", "/api/v1/apps").header("cookie", &session).header("origin", other_port);
    assert_eq!(read.send().status, 200);
    // A key is sent on purpose, wherever a page is from.
    let by_key = daemon.request("DELETE", "/api/v1/apps/boat").key(KEY).header("origin", other_port);
    assert_eq!(by_key.send().status, 204);

    let me = daemon.done("GET", "/me", Value::Null);
    assert_eq!(me["kind"], "device");
    let key = daemon.done("POST", "/keys", json!({ "name": "phone" }));
    let mine = daemon.request("GET", "/api/v1/me").key(key["secret"].as_str().unwrap()).send().json();
    assert_eq!((&mine["kind"], &mine["api_key"]["name"]), (&json!("api_key"), &json!("phone")));
    let mine = by_page(&daemon, &session, "GET", "/api/v1/me").send().json();
    assert_eq!((&mine["kind"], &mine["user"]["email"]), (&json!("session"), &json!(ADA)));
    assert!(mine["session"]["expires_at"].is_string(), "{mine}");
}

#[test]
fn other_pages_make_nobody_log_in() {
    let (daemon, _) = set_up(Setup::default());
    for path in ["/login", "/setup"] {
        let request = bare(&daemon, path, json!({ "email": ADA, "password": PASSWORD }));
        assert_eq!(request.header("origin", "http://evil.example").send().status, 403, "{path}");
    }
    assert_eq!(bare(&daemon, "/login", json!({ "email": ADA, "password": PASSWORD })).send().status, 200);
}

#[test]
fn a_session_is_a_principal_of_the_data_plane() {
    let (daemon, session) = set_up(Setup::default());
    let script = daemon.script_with("#{ who: ctx.principal, cookie: request.headers.cookie }", json!({}));
    daemon.route("ANY", "/mine", &script, json!({ "access": "key" }));
    daemon.route("ANY", "/open", &script, json!({}));
    let user = id(&daemon.all("/users")[0]);
    let both = format!("a=1; {session}; b=2");
    let seen = by_page(&daemon, &both, "GET", "/mine").send();
    assert_eq!(seen.status, 200, "{seen}");
    assert_eq!(seen.json(), json!({ "who": { "id": user, "name": ADA }, "cookie": "a=1; b=2" }));
    assert_eq!(by_page(&daemon, &session, "POST", "/mine").send().status, 200);
    // What another page makes a browser send belongs to nobody.
    let forged =
        |path| daemon.request("POST", path).header("cookie", &both).header("origin", "http://evil.example");
    assert_eq!(forged("/mine").send().status, 401);
    assert_eq!(forged("/open").send().json(), json!({ "who": null, "cookie": "a=1; b=2" }));
    assert_eq!(daemon.get("/mine").status, 401);
    assert_eq!(by_page(&daemon, "picloud_session=1", "GET", "/mine").send().status, 401);
    let direct = by_page(&daemon, &session, "POST", &format!("/api/execute/{script}")).send().json();
    assert_eq!(direct["who"]["name"], ADA);
    for record in daemon.all("/executions") {
        let record = daemon.execution(&id(&record)).to_string();
        assert!(!record.contains(&session), "{record}");
    }
}

#[test]
fn over_tls_the_cookie_stays_there() {
    let daemon = Setup::default().tls().start();
    let ca = root(&daemon);
    let body = json!({ "email": ADA, "password": PASSWORD, "setup_code": code(&daemon) }).to_string();
    let jar = daemon.dir().path().join("jar").to_str().unwrap().to_owned();
    let page = |path, version, more: &[&str]| {
        let origin = format!("origin: https://localhost:{}", daemon.tls_address().port());
        let words = ["--cacert", &ca, version, "-b", &jar, "-c", &jar, "-i", "-H", &origin];
        let ran = curl(&daemon, "localhost", path, &[&words[..], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    };
    let made = page("/api/v1/setup", "--http1.1", &["-d", &body]);
    assert!(made.contains("201") && made.contains("; Secure"), "{made}");
    for version in ["--http1.1", "--http2"] {
        let me = page("/api/v1/me", version, &["-H", "cookie: a=1"]);
        assert!(me.contains("200") && me.contains(ADA), "{version}: {me}");
        let named = json!({ "name": version }).to_string();
        let key = page("/api/v1/keys", version, &["-d", &named]);
        assert!(key.contains("201"), "{version}: {key}");
    }
    let forged = page("/api/v1/keys", "--http2", &["-H", "sec-fetch-site: same-site", "-X", "POST"]);
    assert!(forged.contains("403"), "{forged}");
    let out = page("/api/v1/logout", "--http2", &["-X", "POST"]);
    assert!(out.contains("204"), "{out}");
    assert!(page("/api/v1/me", "--http2", &[]).contains("401"));
}

#[test]
fn users_are_made_changed_and_removed() {
    let (daemon, session) = set_up(Setup::default());
    let eve =
        daemon.done("POST", "/users", json!({ "email": "Eve@example.org", "password": "another horse" }));
    assert_eq!(eve["email"], "eve@example.org");
    assert!(eve.get("password").is_none() && eve["created_at"].is_string() && eve["updated_at"].is_string());
    let one = format!("/users/{}", id(&eve));
    assert_eq!(daemon.done("GET", &one, Value::Null), eve);
    let twice =
        daemon.api("POST", "/users", json!({ "email": "EVE@example.org", "password": "another horse" }));
    assert_eq!((twice.status, twice.error().starts_with("email: ")), (409, true), "{twice}");
    let clash = daemon.api("PATCH", &one, json!({ "email": ADA }));
    assert_eq!(clash.status, 409, "{clash}");
    let short = daemon.api("PATCH", &one, json!({ "password": "short" }));
    assert_eq!((short.status, &short.json()["field"]), (422, &json!("password")), "{short}");
    let moved = daemon.done("PATCH", &one, json!({ "email": "eva@example.org" }));
    assert_eq!((id(&moved), &moved["email"]), (id(&eve), &json!("eva@example.org")));

    let hers = cookie(&login_with(&daemon, "eva@example.org", "another horse"));
    assert_eq!(who(&daemon, &hers).as_deref(), Ok("eva@example.org"));
    daemon.done("DELETE", &one, Value::Null);
    assert_eq!(who(&daemon, &hers), Err(401), "who is removed is out");
    assert_eq!(login_with(&daemon, "eva@example.org", "another horse").status, 401);
    assert_eq!(daemon.api("GET", &one, Value::Null).status, 404);
    assert_eq!(who(&daemon, &session).as_deref(), Ok(ADA));
    let last = format!("/users/{}", id(&daemon.all("/users")[0]));
    let kept = daemon.api("DELETE", &last, Value::Null);
    assert_eq!((kept.status, kept.error().contains("last user")), (409, true), "{kept}");
}

#[test]
fn another_password_ends_the_other_sessions() {
    let (daemon, session) = set_up(Setup::default());
    let other = login(&daemon, PASSWORD);
    let path = format!("/api/v1/users/{}", id(&daemon.all("/users")[0]));
    let patch =
        by_page(&daemon, &session, "PATCH", &path).body(json!({ "password": "battery staple" }).to_string());
    assert_eq!(patch.send().status, 200);
    assert_eq!(who(&daemon, &session).as_deref(), Ok(ADA), "whoever changes it stays");
    assert_eq!(who(&daemon, &other), Err(401));
    assert_eq!(login_with(&daemon, ADA, PASSWORD).status, 401);
    login(&daemon, "battery staple");
    daemon.done("PATCH", &path["/api/v1".len()..], json!({ "password": "third password" }));
    assert_eq!(who(&daemon, &session), Err(401), "a key ends all of them");
}

#[test]
fn a_user_has_twenty_sessions_and_the_oldest_goes() {
    let (daemon, first) = set_up(Setup::default());
    let second = login(&daemon, PASSWORD);
    for _ in 0..18 {
        login(&daemon, PASSWORD);
    }
    assert_eq!(who(&daemon, &first).as_deref(), Ok(ADA), "twenty");
    login(&daemon, PASSWORD);
    assert_eq!((who(&daemon, &first), who(&daemon, &second).as_deref()), (Err(401), Ok(ADA)));
}

#[test]
fn backups_hold_users_and_no_sessions() {
    let (mut daemon, session) = set_up(Setup::default());
    let shown = daemon.data_dir().join("setup-code");
    let file = daemon.dir().path().join("b.zst").to_str().unwrap().to_owned();
    let made = daemon.cli(&["backup", "--to", &file]);
    assert_eq!(made.code, 0, "{}", made.err);
    let text =
        String::from_utf8_lossy(&zstd::decode_all(fs::read(&file).unwrap().as_slice()).unwrap()).into_owned();
    assert!(text.contains("users") && text.contains(ADA) && !text.contains("sessions"));
    let restored = daemon.cli(&["restore", &file, "--yes"]);
    assert_eq!(restored.code, 0, "{}", restored.err);
    crate::harness::until("the restored store", || (who(&daemon, &session) == Err(401)).then_some(()));
    let again = login(&daemon, PASSWORD);
    daemon.stop_and_start_again();
    assert_eq!(who(&daemon, &again).as_deref(), Ok(ADA));
    assert!(!shown.exists());
}

#[test]
fn a_backup_without_users_opens_the_setup_again() {
    let daemon = Daemon::start();
    let (shown, mark) = (daemon.data_dir().join("setup-code"), daemon.data_dir().join("device/set-up"));
    let file = daemon.dir().path().join("b.zst").to_str().unwrap().to_owned();
    assert_eq!(daemon.cli(&["backup", "--to", &file]).code, 0);
    let first = code(&daemon);
    let session = cookie(&setup_with(&daemon, &first));
    assert!(!shown.exists() && mark.exists());
    assert_eq!(daemon.cli(&["restore", &file, "--yes"]).code, 0);
    crate::harness::until("the restored store", || (who(&daemon, &session) == Err(401)).then_some(()));
    assert!(shown.exists() && !mark.exists());
    let second = code(&daemon);
    assert_ne!(first, second, "an old code opens nothing");
    assert_eq!((setup_with(&daemon, &first).status, setup_with(&daemon, &second).status), (403, 201));
}

#[test]
fn the_command_line_sets_up_and_manages_users() {
    let daemon = Setup::default().without_device_key().start();
    let dir = TempDir::new();
    let url = daemon.url();
    let run = |args: &[&str], stdin: &str| {
        let mut command = Command::new(PICLOUD);
        command.args(args).env_clear().env("PICLOUD_URL", &url).current_dir(dir.path());
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let setup = ["setup", "--email", ADA, "--save", "my.key"];
    let (code, _, err) = run(&setup, "correct horse\nWRNG-CODE\n");
    assert!(code == 1 && err.contains("not the code that the device shows"), "{err}");
    assert!(!dir.path().join("my.key").exists(), "there is no key");
    let (code, _, err) = run(&setup, "correct horse\n");
    assert!(code == 64 && err.contains("setup code of the device"), "{err}");

    let code_file = daemon.data_dir().join("setup-code").to_str().unwrap().to_owned();
    let (code, out, err) = run(&[&setup[..], &["--setup-code-file", &code_file]].concat(), "correct horse\n");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("my.key") && !out.contains("pic_"), "{out}");
    let key = dir.path().join("my.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    let with_key = |args: &[&str], stdin: &str| {
        let (code, out, err) = run(&[args, &["--key-file", "my.key"]].concat(), stdin);
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    };
    with_key(&["user", "add", "eve@example.org"], "another horse\n");
    let listed = with_key(&["user", "ls"], "");
    assert!(listed.contains(ADA) && listed.contains("eve@example.org"), "{listed}");
    dir.file("new", "third password\n");
    with_key(&["user", "passwd", "Eve@example.org", "--password-file", "new"], "");
    assert_eq!(login_with(&daemon, "eve@example.org", "third password").status, 200);
    with_key(&["user", "rm", "eve@example.org"], "");
    assert!(!with_key(&["user", "ls", "--json"], "").contains("eve@"));
}
