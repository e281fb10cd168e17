//! How much an app may keep: refused at the edge exactly, as far as the file knows what there is.

use super::bench::Bench;
use super::*;
use crate::store::{AppPatch, Settings, testing};

const MOST: usize = 100;

fn bench() -> Bench {
    Bench::with(&Settings { kv_bytes_max: u64::try_from(MOST).unwrap(), ..testing::settings() })
}

/// Sets a key of one byte so that it weighs this much.
fn weigh(view: &mut View, name: &str, bytes: usize) -> Result<(), ViewError> {
    assert_eq!(name.len(), 1);
    view.put(Put { key: key(name), value: vec![b'1'; bytes - 1].into(), expires_at: None })
}

#[track_caller]
fn is_full<T>(viewed: Result<T, ViewError>) -> bool {
    matches!(viewed, Err(ViewError::Limit(why)) if why.contains("delete some"))
}

#[track_caller]
fn keep(bench: &mut Bench, name: &str, bytes: usize) {
    let mut view = bench.store.view(APP, START);
    weigh(&mut view, name, bytes).unwrap();
    commit(&bench.store, view).unwrap();
    bench.write();
    bench.check_usage(APP);
}

/// Whether an app may set this next to what it keeps.
fn fits(bench: &Bench, name: &str, bytes: usize) -> bool {
    !is_full(weigh(&mut bench.store.view(APP, START), name, bytes))
}

#[test]
fn it_is_full_at_the_edge_exactly() {
    let mut bench = bench();
    assert!(fits(&bench, "a", MOST) && !fits(&bench, "a", MOST + 1));
    keep(&mut bench, "a", 60);
    assert!(fits(&bench, "b", 40) && !fits(&bench, "b", 41));
    keep(&mut bench, "b", 40);
    assert!(!fits(&bench, "c", 1));
    assert_eq!(bench.store.kv_usage(APP), (2, 100));
}

#[test]
fn what_waits_counts_as_what_is_in_the_file() {
    let bench = bench();
    let mut view = bench.store.view(APP, START);
    weigh(&mut view, "a", 60).unwrap();
    assert!(!is_full(weigh(&mut view, "b", 40)) && is_full(weigh(&mut view, "c", 1)));
    commit(&bench.store, view).unwrap();
    assert!(!fits(&bench, "c", 1));
}

#[test]
fn two_runs_that_fit_alone_do_not_fit_together() {
    let mut bench = bench();
    let mut views = [(); 2].map(|()| bench.store.view(APP, START));
    for (view, name) in views.iter_mut().zip(["a", "b"]) {
        weigh(view, name, 60).unwrap();
    }
    let [one, two] = views;
    commit(&bench.store, one).unwrap();
    assert!(matches!(commit(&bench.store, two), Err(Refused::KvFull(_))));
    bench.write();
    assert_eq!(bench.file(APP).into_keys().collect::<Vec<_>>(), ["a"]);
    assert!(fits(&bench, "c", 40) && !fits(&bench, "c", 41));
}

#[test]
fn a_run_may_think_again() {
    let bench = bench();
    let mut view = bench.store.view(APP, START);
    for bytes in [60, 70, 30, 100] {
        weigh(&mut view, "a", bytes).unwrap();
    }
    assert!(is_full(weigh(&mut view, "b", 1)));
    weigh(&mut view, "a", 98).unwrap();
    assert!(is_full(weigh(&mut view, "b", 3)));
    weigh(&mut view, "a", 50).unwrap();
    weigh(&mut view, "b", 50).unwrap();
    assert!(view.delete(&key("a")).unwrap());
    weigh(&mut view, "c", 50).unwrap();
    commit(&bench.store, view).unwrap();
}

#[test]
fn a_delete_makes_room_once_it_is_in_the_file() {
    let mut bench = bench();
    keep(&mut bench, "a", 100);
    let mut view = bench.store.view(APP, START);
    assert!(view.delete(&key("a")).unwrap());
    assert!(is_full(weigh(&mut view, "b", 1)));
    commit(&bench.store, view).unwrap();
    assert!(!fits(&bench, "b", 1));
    bench.write();
    bench.check_usage(APP);
    assert!(fits(&bench, "b", 100) && !fits(&bench, "b", 101));
}

#[test]
fn a_value_that_takes_the_place_of_another_needs_room_beside_it() {
    let mut bench = bench();
    keep(&mut bench, "a", 60);
    assert!(fits(&bench, "a", 40) && !fits(&bench, "a", 41));
    keep(&mut bench, "a", 40);
    assert_eq!(bench.store.kv_usage(APP), (1, 40));
    assert!(fits(&bench, "a", 60) && fits(&bench, "b", 60));
}

#[test]
fn a_value_that_is_set_again_and_again_counts_once_while_it_waits() {
    let mut bench = bench();
    for bytes in [40, 50, 30, 50] {
        for _ in 0..100 {
            let mut view = bench.store.view(APP, START);
            weigh(&mut view, "a", bytes).unwrap();
            commit(&bench.store, view).unwrap();
            assert!(fits(&bench, "b", MOST - bytes) && !fits(&bench, "b", MOST - bytes + 1));
        }
    }
    bench.write();
    bench.check_usage(APP);
    assert!(fits(&bench, "b", 50) && !fits(&bench, "b", 51));
    // The writer may know an earlier one of them only.
    for bytes in [20, 30] {
        keep(&mut bench, "a", bytes);
        let mut view = bench.store.view(APP, START);
        weigh(&mut view, "a", 10).unwrap();
        commit(&bench.store, view).unwrap();
        assert!(fits(&bench, "b", MOST - bytes - 10) && !fits(&bench, "b", MOST - bytes - 9));
    }
}

#[test]
fn what_adds_nothing_is_never_refused() {
    let mut bench = bench();
    keep(&mut bench, "a", 100);
    let patch = AppPatch {
        limits: Some(AppLimits { kv_bytes: Some(50), ..Default::default() }),
        ..AppPatch::default()
    };
    bench.change(move |changes| changes.update_app(APP, patch, START).map(drop));
    assert!(!fits(&bench, "b", 1));
    let mut view = bench.store.view(APP, START);
    assert!(view.delete(&key("a")).unwrap());
    commit(&bench.store, view).unwrap();
    bench.write();
    assert!(fits(&bench, "b", 50) && !fits(&bench, "b", 51));
}
