//! Unique rows, and the store that closes or breaks.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::bench::Bench;
use super::*;
use crate::model::{DeadLetter, Delivery, Ended, ExecutionRecord, Row, testing::row};
use crate::store::kv::{Effects, Settlement};
use crate::store::{EncodedRecord, End, Error, Hooks, Settings, encode_record, open, testing};

/// Queues a row under a key, unless there is one; that one then.
fn queue(store: &Store, view: &mut View, unique: &str) -> Uuid {
    if let Some(row) = view.unique(unique) {
        return row;
    }
    let execution_id = store.new_id();
    let unique = Some(unique.to_owned());
    view.queue_row(Row { execution_id, app_id: APP, unique, ..row() }).unwrap();
    execution_id
}

fn effects(view: View) -> Effects {
    view.into_effects(None).unwrap()
}

fn rows(bench: &Bench) -> u64 {
    bench.store.load().outbox_rows.load(SeqCst)
}

#[test]
fn of_two_runs_that_queue_the_same_one_is_made_again_and_finds_it() {
    let mut bench = Bench::new();
    let mut views = [(); 2].map(|()| bench.store.view(APP, START));
    let ids: Vec<Uuid> = views.iter_mut().map(|view| queue(&bench.store, view, "k")).collect();
    let [one, two] = views;
    commit(&bench.store, one).unwrap();
    assert!(is_conflict(&commit(&bench.store, two)));
    let mut again = bench.store.view(APP, START);
    assert_eq!(queue(&bench.store, &mut again, "k"), ids[0]);
    assert!(again.into_effects(None).is_none());
    bench.write();
    assert_eq!(rows(&bench), 1);
    let mut other = bench.store.view(Uuid::from_u128(2), START);
    assert_eq!(other.unique("k"), None, "another app has its own");
    let mut own = bench.store.view(APP, START);
    let first = queue(&bench.store, &mut own, "l");
    assert_eq!(queue(&bench.store, &mut own, "l"), first);
    other.clear();
    own.clear();
    assert_eq!(own.unique("l"), None);
}

#[test]
fn what_a_refused_run_queued_takes_no_key() {
    let bench = Bench::new();
    let mut view = bench.store.view(APP, START);
    get(&mut view, "a");
    queue(&bench.store, &mut view, "k");
    meanwhile(&bench.store, &[("a", Some("1"))]);
    assert!(is_conflict(&commit(&bench.store, view)));
    let mut view = bench.store.view(APP, START);
    assert_eq!(view.unique("k"), None);
    queue(&bench.store, &mut view, "k");
    commit(&bench.store, view).unwrap();
}

/// The record of a row that ends.
fn record(row: &Row) -> EncodedRecord {
    encode_record(&ExecutionRecord {
        id: row.execution_id,
        app_id: row.app_id,
        script_id: row.script_id,
        script_name: "s".into(),
        script_version: 1,
        route_id: None,
        request_id: "r".into(),
        request_method: "POST".into(),
        request_path: "/".into(),
        request_headers: vec![],
        request_body: "".into(),
        response_code: None,
        response_body: None,
        script_logs: vec![].into(),
        duration_us: 1,
        status: Ended::Success,
        error: None,
        created_at: START,
        finished_at: START,
        attempt: 1,
        kind: row.kind,
        sync: false,
        queue_wait_us: 0,
        operations: 1,
        peak_bytes: 1,
        delivery: Delivery::None,
        dead_letter_id: None,
        trigger_depth: 0,
        root_execution_id: row.execution_id,
    })
}

/// Ends a row that has a key; whether the key is free then.
fn is_free_after(end: impl FnOnce(&Arc<Row>) -> End) -> bool {
    let mut bench = Bench::new();
    let mut view = bench.store.view(APP, START);
    let execution_id = queue(&bench.store, &mut view, "k");
    let row = Arc::new(Row { execution_id, app_id: APP, unique: Some("k".into()), ..row() });
    commit(&bench.store, view).unwrap();
    bench.write();
    assert_eq!(bench.store.view(APP, START).unique("k"), Some(execution_id));
    bench.store.settle(&row, end(&row));
    bench.flush();
    bench.store.view(APP, START).unique("k").is_none()
}

#[test]
fn a_key_is_free_when_its_row_has_ended() {
    assert!(is_free_after(|row| End::Done(record(row))));
    assert!(is_free_after(|row| {
        let letter = DeadLetter {
            id: row.execution_id,
            row: row.as_ref().clone(),
            script_version: 1,
            reason: "attempts".into(),
            died_at: START,
        };
        End::Dead(Box::new(letter), record(row))
    }));
    assert!(!is_free_after(|row| End::Retry(row.clone())));
    assert!(!is_free_after(|_| End::Release));
}

/// A card that can be made to fail.
#[derive(Debug, Default)]
struct Failing {
    card: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.card.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.card.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.card.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fails.load(SeqCst) { Err(io::Error::other("pulled")) } else { self.card.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.card.write(offset, data)
    }
}

/// A store with a writer of its own, on a card that fails when it is told.
fn running() -> (Store, Arc<AtomicBool>) {
    let card = Failing::default();
    let fails = card.fails.clone();
    let settings = testing::settings();
    let opened = open::open_on(card, &settings, Arc::default(), |_| Ok(())).unwrap();
    let (store, _, startable) = Store::assemble(opened, &settings).unwrap();
    let hooks = Hooks { catalog: Box::new(|_| ()), enqueued: Box::new(|_| ()), broken: Box::new(|_| ()) };
    startable.start(hooks).unwrap();
    furnish(&store);
    (store, fails)
}

fn furnish(store: &Store) {
    let (tell, told) = mpsc::channel();
    store.change(|changes| changes.create_app(app(APP, "tested")), move |made| tell.send(made).unwrap());
    told.recv().unwrap().unwrap();
}

/// Commits, and waits for what the writer says of it.
fn told(store: &Store, name: &str) -> Result<Result<(), Error>, Refused> {
    let mut view = store.view(APP, START);
    put(&mut view, name, "1");
    let (tell, told) = mpsc::channel();
    store.commit(effects(view), move |said| tell.send(said).unwrap())?;
    Ok(told.recv().unwrap())
}

fn is_closed<T>(refused: &Result<T, Refused>) -> bool {
    matches!(refused, Err(Refused::Store(Error::Closed)))
}

/// All that a run may ask of a store that is over is answered.
fn check_over(store: &Store, mut open: View) {
    put(&mut open, "open", "1");
    let settled = store.settle_with(&row(), effects(open), || panic!("nothing was accepted"));
    assert!(is_closed(&settled), "{settled:?}");
    let said = told(store, "late");
    assert!(is_closed(&said), "{said:?}");
    // Nobody keeps the file open for a look at it.
    let looked = store.view(APP, START).get(&key("a"));
    assert!(matches!(looked, Err(ViewError::Store(Error::Closed))), "{looked:?}");
}

#[test]
fn a_closed_store_takes_what_was_accepted_along_and_nothing_more() {
    let (store, _) = running();
    told(&store, "a").unwrap().unwrap();
    let mut open = store.view(APP, START);
    assert!(get(&mut open, "a").is_some());
    let mut view = store.view(APP, START);
    put(&mut view, "b", "1");
    let (tell, last) = mpsc::channel();
    store.commit(effects(view), move |said| tell.send(said).unwrap()).unwrap();
    let mut waits = store.view(APP, START);
    put(&mut waits, "c", "1");
    let ended = Settlement { end: End::Release, told: None };
    store.settle_with(&row(), effects(waits), || ended).unwrap();
    store.close();
    last.recv().unwrap().unwrap();
    assert_eq!(store.kv_usage(APP), (3, 6));
    check_over(&store, open);
}

#[test]
fn who_commits_while_it_closes_is_refused_or_told() {
    let (store, _) = running();
    let (tell, told) = mpsc::channel();
    let hammer = |name: String| {
        let tell = tell.clone();
        for accepted in 0..100_000 {
            let mut view = store.view(APP, START);
            put(&mut view, &format!("{name}/{accepted}"), "1");
            let tell = tell.clone();
            match store.commit(effects(view), move |said| tell.send(said).unwrap()) {
                Ok(_) => {}
                Err(Refused::Store(Error::Closed)) => return accepted,
                Err(refused) => panic!("{refused:?}"),
            }
        }
        panic!("it never closes");
    };
    let accepted: u64 = thread::scope(|scope| {
        let hammer = &hammer;
        let all: Vec<_> = (0..3).map(|n| scope.spawn(move || hammer(n.to_string()))).collect();
        // All of them are at it.
        (0..50).for_each(|_| told.recv().unwrap().unwrap());
        store.close();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    for _ in 50..accepted {
        told.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    }
    assert_eq!(store.kv_usage(APP).0, accepted);
}

#[test]
fn a_broken_store_tells_who_waits_and_takes_nothing_more() {
    let (store, fails) = running();
    told(&store, "a").unwrap().unwrap();
    let mut open = store.view(APP, START);
    assert!(get(&mut open, "a").is_some());
    fails.store(true, SeqCst);
    assert!(matches!(told(&store, "b"), Ok(Err(Error::Card(_)))));
    store.close();
    assert!(store.is_broken());
    check_over(&store, open);
}

#[test]
fn a_frozen_store_lets_runs_end_and_nobody_else_change_anything() {
    let (store, _) = running();
    store.freeze(true);
    assert!(matches!(told(&store, "a"), Err(Refused::Store(Error::Reopening))));
    let mut view = store.view(APP, START);
    put(&mut view, "b", "1");
    let (tell, ended) = mpsc::channel();
    let told_of =
        Settlement { end: End::Release, told: Some(Box::new(move |said| tell.send(said).unwrap())) };
    store.settle_with(&row(), effects(view), || told_of).unwrap();
    ended.recv().unwrap().unwrap();
    store.freeze(false);
    told(&store, "a").unwrap().unwrap();
    assert_eq!(keys(&mut store.view(APP, START)), ["a", "b"]);
    store.close();
}

#[test]
fn a_store_that_closed_lets_the_file_go_whoever_still_has_a_view() {
    let dir = std::env::temp_dir().join(format!("picloud-kv-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let settings = Settings { path: dir.join("store.redb"), ..testing::settings() };
    let hooks = || Hooks {
        catalog: Box::new(|_| ()),
        enqueued: Box::new(|_| ()),
        broken: Box::new(|error| panic!("{error}")),
    };
    let (store, _, startable) = Store::open(&settings).unwrap();
    startable.start(hooks()).unwrap();
    furnish(&store);
    told(&store, "a").unwrap().unwrap();
    let mut open = store.view(APP, START);
    assert!(get(&mut open, "a").is_some());
    store.close();
    let again = Store::open(&settings).map(|(again, _, startable)| {
        startable.start(hooks()).unwrap();
        let found = get(&mut again.view(APP, START), "a");
        again.close();
        found
    });
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(again.unwrap().as_deref(), Some("1"));
    check_over(&store, open);
}
