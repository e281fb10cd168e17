//! Accepted changes that are not in the file yet: what is seen of them, and what becomes of them.

use super::bench::Bench;
use super::*;
use crate::model::{TriggerOn, testing};

/// More changes than are remembered once they are in the file.
const MANY: usize = 8 * 1024 + 1;

/// Every change of a value makes a row.
fn watch(bench: &mut Bench) {
    bench.change(|changes| {
        let script = crate::model::Script { app_id: APP, ..testing::script() };
        let on = TriggerOn::Kv { prefix: prefix(""), set: true, delete: true };
        let trigger = crate::model::Trigger { app_id: APP, on, ..testing::trigger() };
        changes.create_script(script, "1".parse().unwrap())?;
        changes.create_trigger(trigger).map(drop)
    });
}

/// What a run sees of `a`: its value and its version.
fn see(bench: &Bench) -> Option<(String, u64)> {
    let found = bench.store.view(APP, START).get(&key("a")).unwrap()?;
    let version = found.version.unwrap();
    Some((text(Some(found)).unwrap(), version))
}

/// Changes one key again and again before the file hears of it; nothing or something before that is in the file.
#[track_caller]
fn check(watched: bool, in_file: bool, changes: &[Option<&str>]) {
    let mut bench = Bench::new();
    if watched {
        watch(&mut bench);
    }
    if in_file {
        meanwhile(&bench.store, &[("a", Some("in the file"))]);
        bench.write();
    }
    let rows = |bench: &Bench| bench.store.load().outbox_rows.load(std::sync::atomic::Ordering::Relaxed);
    let (before, mut last) = (rows(&bench), None);
    for change in changes {
        let version = meanwhile(&bench.store, &[("a", *change)]);
        last = change.map(|value| (value.to_owned(), version));
        assert_eq!(see(&bench), last);
    }
    bench.write();
    assert_eq!(see(&bench), last);
    let in_file = bench.file(APP).remove("a").map(|entry| entry.commit);
    assert_eq!(in_file, last.map(|(_, version)| version));
    bench.check_usage(APP);
    let made = if watched { u64::try_from(changes.len()).unwrap() } else { 0 };
    assert_eq!(rows(&bench) - before, made, "{changes:?}");
}

#[test]
fn of_many_changes_of_a_key_the_last_stands_before_the_flush_and_after_it() {
    for watched in [false, true] {
        for in_file in [false, true] {
            check(watched, in_file, &[Some("1")]);
            check(watched, in_file, &[Some("1"), Some("22"), Some("333")]);
            check(watched, in_file, &[Some("333"), Some("1")]);
            check(watched, in_file, &[Some("1"), None]);
            check(watched, in_file, &[Some("1"), None, Some("22")]);
            check(watched, in_file, &[Some("1"), None, Some("22"), None]);
        }
        check(watched, true, &[None]);
        check(watched, true, &[None, Some("1")]);
    }
}

#[test]
fn a_change_that_came_after_the_turn_of_the_writer_stays_on_top() {
    for later in [Some("on top"), None] {
        let mut bench = Bench::new();
        for n in 0..3 {
            let value = n.to_string();
            let first = meanwhile(&bench.store, &[("a", Some(&value))]);
            assert_eq!(see(&bench), Some((value, first)));
            let second = bench.write_while(|store| meanwhile(store, &[("a", later)]));
            assert_eq!(see(&bench), later.map(|value| (value.to_owned(), second)));
            assert_eq!(bench.file(APP)["a"].commit, first);
            bench.check_usage(APP);
        }
        bench.write();
        assert_eq!(see(&bench).map(|(value, _)| value).as_deref(), later);
    }
}

/// With values that are old, and slots for each change since. Then these runs look, `changes` are made, and so many
/// others that they are forgotten.
fn forgotten(looks: &[fn(&mut View)], changes: &[(&str, Option<&str>)]) -> (Bench, Vec<View>) {
    let mut bench = Bench::new();
    meanwhile(&bench.store, &[("x", Some("1")), ("y", Some("1")), ("p/1", Some("1")), ("q/1", Some("1"))]);
    meanwhile(&bench.store, &[("removed", Some("1"))]);
    meanwhile(&bench.store, &[("removed", None)]);
    bench.write();
    let mut views: Vec<_> = looks.iter().map(|_| bench.store.view(APP, START)).collect();
    views.iter_mut().zip(looks).for_each(|(view, look)| look(view));
    meanwhile(&bench.store, changes);
    let names: Vec<String> = (0..MANY).map(|n| format!("many/{n}")).collect();
    for names in names.chunks(super::super::CHANGES_MAX) {
        meanwhile(&bench.store, &names.iter().map(|name| (&**name, Some("1"))).collect::<Vec<_>>());
    }
    bench.write();
    (bench, views)
}

#[test]
fn a_change_that_was_forgotten_is_a_conflict_all_the_same() {
    let looks: &[fn(&mut View)] = &[
        |view| assert!(get(view, "x").is_some()),
        |view| assert!(get(view, "y").is_some()),
        |view| assert!(get(view, "new").is_none()),
        |view| assert!(get(view, "removed").is_none()),
        |view| assert_eq!(listed(view, "p/", None, 10).0, ["p/1"]),
        |view| assert_eq!(listed(view, "q/", None, 10).0, ["q/1"]),
        |view| assert_eq!(listed(view, "none/", None, 10).0.len(), 0),
    ];
    let changes = [
        ("x", Some("2")),
        ("y", None),
        ("new", Some("2")),
        ("removed", Some("2")),
        ("p/2", Some("2")),
        ("q/1", None),
        ("none/1", Some("2")),
    ];
    let (bench, views) = forgotten(looks, &changes);
    for (n, mut view) in views.into_iter().enumerate() {
        put(&mut view, "mine", "1");
        assert!(is_conflict(&commit(&bench.store, view)), "{:?}", changes[n]);
    }
}

#[test]
fn what_nobody_changed_stands_though_changes_were_forgotten() {
    let looks: &[fn(&mut View)] = &[
        |view| assert!(get(view, "x").is_some()),
        |view| assert!(get(view, "nobody").is_none()),
        |view| assert!(get(view, "removed").is_none()),
        |view| assert_eq!(listed(view, "q/", None, 10).0, ["q/1"]),
    ];
    let (bench, views) = forgotten(looks, &[("y", Some("2"))]);
    // Nobody knows any more when the removed one went, or what came into the list: those are made again.
    for (n, (mut view, conflict)) in views.into_iter().zip([false, false, true, true]).enumerate() {
        put(&mut view, "mine", "1");
        assert_eq!(is_conflict(&commit(&bench.store, view)), conflict, "{n}");
    }
    for look in looks {
        let mut view = bench.store.view(APP, START);
        look(&mut view);
        put(&mut view, "mine", "2");
        commit(&bench.store, view).unwrap();
    }
}

#[test]
fn no_run_sees_two_instants_though_changes_were_forgotten() {
    let looks: &[fn(&mut View)] = &[
        |view| assert_eq!(get(view, "x").as_deref(), Some("1")),
        |view| assert_eq!(listed(view, "x", None, 10).0, ["x"]),
        |view| assert_eq!(get(view, "y").as_deref(), Some("1")),
        |view| assert!(get(view, "removed").is_none()),
    ];
    let (_bench, mut views) = forgotten(looks, &[("x", Some("2")), ("y", Some("2")), ("p/1", None)]);
    assert!(is_stale(views[0].get(&key("y"))));
    assert!(is_stale(views[1].get(&key("x"))));
    // Its slot is gone, and the file has nothing that says when.
    assert!(is_stale(views[2].get(&key("p/1"))));
    assert!(is_stale(views[3].get(&key("x"))));
}

#[test]
fn an_app_that_goes_takes_what_waits_along() {
    let mut bench = Bench::new();
    meanwhile(&bench.store, &[("a", Some("in the file")), ("b", Some("in the file"))]);
    bench.flush();
    let mut late = bench.store.view(APP, START);
    put(&mut late, "c", "late");
    meanwhile(&bench.store, &[("a", Some("waits")), ("d", Some("waits"))]);
    let anew = Uuid::from_u128(2);
    bench.change(move |changes| {
        changes.delete_app(APP)?;
        changes.create_app(app(anew, "tested")).map(drop)
    });
    commit(&bench.store, late).unwrap();
    assert!(keys(&mut bench.store.view(anew, START)).is_empty());
    assert_eq!(bench.store.kv_usage(anew), (0, 0));
    let mut view = bench.store.view(anew, START);
    put(&mut view, "a", "new");
    commit(&bench.store, view).unwrap();
    bench.write();
    // The writer looks now and then; what it finds waiting it leaves for the next time.
    for n in 1..=2 {
        bench.now = after(n * 5_000);
        let mut view = bench.store.view(anew, START);
        put(&mut view, "a", "newer");
        commit(&bench.store, view).unwrap();
        bench.flush();
    }
    assert_eq!((bench.file(APP).len(), bench.store.kv_usage(APP)), (0, (0, 0)));
    assert_eq!(bench.file(anew).into_keys().collect::<Vec<_>>(), ["a"]);
    bench.check_usage(anew);
    // Ids are never used again; but if one were, there would be nothing under it.
    bench.change(|changes| changes.create_app(app(APP, "again")).map(drop));
    let mut view = bench.store.view(APP, START);
    assert!(keys(&mut view).is_empty() && get(&mut view, "a").is_none());
    assert!(view.is_version(&key("a"), 0).unwrap());
    put(&mut view, "a", "again");
    commit(&bench.store, view).unwrap();
    bench.flush();
    bench.check_usage(APP);
    assert_eq!(keys(&mut bench.store.view(APP, START)), ["a"]);
}

#[test]
fn a_large_app_that_goes_is_cleared_away_bit_by_bit() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    meanwhile(&bench.store, &names.iter().map(|name| (&**name, Some("1"))).collect::<Vec<_>>());
    bench.flush();
    let anew = Uuid::from_u128(2);
    bench.change(move |changes| {
        changes.delete_app(APP)?;
        changes.create_app(app(anew, "tested")).map(drop)
    });
    bench.now = after(5_000);
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut view = bench.store.view(anew, START);
        put(&mut view, "a", "1");
        commit(&bench.store, view).unwrap();
        bench.write();
        held.push(bench.file(APP).len());
        bench.check_usage(APP);
    }
    assert_eq!(held, [500, 0, 0, 0]);
}
