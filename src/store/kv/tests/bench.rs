//! A store whose writer does a turn when the test says so, by a clock that the test keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::Database;
use redb::backends::InMemoryBackend;
use uuid::Uuid;

use super::super::Entry;
use super::{APP, START, app, prefix};
use crate::model::UnixMs;
use crate::store::apply::{Applier, Ask};
use crate::store::{ChangeError, Changes, Hooks, Settings, Store, open, testing};

pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) now: UnixMs,
    db: Arc<Database>,
    applier: Applier,
    hooks: Hooks,
}

impl Bench {
    /// With one app.
    pub(super) fn new() -> Bench {
        Bench::with(&testing::settings())
    }

    pub(super) fn with(settings: &Settings) -> Bench {
        let card = InMemoryBackend::new();
        let opened = open::open_on(card, settings, Arc::default(), |_| Ok(())).unwrap();
        let (store, _, startable) = Store::assemble(opened, settings).unwrap();
        let hooks = Hooks {
            catalog: Box::new(|_| ()),
            enqueued: Box::new(|_| ()),
            broken: Box::new(|error| panic!("{error}")),
        };
        let mut bench = Bench { store, now: START, db: startable.db, applier: startable.applier, hooks };
        bench.change(|changes| changes.create_app(app(APP, "tested")).map(drop));
        bench
    }

    pub(super) fn change(
        &mut self,
        make: impl FnOnce(&mut Changes<'_>) -> Result<(), ChangeError> + Send + 'static,
    ) {
        self.store.change(make, |changed| changed.unwrap());
        self.write();
    }

    /// The writer takes what was posted. Changes that somebody waits for are in the file then.
    pub(super) fn write(&mut self) {
        self.turn(false, |_| ());
    }

    /// The same; this comes after it has taken them, and before they are in the file.
    pub(super) fn write_while<T>(&mut self, meanwhile: impl FnOnce(&Store) -> T) -> T {
        self.turn(false, meanwhile)
    }

    /// The same, and everything else that waits goes down.
    pub(super) fn flush(&mut self) {
        self.turn(true, |_| ());
    }

    fn turn<T>(&mut self, flush: bool, meanwhile: impl FnOnce(&Store) -> T) -> T {
        let mut commands = {
            let mut queue = self.store.lock();
            (queue.bytes, queue.waiting, queue.urgent) = (0, 0, false);
            std::mem::take(&mut queue.commands)
        };
        let made = meanwhile(&self.store);
        let ask = Ask { flush, checkpoint: false, now: self.now };
        self.applier.apply(&self.db, &mut commands, ask, &self.hooks).unwrap();
        made
    }

    /// What the file holds of an app, expired or not.
    pub(super) fn file(&self, app: Uuid) -> BTreeMap<String, Entry> {
        let base = self.store.base().unwrap();
        let every = prefix("");
        let all = base.range(app, &every, None).unwrap();
        all.map(|entry| entry.map(|(key, entry)| (key.as_str().to_owned(), entry)).unwrap()).collect()
    }

    /// The counters say what is in the file.
    #[track_caller]
    pub(super) fn check_usage(&self, app: Uuid) {
        let file = self.file(app);
        let bytes: usize = file.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
        let held = (u64::try_from(file.len()).unwrap(), u64::try_from(bytes).unwrap());
        assert_eq!(self.store.kv_usage(app), held, "{file:?}");
    }
}
