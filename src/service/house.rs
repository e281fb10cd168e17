//! The open house: what was furnished, how its front is changed while it is open, and how it is closed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::setup_code::SetupFiles;
use super::signals::{Asked, Signals};
use super::sockets::Sockets;
use super::watch::{Pipeline, Watch};
use super::{Error, parts, systemd};
use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::http::{Custody, Door, Guests, Server, SystemInfo, Tls};
use crate::model::UnixMs;
use crate::script::ChainKey;
use crate::store;
use crate::store::backup::Trial;

/// A restored store that was ready for so long has served.
const TRIAL: Duration = Duration::from_secs(60);

/// Certificates, where TLS is on; another set takes their place when the configuration changes.
pub(super) type Certificates = Arc<ArcSwapOption<Tls>>;

/// The open house.
pub(super) struct House {
    pub(super) runtime: Runtime,
    pub(super) store: store::Store,
    pub(super) dispatch: Dispatch,
    pub(super) server: Server,
    pub(super) guests: Guests,
    pub(super) certificates: Certificates,
    pub(super) doors: Vec<JoinHandle<()>>,
    pub(super) keeper: Option<JoinHandle<()>>,
    pub(super) chain_key: ChainKey,
    pub(super) info: Arc<SystemInfo>,
    pub(super) grace: Duration,
    pub(super) trial: Trial,
    pub(super) broken: mpsc::UnboundedReceiver<Error>,
    pub(super) reopen: mpsc::UnboundedReceiver<()>,
}

/// Why the house closes.
pub(super) enum Closing {
    Asked,
    Broken(Error),
    /// Another store is to be opened.
    Reopen,
    /// The same is to be opened by another configuration.
    Refit,
}

/// What happens to an open house.
pub(super) enum Event {
    Close(Closing),
    /// The configuration is to be read again.
    Reload,
}

impl House {
    /// Opens the doors to these sockets, and closes those that were open. Whoever is in stays.
    pub(super) fn open_doors(&mut self, config: &Config, sockets: &Sockets) -> io::Result<()> {
        let limits = parts::limits(config);
        let tls = self.certificates.load_full();
        let clear = sockets.of(false).map(|listener| (listener, Door::Clear));
        let by_tls = tls
            .iter()
            .flat_map(|tls| sockets.of(true).map(|listener| (listener, Door::Tls(tls.as_ref().clone()))));
        let mut doors = Vec::new();
        for (listener, door) in clear.chain(by_tls) {
            let listener = listener.try_clone()?;
            let run = listener.run(door, self.server.clone(), self.guests.clone(), limits.clone());
            doors.push(self.runtime.spawn(run));
        }
        for closed in std::mem::replace(&mut self.doors, doors) {
            closed.abort();
        }
        Ok(())
    }

    /// Looks after the certificates that there are now, and no more after those before.
    pub(super) fn keep_certificates(&mut self) {
        let tls = self.certificates.load_full();
        let keeper = tls.map(|tls| self.runtime.spawn(tls.as_ref().clone().keep()));
        if let Some(before) = std::mem::replace(&mut self.keeper, keeper) {
            before.abort();
        }
    }

    /// Serves by other settings, and other certificates if there are any: `None` leaves those that are.
    pub(super) fn refit(&mut self, config: &Config, device_key: Option<String>, tls: Option<Option<Tls>>) {
        if let Some(tls) = tls {
            self.certificates.store(tls.map(Arc::new));
            // On the writer's thread, as all changes of the set-up: none comes in between.
            let (certificates, store) = (self.certificates.clone(), self.store.clone());
            let (tell, told) = std::sync::mpsc::channel();
            self.store.probe(move |_| {
                if let Some(tls) = certificates.load_full() {
                    tls.set_up(&store.catalog());
                }
                // Who waits for it is below.
                let _ = tell.send(());
            });
            // A store that is closed answers, too.
            let _ = told.recv();
            self.keep_certificates();
        }
        let tls = self.certificates.load_full().map(|tls| tls.as_ref().clone());
        self.server.refit(parts::server(config, device_key, self.chain_key.clone(), tls));
        let _event_loop = self.runtime.enter();
        self.guests.resize(config.server.connections_max);
        self.grace = Duration::from_secs(config.server.drain_grace_seconds);
    }

    /// What there is to be watched.
    pub(super) fn pipeline(&self) -> Pipeline {
        Pipeline {
            store: self.store.clone(),
            dispatch: self.dispatch.clone(),
            runtime: self.runtime.handle().clone(),
        }
    }

    /// Waits until something happens to it.
    pub(super) fn live(&mut self, signals: &mut Signals) -> Event {
        self.runtime.block_on(async {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Close => Event::Close(Closing::Asked),
                    Asked::Reload => Event::Reload,
                },
                Some(error) = self.broken.recv() => Event::Close(Closing::Broken(error)),
                Some(()) = self.reopen.recv() => Event::Close(Closing::Reopen),
            }
        })
    }

    /// Closes it, and tells why: the card may fail at the last moment.
    pub(super) fn close(mut self, why: Closing, watch: &Watch) -> Closing {
        if matches!(why, Closing::Asked | Closing::Broken(_)) {
            systemd::stopping();
        }
        self.info.draining.store(true, Relaxed);
        let until = Instant::now() + self.grace;
        watch.closing(until);
        // Outside in: guests first, then runs, last the writer.
        self.guests.ask_to_leave();
        tracing::info!(grace_seconds = self.grace.as_secs(), "stopping: requests in flight are finished");
        let gone =
            self.runtime.block_on(async { tokio::time::timeout_at(until.into(), self.guests.gone()).await });
        self.dispatch.close(until);
        if gone.is_err() {
            // Those who waited for a cut run have their answer now; let it reach them.
            let last = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(1), self.guests.gone()).await });
            if last.is_err() {
                tracing::warn!(
                    connections = self.guests.count().0,
                    "connections were cut at the end of the grace time"
                );
            }
        }
        self.store.close();
        // The card may have failed at the last commit.
        let late = self.broken.try_recv().ok();
        self.runtime.shutdown_timeout(Duration::from_millis(100));
        tracing::info!("stopped");
        late.filter(|_| !matches!(why, Closing::Broken(_))).map_or(why, Closing::Broken)
    }
}

pub(super) fn hooks(
    routes: &crate::http::Routes,
    dispatch: &Dispatch,
    certificates: &Certificates,
    setup: &Arc<SetupFiles>,
    tell_broken: mpsc::UnboundedSender<Error>,
) -> store::Hooks {
    let (routes, dispatch, desk) = (routes.clone(), dispatch.clone(), dispatch.clone());
    let (certificates, setup) = (certificates.clone(), setup.clone());
    store::Hooks {
        catalog: Box::new(move |catalog| {
            routes.rebuild(catalog);
            desk.set_up(catalog);
            setup.look(catalog);
            if let Some(tls) = certificates.load_full() {
                tls.set_up(catalog);
            }
        }),
        enqueued: Box::new(move |rows| dispatch.enqueued(rows)),
        // Nobody listens any more if the house is closing already.
        broken: Box::new(move |error| drop(tell_broken.send(error.clone().into()))),
    }
}

pub(super) fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    // Blocking work is reading for the management API; a few threads are plenty.
    builder.max_blocking_threads(8).thread_name("http").enable_all().build()
}

/// What goes on beside the requests.
pub(super) fn keep_house(runtime: &Runtime, config: &Config, custody: &Custody, store: &store::Store) {
    let backups = custody.backups.clone();
    runtime.spawn_blocking(move || backups.clean());
    if let Some(schedule) = parts::schedule(config) {
        runtime.spawn(schedule.run(custody.backups.clone(), store.clone()));
    }
    if custody.trial.is_on() {
        runtime.spawn(end_trial(custody.trial.clone()));
    }
}

/// A restored store that nobody asks anything has served when it was ready for a while.
async fn end_trial(trial: Trial) {
    tokio::time::sleep(TRIAL).await;
    let ended = tokio::task::spawn_blocking(move || trial.end(UnixMs::now())).await;
    if let Ok(Err(error)) = ended {
        tracing::error!(%error, "the restored store could not prove itself");
    }
}
