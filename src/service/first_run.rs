//! The first start on an empty store: something answers at once, and the operator finds a key.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use uuid::Uuid;

use super::Error;
use crate::http::{key_of, new_secret};
use crate::model::{
    Access, App, AppLimits, BodyMode, DispatchMode, Domain, Durability, Egress, Key, Route, Sandbox, Script,
    ScriptSource, UnixMs,
};
use crate::store::{ChangeError, Changes, SCHEMA, Store};

/// The file in the data directory that holds the first admin key.
const KEY_FILE: &str = "admin.key";
/// The file in the data directory that says which schema the store has, for a package that is to replace the program.
const SCHEMA_FILE: &str = "schema";
/// The script that answers before anything was set up.
const HELLO: &str = include_str!("hello.rhai");

/// Sets up app `default`, claiming `*`, with a hello script on `/` and `/hello/{name}`, and an admin key. Does
/// nothing if the store holds anything.
pub(super) fn set_up(store: &Store, data_dir: &Path) -> Result<(), Error> {
    let catalog = store.catalog();
    if !catalog.apps.is_empty() || !catalog.keys.is_empty() {
        return Ok(());
    }
    let failed = |why: String| Error::FirstRun(why);
    let now = UnixMs::now();
    let name = "admin".parse().map_err(|why| failed(format!("{why}")))?;
    let (secret, key) =
        new_secret(name, None, store.new_id(), now).map_err(|error| failed(error.to_string()))?;
    let path = data_dir.join(KEY_FILE);
    // The key is written before the store knows it: a power cut between the two only leaves a file that the
    // next start writes anew.
    write_secret(&path, &secret).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    let (tell, told) = mpsc::channel();
    store.change(move |changes| furnish(changes, key, now), move |made| drop(tell.send(made)));
    let made = told.recv().map_err(|_| failed("the store closed".into()))?;
    made.map_err(|error| failed(error.to_string()))?;
    tracing::info!("the store was empty: app \"default\" answers on every host, try /hello/you");
    tracing::info!("the admin key is in {}", path.display());
    Ok(())
}

/// Notes the schema of the store, for when the program that knows is gone. Written only when it changes.
pub(super) fn note_schema(data_dir: &Path) {
    let (path, told) = (data_dir.join(SCHEMA_FILE), format!("{SCHEMA}\n"));
    if std::fs::read_to_string(&path).is_ok_and(|there| there == told) {
        return;
    }
    if let Err(error) = std::fs::write(&path, told) {
        tracing::warn!(%error, "the schema could not be noted in {}", path.display());
    }
}

/// The key in the data directory, if there is one, as a store would hold it.
pub(super) fn key_in_file(data_dir: &Path, id: Uuid, now: UnixMs) -> Option<Key> {
    let text = std::fs::read_to_string(data_dir.join(KEY_FILE)).ok()?;
    let secret = Some(text.trim()).filter(|secret| !secret.is_empty())?;
    Some(key_of("admin".parse().ok()?, secret, None, id, now))
}

fn furnish(changes: &mut Changes<'_>, key: Key, now: UnixMs) -> Result<(), ChangeError> {
    let stored = |field: &'static str| {
        move |why: crate::model::Invalid| ChangeError::Invalid { field, why: why.to_string() }
    };
    let (slug, name) =
        ("default".parse().map_err(stored("slug"))?, "Default".parse().map_err(stored("name"))?);
    let app = changes.create_app(App {
        id: changes.new_id(),
        slug,
        name,
        egress: Egress::default(),
        limits: AppLimits::default(),
        created_at: now,
        updated_at: now,
    })?;
    let pattern = "*".parse().map_err(stored("pattern"))?;
    let domain = Domain {
        id: changes.new_id(),
        app_id: app.id,
        pattern,
        tls: Default::default(),
        created_at: now,
        updated_at: now,
    };
    changes.create_domain(domain)?;
    let source: ScriptSource = HELLO.parse().map_err(stored("source"))?;
    let script = Script {
        id: changes.new_id(),
        app_id: app.id,
        name: "hello".parse().map_err(stored("name"))?,
        active_version: 1,
        latest_version: 1,
        timeout_seconds: None,
        sandbox: Sandbox::default(),
        access: Access::Public,
        created_at: now,
        updated_at: now,
    };
    let script = changes.create_script(script, source)?;
    for path in ["/", "/hello/{name}"] {
        changes.create_route(Route {
            path: path.parse().map_err(stored("path"))?,
            ..route(changes.new_id(), &script, now)?
        })?;
    }
    changes.create_key(key)?;
    Ok(())
}

fn route(id: Uuid, script: &Arc<Script>, now: UnixMs) -> Result<Route, ChangeError> {
    let stored = |why: crate::model::Invalid| ChangeError::Invalid { field: "route", why: why.to_string() };
    Ok(Route {
        id,
        app_id: script.app_id,
        script_id: script.id,
        host: None,
        method: "GET".parse().map_err(stored)?,
        path: "/".parse().map_err(stored)?,
        dispatch_mode: DispatchMode::Sync,
        durability: Durability::Auto,
        body: BodyMode::Json,
        access: Access::Public,
        created_at: now,
        updated_at: now,
    })
}

/// Writes a file that only its owner may read, and makes sure that it is on the card.
fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    // A file that is there may be open to others: its mode would stay.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}
