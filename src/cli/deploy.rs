//! `picloud deploy`: makes a script and its routes be what the command says, and says what that changed.
//!
//! The command describes the wanted state, so a second run changes nothing: a source that is already active makes no
//! new version. What an option does not mention stays, but a route is sync unless `--async` says otherwise.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::args::{self, Access, Durability, InApp};
use super::error::Error;
use super::find::{app_name, app_path, describe_route};
use super::input::{self, Source};
use super::render::{clean, text};
use super::session::Session;

/// What to deploy.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The script's file, or - for standard input
    file: PathBuf,
    /// For whom.
    #[command(flatten)]
    of: InApp,
    /// The script's name [default: the file's name without its ending]
    #[arg(long)]
    name: Option<String>,
    /// A route to the script, like 'GET /hello/{name}'; may be repeated
    #[arg(long = "route", value_name = "METHOD PATH", value_parser = wanted_route)]
    routes: Vec<WantedRoute>,
    /// The routes answer 202 at once, and the script runs in the background
    #[arg(long)]
    r#async: bool,
    /// Wall-clock limit of a run in seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u16>,
    /// When sync work over the routes is durable
    #[arg(long)]
    durability: Option<Durability>,
    /// Who may call, over the routes and directly
    #[arg(long)]
    access: Option<Access>,
}

/// A method and a path.
#[derive(Clone, Debug)]
struct WantedRoute {
    method: String,
    path: String,
}

/// A thing as it is now, and what was done to make it so.
struct Done {
    value: Value,
    said: String,
}

fn wanted_route(text: &str) -> Result<WantedRoute, String> {
    match text.split_whitespace().collect::<Vec<_>>().as_slice() {
        [method, path] if path.starts_with('/') => {
            Ok(WantedRoute { method: method.to_ascii_uppercase(), path: (*path).to_owned() })
        }
        _ => Err("must be a method and a path, like 'GET /hello/{name}'".to_owned()),
    }
}

/// A script's name: the one given, else the file's name without its ending.
pub(super) fn script_name(name: Option<String>, file: &Path) -> Result<String, Error> {
    let stem = || (file != Path::new("-")).then(|| file.file_stem()?.to_str().map(str::to_owned)).flatten();
    name.or_else(stem).ok_or_else(|| Error::Usage("the script needs a name; give one with --name".to_owned()))
}

/// Does it.
pub(super) fn run(session: &mut Session<'_>, args: Args) -> Result<(), Error> {
    let source = input::source(&args.file)?;
    let name = script_name(args.name.clone(), &args.file)?;
    let script = script(session, &args, &source, &name)?;
    let mut routes = Vec::new();
    for wanted in &args.routes {
        routes.push(route(session, &args, wanted, &script.value)?);
    }
    let calls = calls(session, &args.of.app, &script.value, &routes)?;
    if session.json {
        let routes: Vec<&Value> = routes.iter().map(|route| &route.value).collect();
        let urls: Vec<&String> = calls.iter().map(|call| &call.url).collect();
        return session.document(&json!({ "script": script.value, "routes": routes, "urls": urls }));
    }
    for done in [&script].into_iter().chain(&routes) {
        session.say(&done.said)?;
    }
    for call in &calls {
        session.say(format_args!("\n{}\n  {}", call.url, call.curl))?;
    }
    Ok(())
}

/// Creates the script, or changes what differs.
fn script(session: &Session<'_>, args: &Args, source: &Source, name: &str) -> Result<Done, Error> {
    let path = format!("{}/scripts", app_path(&args.of.app));
    let what = app_name(&args.of.app);
    let mut wanted = Map::from_iter([("source".to_owned(), json!(source.text))]);
    wanted.extend(args.timeout.map(|seconds| ("timeout_seconds".to_owned(), json!(seconds))));
    wanted.extend(args.access.and_then(args::word).map(|word| ("access".to_owned(), json!(word))));

    let list = session.client.list(&path, &[], None, &what)?;
    let shown = clean(name);
    let Some(found) = list.items.iter().find(|item| item["name"] == name) else {
        wanted.insert("name".to_owned(), json!(name));
        let made =
            session.client.post(&path, &Value::Object(wanted), &what).map_err(|why| source.explain(why))?;
        let said = format!("script {shown}: created, version {}", text(&made["active_version"]));
        return Ok(Done { value: made, said });
    };
    let path = format!("{path}/{}", text(&found["id"]));
    let what = format!("script {shown}");
    let old = session.client.get(&path, &what)?;
    let Some(change) = difference(wanted, &old) else {
        let said = format!("script {shown}: unchanged, version {}", text(&old["active_version"]));
        return Ok(Done { value: old, said });
    };
    let new = session.client.patch(&path, &change, &what).map_err(|why| source.explain(why))?;
    let said = format!("script {shown}: updated, version {}", text(&new["active_version"]));
    Ok(Done { value: new, said })
}

/// Creates the route, or changes what differs.
fn route(session: &Session<'_>, args: &Args, wanted: &WantedRoute, script: &Value) -> Result<Done, Error> {
    let path = format!("{}/routes", app_path(&args.of.app));
    let what = app_name(&args.of.app);
    let mut fields = Map::from_iter([
        ("script_id".to_owned(), script["id"].clone()),
        ("dispatch_mode".to_owned(), json!(if args.r#async { "async" } else { "sync" })),
    ]);
    fields.extend(args.durability.and_then(args::word).map(|word| ("durability".to_owned(), json!(word))));
    fields.extend(args.access.and_then(args::word).map(|word| ("access".to_owned(), json!(word))));

    let list = session.client.list(&path, &[], None, &what)?;
    let same = |item: &&Value| {
        item["method"] == wanted.method.as_str()
            && item["path"] == wanted.path.as_str()
            && item["host"].is_null()
    };
    let (value, did) = match list.items.iter().find(same) {
        None => {
            fields.insert("method".to_owned(), json!(wanted.method));
            fields.insert("path".to_owned(), json!(wanted.path));
            (session.client.post(&path, &Value::Object(fields), &what)?, "created")
        }
        Some(old) => match difference(fields, old) {
            None => (old.clone(), "unchanged"),
            Some(change) => {
                let path = format!("{path}/{}", text(&old["id"]));
                (session.client.patch(&path, &change, &format!("route {}", describe_route(old)))?, "updated")
            }
        },
    };
    let said = format!("route {}: {did}, {}", describe_route(&value), text(&value["dispatch_mode"]));
    Ok(Done { value, said })
}

/// The wanted fields that are not so yet.
fn difference(wanted: Map<String, Value>, old: &Value) -> Option<Value> {
    let change: Map<_, _> = wanted.into_iter().filter(|(name, value)| old[name] != *value).collect();
    (!change.is_empty()).then_some(Value::Object(change))
}

/// How a route, or the script itself, is called.
struct Call {
    url: String,
    curl: String,
}

fn calls(session: &mut Session<'_>, app: &str, script: &Value, routes: &[Done]) -> Result<Vec<Call>, Error> {
    let base = session.client.url().to_owned();
    let keyed = |access: &Value| access == "key" || script["access"] == "key";
    if routes.is_empty() {
        let url = format!("{base}/api/execute/{}", text(&script["id"]));
        return Ok(vec![Call { curl: curl("POST", &url, None, keyed(&Value::Null)), url }]);
    }
    let domains = session.client.list(&format!("{}/domains", app_path(app)), &[], None, &app_name(app))?;
    if domains.items.is_empty() && !session.json {
        let app = clean(app);
        session.note(format_args!(
            "app {app} claims no host yet; claim one with `picloud domain add HOST --app {app}`"
        ))?;
    }
    let host = host(&domains.items);
    let call = |done: &Done| {
        let path = example(done.value["path"].as_str().unwrap_or_default());
        let method = done.value["method"].as_str().filter(|method| *method != "ANY").unwrap_or("GET");
        let curl = curl(method, &format!("{base}{path}"), host.as_deref(), keyed(&done.value["access"]));
        Call { url: format!("{}{path}", with_host(&base, host.as_deref())), curl }
    };
    Ok(routes.iter().map(call).collect())
}

/// A host that reaches the app, if the daemon's own address does not: then the app claims no `*`.
fn host(domains: &[Value]) -> Option<String> {
    let patterns: Vec<&str> = domains.iter().filter_map(|domain| domain["pattern"].as_str()).collect();
    if patterns.contains(&"*") {
        return None;
    }
    let exact = patterns.iter().find(|pattern| !pattern.starts_with('*')).or(patterns.first());
    exact.map(|pattern| clean(pattern).replace('*', "www"))
}

/// The daemon's URL under another host name, with its port.
fn with_host(base: &str, host: Option<&str>) -> String {
    let Some(host) = host else { return base.to_owned() };
    let port = base.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    port.map_or_else(|| format!("http://{host}"), |(_, port)| format!("http://{host}:{port}"))
}

/// A path that the pattern matches: each parameter is its own name, which also keeps braces away from curl.
fn example(pattern: &str) -> String {
    clean(pattern).replace("{*", "").replace(['{', '}'], "")
}

fn curl(method: &str, url: &str, host: Option<&str>, keyed: bool) -> String {
    let mut parts = vec!["curl".to_owned()];
    parts.extend((method != "GET").then(|| format!("-X {method}")));
    parts.extend(host.map(|host| format!("-H {}", quoted(&format!("host: {host}")))));
    parts.extend(keyed.then(|| "-H \"authorization: Bearer $PICLOUD_API_KEY\"".to_owned()));
    parts.extend(matches!(method, "POST" | "PUT" | "PATCH").then(|| "-d '{}'".to_owned()));
    parts.push(quoted(url));
    parts.join(" ")
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=%@+".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        assert_eq!(script_name(None, Path::new("a/hello.world.rhai")).unwrap(), "hello.world");
        assert_eq!(script_name(Some("x".into()), Path::new("-")).unwrap(), "x");
        assert!(script_name(None, Path::new("-")).is_err());
    }

    #[test]
    fn call_lines_can_be_pasted() {
        assert_eq!(example("/hello/{name}/{*rest}"), "/hello/name/rest");
        assert_eq!(curl("GET", "http://a/b", None, false), "curl http://a/b");
        assert_eq!(
            curl("POST", "http://a/it's", Some("shop.local"), true),
            "curl -X POST -H 'host: shop.local' -H \"authorization: Bearer $PICLOUD_API_KEY\" -d '{}' 'http://a/it'\\''s'"
        );
        assert_eq!(with_host("http://127.0.0.1:8080", Some("shop.local")), "http://shop.local:8080");
        assert_eq!(with_host("http://127.0.0.1", Some("shop.local")), "http://shop.local");
        assert_eq!(with_host("http://[::1]", Some("::2")), "http://[::2]");
    }

    #[test]
    fn a_catch_all_needs_no_host() {
        let domains =
            |patterns: &[&str]| patterns.iter().map(|p| json!({ "pattern": p })).collect::<Vec<_>>();
        assert_eq!(host(&domains(&["a.local", "*"])), None);
        assert_eq!(host(&domains(&["*.b.local", "a.local"])).as_deref(), Some("a.local"));
        assert_eq!(host(&domains(&["*.b.local"])).as_deref(), Some("www.b.local"));
        assert_eq!(host(&[]), None);
    }
}
