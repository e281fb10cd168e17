//! The KV against what it promises: runs are serialisable, and none ever sees a mix of two instants.

mod bank;
mod bench;
mod ends;
mod expiry;
mod room;
mod serial;
mod spans;
mod waiting;
mod writes;

use std::time::Duration;

use uuid::Uuid;

use super::{Found, Listed, Put, Refused, View, ViewError};
use crate::model::{App, AppLimits, KvKey, KvPrefix, UnixMs};
use crate::store::Store;

/// When the tests begin.
const START: UnixMs = UnixMs(1_700_000_000_000);
const APP: Uuid = Uuid::from_u128(1);

fn key(text: &str) -> KvKey {
    text.parse().unwrap()
}

fn prefix(text: &str) -> KvPrefix {
    text.parse().unwrap()
}

fn app(id: Uuid, slug: &str) -> App {
    App {
        id,
        slug: slug.parse().unwrap(),
        name: "Tested".parse().unwrap(),
        egress: Default::default(),
        limits: AppLimits::default(),
        created_at: START,
        updated_at: START,
    }
}

fn put(view: &mut View, name: &str, value: &str) {
    put_until(view, name, value, None);
}

fn put_until(view: &mut View, name: &str, value: &str, expires_at: Option<UnixMs>) {
    view.put(Put { key: key(name), value: value.to_owned().into(), expires_at }).unwrap();
}

/// The text of a value.
fn text(found: Option<Found>) -> Option<String> {
    found.map(|found| String::from_utf8(found.value.to_vec()).unwrap())
}

fn get(view: &mut View, name: &str) -> Option<String> {
    text(view.get(&key(name)).unwrap())
}

/// The keys of a list, and where it goes on.
fn listed(view: &mut View, begin: &str, after: Option<&str>, limit: usize) -> (Vec<String>, Option<String>) {
    let Listed { items, next } = view.list(&prefix(begin), after.map(key).as_ref(), limit).unwrap();
    let keys = items.into_iter().map(|(key, _)| key.as_str().to_owned()).collect();
    (keys, next.map(|key| key.as_str().to_owned()))
}

/// All keys.
fn keys(view: &mut View) -> Vec<String> {
    listed(view, "", None, 1_000).0
}

/// Commits what a run changed, with nobody waiting. Gives the number.
fn commit(store: &Store, view: View) -> Result<u64, Refused> {
    store.commit(view.into_effects(None).unwrap(), |_| ())
}

/// Another run sets these at once; without a value it deletes.
fn meanwhile(store: &Store, changes: &[(&str, Option<&str>)]) -> u64 {
    let mut view = store.view(APP, START);
    for (name, value) in changes {
        match value {
            Some(value) => put(&mut view, name, value),
            None => assert!(view.delete(&key(name)).unwrap(), "{name} is not there"),
        }
    }
    commit(store, view).unwrap()
}

fn is_conflict<T>(accepted: &Result<T, Refused>) -> bool {
    matches!(accepted, Err(Refused::Conflict))
}

fn after(millis: u64) -> UnixMs {
    START.plus(Duration::from_millis(millis))
}

fn is_stale<T>(viewed: Result<T, ViewError>) -> bool {
    matches!(viewed, Err(ViewError::Stale))
}
