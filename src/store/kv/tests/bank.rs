//! Runs on many threads beside the writer's: money moves between accounts, and there is never more or less of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use super::*;
use crate::model::testing::row;
use crate::store::kv::{Reply, Settlement};
use crate::store::{End, Error, Settings, testing};

const ACCOUNTS: &[&str] = &["account/0", "account/1", "account/2", "account/3", "account/4"];
const TOTAL: i64 = 15;
const TRANSFERS: usize = 400;

/// Who has nothing has no key.
type Balances = BTreeMap<&'static str, i64>;

/// A run that was accepted: its number, what it saw, and what it set.
struct Done {
    commit: u64,
    saw: Balances,
    set: Balances,
}

/// Numbers that look like chance (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }

    fn amount(&mut self) -> i64 {
        i64::try_from(self.below(4)).unwrap()
    }
}

fn bank() -> Store {
    let settings = Settings { flush_interval: Duration::from_millis(4), ..testing::settings() };
    let store =
        testing::store(&settings, vec![], |changes| drop(changes.create_app(app(APP, "tested")).unwrap()));
    meanwhile(&store, &[(ACCOUNTS[0], Some("15"))]);
    store
}

fn balance(found: Option<Found>) -> i64 {
    found.map_or(0, |found| serde_json::from_slice(&found.value).unwrap())
}

/// Each account's, one by one in any order, or all at once.
fn look(view: &mut View, dice: &mut Dice) -> Result<Balances, ViewError> {
    if dice.below(2) == 0 {
        let items = view.list(&prefix("account/"), None, 100)?.items;
        let found: BTreeMap<_, _> = items.into_iter().collect();
        return Ok(ACCOUNTS.iter().map(|name| (*name, balance(found.get(&key(name)).cloned()))).collect());
    }
    let mut all = Balances::new();
    let first = dice.below(ACCOUNTS.len());
    for name in ACCOUNTS.iter().cycle().skip(first).take(ACCOUNTS.len()) {
        all.insert(name, balance(view.get(&key(name))?));
        if dice.below(3) == 0 {
            thread::yield_now();
        }
    }
    Ok(all)
}

fn set(view: &mut View, name: &str, balance: i64) -> Result<(), ViewError> {
    if balance == 0 {
        return view.delete(&key(name)).map(drop);
    }
    view.put(Put { key: key(name), value: balance.to_string().into(), expires_at: None })
}

/// Moves something; what was seen and set. `None` if it has to be done again.
fn transfer(view: &mut View, dice: &mut Dice) -> Result<(Balances, Balances), ViewError> {
    let from = ACCOUNTS[dice.below(ACCOUNTS.len())];
    let to = ACCOUNTS[dice.below(ACCOUNTS.len())];
    let saw = Balances::from([(from, balance(view.get(&key(from))?)), (to, balance(view.get(&key(to))?))]);
    let amount = dice.amount().min(saw[from]);
    let mut after = saw.clone();
    *after.get_mut(from).unwrap() -= amount;
    *after.get_mut(to).unwrap() += amount;
    for (name, balance) in &after {
        set(view, name, *balance)?;
    }
    Ok((saw, after))
}

/// Counts everything, and writes the sum down.
fn audit(view: &mut View, dice: &mut Dice) -> Result<(Balances, Balances), ViewError> {
    let saw = look(view, dice)?;
    assert_eq!(saw.values().sum::<i64>(), TOTAL, "{saw:?}");
    put(view, "audit", &TOTAL.to_string());
    Ok((saw, Balances::new()))
}

/// Makes a run until it is accepted.
fn insist<T>(
    store: &Store,
    mut run: impl FnMut(&mut View) -> Result<T, ViewError>,
    mut accept: impl FnMut(View) -> Result<u64, Refused>,
) -> (u64, T) {
    loop {
        let mut view = store.view(APP, START);
        let made = match run(&mut view) {
            Err(ViewError::Stale) => continue,
            made => made.unwrap(),
        };
        match accept(view) {
            Err(Refused::Conflict) => {}
            accepted => return (accepted.unwrap(), made),
        }
    }
}

/// Looks again and again until it is over, and never sees anything else than all of the money.
fn watch(store: &Store, seed: u64, over: &AtomicBool) {
    let mut dice = Dice(seed);
    while !over.load(SeqCst) {
        let mut view = store.view(APP, START);
        for _ in 0..3 {
            let Ok(saw) = look(&mut view, &mut dice) else { break };
            assert_eq!(saw.values().sum::<i64>(), TOTAL, "{saw:?}");
        }
    }
}

#[test]
fn what_was_accepted_is_as_if_done_one_by_one() {
    let store = bank();
    let over = AtomicBool::new(false);
    let work = |seed: u64| {
        let (store, mut dice) = (store.clone(), Dice(seed));
        let mut done = Vec::new();
        for n in 0..TRANSFERS {
            let run = if n % 5 == 0 { audit } else { transfer };
            let tries = |view: &mut View| run(view, &mut dice);
            let accept =
                |view: View| view.into_effects(None).map_or(Ok(0), |made| store.commit(made, |_| ()));
            let (commit, (saw, set)) = insist(&store, tries, accept);
            done.push(Done { commit, saw, set });
        }
        done
    };
    let mut done: Vec<Done> = thread::scope(|scope| {
        scope.spawn(|| watch(&store, 77, &over));
        let workers: Vec<_> = (1..=3).map(|seed| scope.spawn(move || work(seed))).collect();
        let done: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, SeqCst);
        done.into_iter().flat_map(Result::unwrap).collect()
    });
    // A transfer of nothing from nobody to nobody changes nothing: it has no number.
    done.retain(|done| done.commit > 0);
    done.sort_by_key(|done| done.commit);
    let mut balances: Balances = ACCOUNTS.iter().map(|name| (*name, 0)).collect();
    balances.insert(ACCOUNTS[0], TOTAL);
    for Done { commit, saw, set } in done {
        for (name, balance) in saw {
            assert_eq!(balances[name], balance, "{name} at {commit}");
        }
        balances.extend(set);
    }
    let mut view = store.view(APP, START);
    assert_eq!(look(&mut view, &mut Dice(1)).unwrap(), balances);
    store.close();
}

#[test]
fn a_hot_counter_counts_every_run_that_ended() {
    let store = bank();
    let over = AtomicBool::new(false);
    let count = |seed: u64| {
        let (store, mut dice) = (store.clone(), Dice(seed));
        for n in 0..TRANSFERS {
            let run = |view: &mut View| {
                let runs = balance(view.get(&key("runs"))?);
                put(view, "runs", &(runs + 1).to_string());
                transfer(view, &mut dice)
            };
            // Most wait for the flush, some for their own commit.
            let accept = |view: View| {
                let told = (n % 10 == 0).then(|| -> Reply { Box::new(|told| told.unwrap()) });
                let ended = Settlement { end: End::Release, told };
                store.settle_with(&row(), view.into_effects(None).unwrap(), || ended).map(|()| 0)
            };
            insist(&store, run, accept);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| watch(&store, 77, &over));
        let workers: Vec<_> = (1..=3).map(|seed| scope.spawn(move || count(seed))).collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, SeqCst);
        ended.into_iter().for_each(Result::unwrap);
    });
    let mut view = store.view(APP, START);
    assert_eq!(get(&mut view, "runs"), Some((3 * TRANSFERS).to_string()));
    assert_eq!(look(&mut view, &mut Dice(2)).unwrap().values().sum::<i64>(), TOTAL);
    store.close();
    assert!(matches!(store.read(), Err(Error::Closed)));
}
