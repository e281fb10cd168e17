//! The messenger: carries the HTTP requests of scripts out of the house and brings the answers back.
//!
//! A bench waits for a call and must stay answerable meanwhile: the call itself is made on a thread of its own, of
//! which there are never more than a few, and the bench looks up every few milliseconds. A run that ends takes its
//! call down with it. What a call holds is bounded by its limits and not by the memory of the run, so it stays off the
//! run's books; the script's share is booked when the answer becomes values.
//!
//! Who may be called is the app's to say ([`crate::model::Egress`]): `policy` knows what addresses are, `resolve` looks
//! names up and keeps the addresses that passed, `client` goes there and follows redirects, each as if it were the
//! first. No proxy, no cookies, no credentials of the device; no connection outlives its call, so that none is ever
//! used by another app or under other rules.

mod chain;
mod client;
mod errand;
mod policy;
mod resolve;
mod target;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use uuid::Uuid;

pub use chain::{CHAIN_HEADER, ChainKey};
pub(super) use client::Answer;
pub(super) use errand::{Errand, REDIRECTS_MAX};
pub use tls::BadRoots;

use crate::model::Egress;
use crate::store::Store;

use client::Line;
use resolve::Lookup;

/// Longest wait between two looks at the run while a call is under way.
const SLICE: Duration = Duration::from_millis(5);
/// Stack of a thread that makes a call; looking names up takes most of it.
const STACK_BYTES: usize = 512 * 1024;

/// Bounds of calls.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Calls under way at once, of all scripts; further ones wait.
    pub calls_max: usize,
    /// Bytes of an answer's body, where the script asks for no other bound.
    pub answer_bytes_max: usize,
    /// The longest that reaching one address may take, TLS included.
    pub connect_time_max: Duration,
    /// Certificate authorities besides the public ones, in PEM.
    pub roots: Option<Vec<u8>>,
}

/// Why a call brought no answer. The script may catch it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// What was asked for makes no request.
    #[error("{0}")]
    Invalid(String),
    /// The app's rules do not allow it.
    #[error("{0}")]
    Refused(String),
    /// Nobody was reached.
    #[error("{0}")]
    Connect(String),
    /// Whoever was reached broke off, or speaks no HTTP.
    #[error("{0}")]
    Broken(String),
    /// The answer is larger than the bound.
    #[error("{0}")]
    TooLarge(String),
    /// It took too long.
    #[error(
        "no answer within {0} ms; the option timeout says how many seconds to wait, within the time of the run"
    )]
    Timeout(u128),
    /// As many calls as there may be are under way.
    #[error(
        "too many calls of this app or of the device are under way; try again later, or raise egress.calls_max"
    )]
    Busy,
    /// The run is over; nobody hears this.
    #[error("the run is over")]
    Over,
}

/// Makes the calls of scripts. Cheap to clone.
#[derive(Clone)]
pub struct Messenger {
    net: Arc<Net>,
    rules: Rules,
    under_way: Arc<Calls>,
}

/// Where an app's rules stand.
#[derive(Clone)]
enum Rules {
    Stored(Store),
    #[cfg(test)]
    Fixed(Egress),
}

impl Rules {
    fn of(&self, app: Uuid) -> Option<Egress> {
        match self {
            Rules::Stored(store) => store.catalog().apps.get(&app).map(|app| app.egress.clone()),
            #[cfg(test)]
            Rules::Fixed(egress) => Some(egress.clone()),
        }
    }
}

/// What a call needs of the house. No store: a call that hangs must not hold the card.
pub(super) struct Net {
    settings: Settings,
    lookup: Lookup,
    tls: Arc<ClientConfig>,
    key: ChainKey,
}

/// The calls under way, by app.
#[derive(Default)]
struct Calls(Mutex<HashMap<Uuid, usize>>);

/// One of the calls under way.
struct Place {
    calls: Arc<Calls>,
    app: Uuid,
}

impl Calls {
    /// One more call of `app`, if there are fewer than `most`, of which no app has more than three quarters.
    fn take(self: &Arc<Calls>, app: Uuid, most: usize) -> Option<Place> {
        let mut apps = self.lock();
        let (all, own) = (apps.values().sum::<usize>(), apps.get(&app).copied().unwrap_or(0));
        if all >= most || own >= most - most / 4 {
            return None;
        }
        apps.insert(app, own + 1);
        Some(Place { calls: self.clone(), app })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().values().sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut apps = self.calls.lock();
        if let Some(own) = apps.get_mut(&self.app) {
            *own -= 1;
            if *own == 0 {
                apps.remove(&self.app);
            }
        }
    }
}

impl Messenger {
    /// A messenger that asks `store` for the rules of apps.
    pub fn new(settings: Settings, key: ChainKey, store: Store) -> Result<Messenger, BadRoots> {
        let tls = tls::config(settings.roots.as_deref())?;
        let net = Arc::new(Net { settings, lookup: Lookup::system(), tls, key });
        Ok(Messenger { net, rules: Rules::Stored(store), under_way: Arc::default() })
    }

    /// Bytes of an answer's body, where the script asks for no other bound.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.net.settings.answer_bytes_max
    }

    /// Makes a call for a script of `app` and waits for its end, or until `is_over` says that the run is to end.
    /// Nothing of it may be booked to the run.
    pub(super) fn send(
        &self,
        app: Uuid,
        errand: Errand,
        is_over: impl Fn() -> bool,
    ) -> Result<Answer, Error> {
        let rules = self.rules.of(app);
        let rules = rules.ok_or_else(|| Error::Refused("the app of this script is gone".to_owned()))?;
        let (began, deadline) = (Instant::now(), errand.deadline);
        let place = self.place(app, deadline, &is_over)?;
        let line = Arc::new(Line::default());
        let (tell, told) = mpsc::sync_channel(1);
        let (net, own) = (self.net.clone(), line.clone());
        let call = move || {
            let answer = client::perform(&net, &own, &rules, &errand);
            // Free for the next before anybody hears of the end of this one.
            drop((errand, rules, net, own, place));
            // A bench that has given up does not listen any more.
            let _ = tell.send(answer);
        };
        let thread = thread::Builder::new().name("call".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(call).map_err(|_| Error::Busy)?;
        loop {
            match told.recv_timeout(SLICE) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Broken("the call failed for a fault of this device".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) if is_over() => {
                    line.hang_up();
                    return Err(Error::Over);
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    line.hang_up();
                    return Err(Error::Timeout(began.elapsed().as_millis()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits for a place among the calls under way.
    fn place(&self, app: Uuid, deadline: Instant, is_over: &impl Fn() -> bool) -> Result<Place, Error> {
        loop {
            if let Some(place) = self.under_way.take(app, self.net.settings.calls_max) {
                return Ok(place);
            }
            if is_over() {
                return Err(Error::Over);
            }
            if Instant::now() >= deadline {
                return Err(Error::Busy);
            }
            thread::sleep(SLICE);
        }
    }
}

impl fmt::Debug for Messenger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Messenger")
    }
}
