//! A store in memory, for tests of the rooms that use it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use redb::backends::InMemoryBackend;

use super::{Bounds, Changes, Hooks, Settings, Store, open};
use crate::model::Trigger;

/// Settings that bound nothing.
pub(crate) fn settings() -> Settings {
    let long = Duration::from_secs(86_400);
    Settings {
        path: PathBuf::from("a store in memory"),
        cache_bytes: 4 * 1024 * 1024,
        flush_interval: Duration::from_millis(50),
        outbox_rows_max: 1_000_000,
        outbox_bytes_max: 1 << 30,
        log_bytes_max: 1 << 30,
        log_age_max: long,
        dead_letters_max: 1000,
        dead_letters_bytes_max: 1 << 30,
        dead_letters_age_max: long,
        dead_letters_alert_at: 0,
        versions_bytes_max: 1 << 30,
        versions_age_max: long,
        sync_delay: Duration::ZERO,
        write_budget_bytes_per_day: 0,
        app_queue_rows_max: 1_000_000,
        kv_bytes_max: 64 * 1024 * 1024,
        timeout_async: Duration::from_secs(30),
        space: Bounds { low_bytes: 0, inodes_low: 0, reserve_bytes: 0 },
    }
}

/// A store that runs, set up by `furnish`, with these triggers.
pub(crate) fn store(
    settings: &Settings,
    triggers: Vec<Trigger>,
    furnish: impl FnOnce(&mut Changes<'_>) + Send + 'static,
) -> Store {
    let mut opened = open::open_on(InMemoryBackend::new(), settings, Arc::default(), |_| Ok(())).unwrap();
    let triggers: BTreeMap<_, _> =
        triggers.into_iter().map(|trigger| (trigger.id, Arc::new(trigger))).collect();
    opened.catalog.triggers = Arc::new(triggers);
    let (store, _, startable) = Store::assemble(opened, settings).unwrap();
    let hooks = Hooks {
        catalog: Box::new(|_| ()),
        enqueued: Box::new(|_| ()),
        broken: Box::new(|error| panic!("{error}")),
    };
    startable.start(hooks).unwrap();
    let (tell, told) = mpsc::channel();
    let furnish = move |changes: &mut Changes<'_>| {
        furnish(changes);
        Ok(())
    };
    store.change(furnish, move |changed| tell.send(changed).unwrap());
    told.recv().unwrap().unwrap();
    store
}
