//! Values that are gone from an instant on: for each run by its own clock, in the file when the writer comes by.

use super::bench::Bench;
use super::*;

/// The writer looks for expired values as often.
const SWEEP: u64 = 5_000;

/// With `brief`, which expires 100 ms after the start, and `long`.
fn bench(in_file: bool) -> Bench {
    let mut bench = Bench::new();
    let mut view = bench.store.view(APP, START);
    put_until(&mut view, "brief", "7", Some(after(100)));
    put(&mut view, "long", "7");
    commit(&bench.store, view).unwrap();
    if in_file {
        bench.write();
    }
    bench
}

#[test]
fn a_value_is_gone_from_its_instant_on() {
    for in_file in [false, true] {
        let bench = bench(in_file);
        for (now, is_there) in [(99, true), (100, false), (101, false), (1_000_000, false)] {
            let view = || bench.store.view(APP, after(now));
            assert_eq!(get(&mut view(), "brief").is_some(), is_there, "{now}");
            assert_eq!(keys(&mut view()).len(), if is_there { 2 } else { 1 }, "{now}");
            assert_eq!(view().is_version(&key("brief"), 0).unwrap(), !is_there, "{now}");
            assert_eq!(view().is_version(&key("brief"), 1).unwrap(), is_there, "{now}");
            assert_eq!(view().delete(&key("brief")).unwrap(), is_there, "{now}");
        }
    }
}

#[test]
fn a_run_that_began_before_keeps_what_it_saw() {
    let mut bench = bench(true);
    let mut view = bench.store.view(APP, after(99));
    assert_eq!(get(&mut view, "brief").as_deref(), Some("7"));
    bench.now = after(200);
    meanwhile(&bench.store, &[("other", Some("1"))]);
    assert_eq!(get(&mut view, "brief").as_deref(), Some("7"));
    assert_eq!(keys(&mut view), ["brief", "long", "other"]);
}

#[test]
fn clearing_away_is_a_commit_like_others() {
    type Look = fn(&mut View) -> Result<(), ViewError>;
    let looks: [Look; 2] =
        [|view| view.get(&key("brief")).map(drop), |view| view.list(&prefix("brief"), None, 10).map(drop)];
    for (first, again) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut bench = bench(true);
        let mut views = [(); 2].map(|()| bench.store.view(APP, after(99)));
        views.iter_mut().for_each(|view| looks[first](view).unwrap());
        bench.now = after(SWEEP);
        meanwhile(&bench.store, &[("other", Some("1"))]);
        bench.flush();
        assert!(!bench.file(APP).contains_key("brief"));
        let [mut reads, mut writes] = views;
        assert!(is_stale(looks[again](&mut reads)), "{first} {again}");
        put(&mut writes, "mine", "1");
        assert!(is_conflict(&commit(&bench.store, writes)), "{first}");
    }
}

#[test]
fn lists_leave_out_what_expired_and_go_on_behind_it() {
    for in_file in [false, true] {
        let mut bench = Bench::new();
        let mut view = bench.store.view(APP, START);
        for n in 10..20 {
            put_until(&mut view, &n.to_string(), "1", (n % 5 != 0).then_some(after(100)));
        }
        commit(&bench.store, view).unwrap();
        if in_file {
            bench.write();
        }
        for limit in 1..12 {
            let mut view = bench.store.view(APP, after(100));
            put_until(&mut view, "17", "2", Some(after(101)));
            let (mut all, mut cursor) = (Vec::new(), None);
            loop {
                let (keys, next) = listed(&mut view, "1", cursor.as_deref(), limit);
                assert!(keys.len() <= limit);
                all.extend(keys);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(all, ["10", "15", "17"], "{limit}");
        }
    }
}

#[test]
fn an_expired_counter_begins_anew() {
    for in_file in [false, true] {
        let bench = bench(in_file);
        for (now, sum) in [(99, "8"), (100, "1")] {
            let mut view = bench.store.view(APP, after(now));
            let found = view.get(&key("brief")).unwrap();
            let before: i64 = found.as_ref().map_or(0, |found| serde_json::from_slice(&found.value).unwrap());
            let expires_at = found.and_then(|found| found.expires_at);
            put_until(&mut view, "brief", &(before + 1).to_string(), expires_at);
            let Found { value, expires_at, .. } = view.get(&key("brief")).unwrap().unwrap();
            assert_eq!((&*value, expires_at.is_some()), (sum.as_bytes(), now == 99));
        }
    }
}

#[test]
fn a_new_value_does_not_take_over_the_end_of_the_old() {
    for in_file in [false, true] {
        let mut bench = bench(in_file);
        meanwhile(&bench.store, &[("brief", Some("8"))]);
        bench.now = after(200);
        bench.flush();
        assert_eq!(get(&mut bench.store.view(APP, after(200)), "brief").as_deref(), Some("8"));
        let mut view = bench.store.view(APP, START);
        put_until(&mut view, "brief", "9", Some(after(SWEEP + 300)));
        commit(&bench.store, view).unwrap();
        bench.now = after(SWEEP + 299);
        bench.flush();
        assert!(bench.file(APP).contains_key("brief"));
        bench.check_usage(APP);
        bench.now = after(2 * SWEEP + 300);
        meanwhile(&bench.store, &[("other", Some("1"))]);
        bench.flush();
        assert!(!bench.file(APP).contains_key("brief"));
        bench.check_usage(APP);
    }
}

#[test]
fn the_writer_clears_away_what_expired_and_counts_it_out() {
    let mut bench = Bench::new();
    let mut view = bench.store.view(APP, START);
    for n in 0..700 {
        put_until(&mut view, &n.to_string(), "1", Some(after(100)));
    }
    put_until(&mut view, "later", "1", Some(after(SWEEP)));
    put(&mut view, "never", "1");
    commit(&bench.store, view).unwrap();
    bench.flush();
    bench.check_usage(APP);
    bench.now = after(SWEEP - 1);
    bench.flush();
    let mut held = Vec::new();
    for n in 0..3 {
        bench.now = after(SWEEP + n);
        meanwhile(&bench.store, &[("n", Some("1"))]);
        bench.flush();
        bench.check_usage(APP);
        held.push(bench.file(APP).len());
    }
    // So many at a time, and on with it at the next commit.
    assert_eq!(held, [203, 2, 2]);
}

#[test]
fn they_are_cleared_away_however_little_rest_there_is() {
    let mut bench = bench(true);
    bench.now = after(SWEEP);
    // Somebody waits for each of these commits, so none of them is a flush.
    meanwhile(&bench.store, &[("other", Some("1"))]);
    bench.write();
    assert_eq!(bench.file(APP).into_keys().collect::<Vec<_>>(), ["long", "other"]);
    bench.check_usage(APP);
}

#[test]
fn what_was_set_anew_but_waits_is_not_cleared_away() {
    let mut bench = bench(true);
    let mut view = bench.store.view(APP, START);
    put_until(&mut view, "brief", "8", Some(after(150)));
    commit(&bench.store, view).unwrap();
    bench.now = after(SWEEP);
    // It expires while it waits: the commit that writes it is not the one that removes it.
    bench.flush();
    assert_eq!(get(&mut bench.store.view(APP, after(149)), "brief").as_deref(), Some("8"));
    assert_eq!(get(&mut bench.store.view(APP, after(150)), "brief"), None);
    bench.now = after(2 * SWEEP);
    meanwhile(&bench.store, &[("other", Some("1"))]);
    bench.flush();
    assert!(!bench.file(APP).contains_key("brief"));
}

#[test]
fn what_is_set_anew_while_the_old_is_cleared_away_stays() {
    for forever in [false, true] {
        let mut bench = bench(true);
        bench.now = after(SWEEP);
        meanwhile(&bench.store, &[("other", Some("1"))]);
        let set = bench.write_while(|store| {
            let mut view = store.view(APP, after(SWEEP));
            put_until(&mut view, "brief", "new", (!forever).then_some(after(SWEEP + 1)));
            commit(store, view).unwrap()
        });
        for _ in 0..2 {
            let found = bench.store.view(APP, after(SWEEP)).get(&key("brief")).unwrap();
            assert_eq!(found.as_ref().and_then(|found| found.version), Some(set));
            assert_eq!(text(found).as_deref(), Some("new"));
            bench.check_usage(APP);
            bench.write();
        }
        assert_eq!(bench.file(APP)["brief"].commit, set);
    }
}
