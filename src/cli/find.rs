//! From the names that people use to the ids that the API asks for.
//!
//! An id is taken as it is, without asking. A name must mean exactly one thing; if it means several, the error lists
//! them.

use serde_json::Value;
use uuid::Uuid;

use super::client::{Client, Listing, segment};
use super::error::Error;
use super::render::{clean, text};

/// The API's path of an app, whose id or slug is given.
pub(super) fn app_path(app: &str) -> String {
    format!("/api/v1/apps/{}", segment(app))
}

/// An app as people name it.
pub(super) fn app_name(app: &str) -> String {
    format!("app {}", clean(app))
}

/// The id of an app's script, by name.
pub(super) fn script(client: &Client, app: &str, script: &str) -> Result<String, Error> {
    if let Some(id) = id(script) {
        return Ok(id);
    }
    let list = client.list(&format!("{}/scripts", app_path(app)), &[], None, &app_name(app))?;
    let what = format!("script {} of {}", clean(script), app_name(app));
    one(
        list.items.iter().filter(|item| item["name"] == script),
        &what,
        &names(&list, "name"),
        describe_script,
    )
}

/// The id of a script by name, in one app or in any.
pub(super) fn script_anywhere(client: &Client, app: Option<&str>, script: &str) -> Result<String, Error> {
    if let Some(app) = app {
        return self::script(client, app, script);
    }
    if let Some(id) = id(script) {
        return Ok(id);
    }
    let mut found = Vec::new();
    for app in client.list("/api/v1/apps", &[], None, "the list of apps")?.items {
        let slug = text(&app["slug"]);
        let scripts = client.list(&format!("{}/scripts", app_path(&slug)), &[], None, &app_name(&slug))?;
        let named = scripts.items.into_iter().filter(|item| item["name"] == script);
        found.extend(named.map(|mut item| {
            item["app"] = Value::from(slug.clone());
            item
        }));
    }
    one(found.iter(), &format!("script {}", clean(script)), "", describe_script)
}

/// The id of an app's domain, by pattern.
pub(super) fn domain(client: &Client, app: &str, pattern: &str) -> Result<String, Error> {
    if let Some(id) = id(pattern) {
        return Ok(id);
    }
    let list = client.list(&format!("{}/domains", app_path(app)), &[], None, &app_name(app))?;
    let what = format!("domain {} of {}", clean(pattern), app_name(app));
    let named =
        |item: &&Value| item["pattern"].as_str().is_some_and(|text| text.eq_ignore_ascii_case(pattern));
    one(list.items.iter().filter(named), &what, &names(&list, "pattern"), |item| text(&item["id"]))
}

/// The id of a key, by name.
pub(super) fn key(client: &Client, name: &str) -> Result<String, Error> {
    if let Some(id) = id(name) {
        return Ok(id);
    }
    let list = client.list("/api/v1/keys", &[], None, "the list of keys")?;
    let describe = |item: &Value| format!("{} ({}…)", text(&item["id"]), text(&item["hint"]));
    let named = list.items.iter().filter(|item| item["name"] == name);
    one(named, &format!("key {}", clean(name)), &names(&list, "name"), describe)
}

/// The id of a user, by e-mail address.
pub(super) fn user(client: &Client, email: &str) -> Result<String, Error> {
    if let Some(id) = id(email) {
        return Ok(id);
    }
    let list = client.list("/api/v1/users", &[], None, "the list of users")?;
    let named = |item: &&Value| item["email"].as_str().is_some_and(|text| text == email.to_lowercase());
    let found = list.items.iter().filter(named);
    one(found, &format!("user {}", clean(email)), &names(&list, "email"), |item| text(&item["id"]))
}

/// The id of an app's route, by path, or by method and path.
pub(super) fn route(client: &Client, app: &str, words: &[String]) -> Result<String, Error> {
    let wanted = words.join(" ");
    if let Some(id) = id(&wanted) {
        return Ok(id);
    }
    let list = client.list(&format!("{}/routes", app_path(app)), &[], None, &app_name(app))?;
    let what = format!("route {} of {}", clean(&wanted), app_name(app));
    let (method, path) = wanted.split_once(' ').map_or((None, wanted.as_str()), |(m, p)| (Some(m), p.trim()));
    let named = list.items.iter().filter(|item| {
        let same =
            |method: &str| item["method"].as_str().is_some_and(|text| text.eq_ignore_ascii_case(method));
        item["path"] == path && method.is_none_or(same)
    });
    one(named, &what, "", |item| format!("{} ({})", text(&item["id"]), describe_route(item)))
}

/// A route as people name it: method, host if it has one, and path.
pub(super) fn describe_route(route: &Value) -> String {
    let host = route["host"].as_str().map(clean).unwrap_or_default();
    format!("{} {host}{}", text(&route["method"]), text(&route["path"]))
}

fn describe_script(item: &Value) -> String {
    let app = item["app"].as_str().map(|app| format!(" (app {})", clean(app)));
    format!("{}{}", text(&item["id"]), app.unwrap_or_default())
}

/// The canonical text of an id.
pub(super) fn id(text: &str) -> Option<String> {
    Uuid::try_parse(text).ok().map(|id| id.to_string())
}

/// What there is instead, for a person who mistyped a name.
fn names(list: &Listing, field: &str) -> String {
    let mut names: Vec<String> = list.items.iter().take(10).map(|item| text(&item[field])).collect();
    if list.items.len() > names.len() {
        names.push("…".to_owned());
    }
    if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) }
}

fn one<'a>(
    found: impl Iterator<Item = &'a Value>,
    what: &str,
    instead: &str,
    describe: impl Fn(&Value) -> String,
) -> Result<String, Error> {
    let found: Vec<&Value> = found.collect();
    match found.as_slice() {
        [] if instead.is_empty() => Err(Error::Failed(format!("there is no {what}"))),
        [] => Err(Error::Failed(format!("there is no {what}; {instead}"))),
        [only] => Ok(text(&only["id"])),
        several => {
            let candidates = several.iter().map(|item| describe(item)).collect::<Vec<_>>().join(", ");
            Err(Error::Failed(format!("{what} is ambiguous; name one of {candidates}")))
        }
    }
}
