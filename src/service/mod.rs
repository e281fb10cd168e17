//! The caretaker: opens the rooms in order, tells systemd and the operator when the house is open, and locks up
//! from the outside in.
//!
//! Only this room and `main` touch file descriptors, the environment and signals. It decides nothing about
//! requests: it builds each part from the configuration and hands the parts to each other.

mod backups;
mod device_seal;
mod first_run;
mod lines;
mod logging;
mod offline;
mod parts;
mod signals;
mod tls;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::http::{Custody, Door, Guests, Limits, Listener, Server, SystemInfo, Tls, TlsError};
use crate::model::UnixMs;
use crate::script::{ChainKey, Messenger};
use crate::store::backup::{BackupError, Premises, Start, Trial};
use crate::{dispatch::Dispatch, store};
pub use offline::{check_backup, restore as restore_offline};
use signals::Signals;

/// A restored store that was ready for so long has served.
const TRIAL: Duration = Duration::from_secs(60);

/// What keeps the house from opening, or makes it close.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened, or the card failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system refuses a thread, a signal or randomness.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// Scripts left too much memory behind.
    #[error(
        "scripts left {0} bytes of memory behind, more than scripts.leaked_bytes_max; start PiCloud again, and look for \"left\" in the logs of the scripts"
    )]
    Leak(u64),
    /// Certificates cannot be served at all.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file that the configuration names is of no use.
    #[error("{key} {path} cannot be used: {why}", path = path.display())]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The certificate authorities for calls of scripts are of no use.
    #[error("egress.ca_file {path} cannot be used: {why}", path = path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A restore could not go on or back.
    #[error("the restore cannot be finished: {0}")]
    Restore(#[from] BackupError),
    /// The key that secrets are sealed with cannot be had.
    #[error("{0}")]
    DeviceKey(String),
    /// The first app could not be made.
    #[error("cannot set up the empty store: {0}")]
    FirstRun(String),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop what listens there, or choose another with --listen",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need systemd's socket or another --listen",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// Runs the daemon until it is told to stop, and says how it ended. `device_key` is an admin key that needs no
/// store, from the daemon's environment.
pub fn serve(config: &Config, device_key: Option<String>) -> ExitCode {
    let log = match logging::start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("picloud: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = Caretaker::new(config, device_key).and_then(Caretaker::work);
    if let Err(error) = &ended {
        tracing::error!("{error}");
    }
    log.flush();
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What outlives a house: after a restore, the next one opens in the same process behind the same sockets.
struct Caretaker<'a> {
    config: &'a Config,
    device_key: Option<String>,
    listeners: Vec<Listener>,
    tls_listeners: Vec<Listener>,
    premises: Premises,
    /// The data directory is ours, also between two houses.
    _lock: File,
    info: Arc<SystemInfo>,
    signals: Option<Signals>,
    /// Once the first house is open.
    sealer: Option<store::Sealer>,
}

/// The open house.
struct House {
    runtime: Runtime,
    store: store::Store,
    dispatch: Dispatch,
    guests: Guests,
    info: Arc<SystemInfo>,
    grace: Duration,
    trial: Trial,
    broken: mpsc::UnboundedReceiver<Error>,
    reopen: mpsc::UnboundedReceiver<()>,
}

/// Why the house closes.
enum Closing {
    Asked,
    Broken(Error),
    /// Another store is to be opened.
    Reopen,
}

impl<'a> Caretaker<'a> {
    fn new(config: &'a Config, device_key: Option<String>) -> Result<Caretaker<'a>, Error> {
        raise_descriptor_limit();
        // Sockets first: if one cannot be had, nothing has been touched, and early guests wait in the kernel.
        let listeners = bind(&config.server.listen)?;
        let tls_listeners = bind(&config.tls.listen)?;
        let (premises, info) = (parts::premises(config), Arc::new(SystemInfo::new(resident_bytes)));
        let lock = premises.lock()?;
        Ok(Caretaker {
            config,
            device_key,
            listeners,
            tls_listeners,
            premises,
            _lock: lock,
            info,
            signals: None,
            sealer: None,
        })
    }

    /// Opens the house, and again with another store as often as one is restored; until it is to close.
    fn work(mut self) -> Result<(), Error> {
        let mut start = self.premises.settle(UnixMs::now())?;
        loop {
            let house = match self.open(start) {
                Ok(house) => house,
                Err(error) if start == Start::OnTrial => {
                    self.premises.roll_back(&format!("it could not be opened: {error}"), UnixMs::now())?;
                    start = Start::Ordinary;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(signals) = &mut self.signals else { return Ok(()) };
            let trial = house.trial.clone();
            match house.live(signals)? {
                Closing::Reopen => {
                    self.premises.swap_in(UnixMs::now())?;
                    start = Start::OnTrial;
                }
                Closing::Asked if trial.is_on() => return Ok(self.premises.postpone(UnixMs::now())?),
                Closing::Asked => return Ok(()),
                Closing::Broken(error) => return Err(error),
            }
        }
    }

    fn open(&mut self, start: Start) -> Result<House, Error> {
        let began = Instant::now();
        let (store, recovered, startable) = store::Store::open(&parts::store(self.config))?;
        let house = self.furnish(start, began, store.clone(), &recovered, startable);
        // Another file may be opened in its place.
        house.inspect_err(|_| store.close())
    }

    fn furnish(
        &mut self,
        start: Start,
        began: Instant,
        store: store::Store,
        recovered: &[store::Recovered],
        startable: store::Startable,
    ) -> Result<House, Error> {
        let config = self.config;
        let sealer = self.sealer(&store)?;
        let (tell_broken, broken) = mpsc::unbounded_channel();
        let tell_leak = tell_broken.clone();
        // Nobody listens any more if the house is closing already.
        let on_leak = Box::new(move |bytes| drop(tell_leak.send(Error::Leak(bytes))));
        let chain_key = ChainKey::new(random_key()?);
        let messenger = messenger(config, chain_key.clone(), &store)?;
        let reach = (messenger, sealer.clone());
        let executor =
            crate::script::Executor::start(parts::executor(config), store.clone(), reach, on_leak)?;
        let dispatch = Dispatch::new(store.clone(), executor, parts::policy(config), random()?);
        let routes = crate::http::Routes::default();
        let tls = tls::open(config, &self.listeners, &self.tls_listeners)?;
        startable.start(hooks(&routes, &dispatch, tls.as_ref(), tell_broken))?;
        first_run::set_up(&store, &config.server.data_dir)?;
        let limits = parts::limits(config);
        let (guests, info) = (Guests::new(&limits), self.info.clone());
        let (tell_reopen, reopen) = mpsc::unbounded_channel();
        let trial = Trial::new(start, self.premises.clone(), store.clone());
        let custody = parts::custody(config, trial.clone(), sealer, tell_reopen);
        let runtime = runtime(config.server.threads)?;
        keep_house(&runtime, config, &custody, &store);
        let settings = parts::server(config, self.device_key.clone(), chain_key, tls.clone());
        let (own, desk) = (guests.clone(), dispatch.clone());
        let server = Server::new(settings, routes, store.clone(), desk, own, info.clone(), custody);
        // Whoever is told that the house is open may also ask it to close.
        if self.signals.is_none() {
            self.signals = Some(Signals::listen()?);
        }
        dispatch.start(recovered, parts::clock(config))?;
        info.draining.store(false, Relaxed);
        self.open_doors(&runtime, tls, &server, &guests, &limits)?;
        announce(&self.listeners, &self.tls_listeners, began);
        let grace = Duration::from_secs(config.server.drain_grace_seconds);
        Ok(House { runtime, store, dispatch, guests, info, grace, trial, broken, reopen })
    }
}

impl Caretaker<'_> {
    fn open_doors(
        &self,
        runtime: &Runtime,
        tls: Option<Tls>,
        server: &Server,
        guests: &Guests,
        limits: &Limits,
    ) -> io::Result<()> {
        let clear = self.listeners.iter().map(|listener| (listener, Door::Clear));
        let by_tls = tls
            .iter()
            .flat_map(|tls| self.tls_listeners.iter().map(|listener| (listener, Door::Tls(tls.clone()))));
        for (listener, door) in clear.chain(by_tls) {
            let listener = listener.try_clone()?;
            runtime.spawn(listener.run(door, server.clone(), guests.clone(), limits.clone()));
        }
        if let Some(tls) = tls {
            runtime.spawn(tls.keep());
        }
        Ok(())
    }

    /// What secrets are sealed with, whichever store is open.
    fn sealer(&mut self, store: &store::Store) -> Result<store::Sealer, Error> {
        let sealer = match self.sealer.take() {
            Some(sealer) => sealer,
            None => device_seal::sealer(&self.config.server.data_dir, || store.read()?.has_secrets())?,
        };
        Ok(self.sealer.insert(sealer).clone())
    }
}

/// What goes on beside the requests.
fn keep_house(runtime: &Runtime, config: &Config, custody: &Custody, store: &store::Store) {
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

impl House {
    /// Waits until the house is to close, and closes it.
    fn live(mut self, signals: &mut Signals) -> Result<Closing, Error> {
        let why = self.runtime.block_on(wait_for_end(signals, &mut self.broken, &mut self.reopen));
        if !matches!(why, Closing::Reopen) {
            notify(&[sd_notify::NotifyState::Stopping]);
        }
        self.info.draining.store(true, Relaxed);
        let until = Instant::now() + self.grace;
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
        Ok(late.filter(|_| !matches!(why, Closing::Broken(_))).map_or(why, Closing::Broken))
    }
}

fn hooks(
    routes: &crate::http::Routes,
    dispatch: &Dispatch,
    tls: Option<&Tls>,
    tell_broken: mpsc::UnboundedSender<Error>,
) -> store::Hooks {
    let (routes, dispatch, desk) = (routes.clone(), dispatch.clone(), dispatch.clone());
    let tls = tls.cloned();
    store::Hooks {
        catalog: Box::new(move |catalog| {
            routes.rebuild(catalog);
            desk.set_up(catalog);
            if let Some(tls) = &tls {
                tls.set_up(catalog);
            }
        }),
        enqueued: Box::new(move |rows| dispatch.enqueued(rows)),
        // Nobody listens any more if the house is closing already.
        broken: Box::new(move |error| drop(tell_broken.send(error.clone().into()))),
    }
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    // Blocking work is reading for the management API; a few threads are plenty.
    builder.max_blocking_threads(8).thread_name("http").enable_all().build()
}

fn bind(addresses: &[SocketAddr]) -> Result<Vec<Listener>, Error> {
    // Only for this: each house has an event loop of its own.
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let bind = |address: &SocketAddr| {
        let address = *address;
        runtime.block_on(Listener::bind(address)).map_err(|source| Error::Listen { address, source })
    };
    addresses.iter().map(bind).collect()
}

/// Every connection is a descriptor, and the usual soft limit is lower than the connections we allow.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Without it the house works, with fewer guests.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Tells the operator and systemd that requests are answered.
fn announce(clear: &[Listener], by_tls: &[Listener], began: Instant) {
    let url = |scheme: &str, listener: &Listener| format!("{scheme}://{}", listener.address());
    let urls = clear.iter().map(|listener| url("http", listener));
    let urls: Vec<String> = urls.chain(by_tls.iter().map(|listener| url("https", listener))).collect();
    let urls = urls.join(" ");
    let ready_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ready_ms, "ready on {urls}");
    notify(&[sd_notify::NotifyState::Ready]);
}

/// Without systemd there is nobody to tell.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

async fn wait_for_end(
    signals: &mut Signals,
    broken: &mut mpsc::UnboundedReceiver<Error>,
    reopen: &mut mpsc::UnboundedReceiver<()>,
) -> Closing {
    tokio::select! {
        () = signals.next() => Closing::Asked,
        Some(error) = broken.recv() => Closing::Broken(error),
        Some(()) = reopen.recv() => Closing::Reopen,
    }
}

/// The admin key that the daemon was started with: `PICLOUD_API_KEY`, or the credential `api-key` of systemd
/// (systemd.exec(5), LoadCredential=).
pub fn device_key() -> Option<String> {
    let from_environment = std::env::var("PICLOUD_API_KEY").ok();
    let credential = || {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY")?;
        std::fs::read_to_string(std::path::Path::new(&directory).join("api-key")).ok()
    };
    let key = from_environment.or_else(credential)?;
    Some(key.trim().to_owned()).filter(|key| !key.is_empty())
}

fn messenger(config: &Config, key: ChainKey, store: &store::Store) -> Result<Messenger, Error> {
    let bad = |why: String| Error::Roots { path: config.egress.ca_file.clone(), why };
    let settings = parts::egress(config).map_err(|error| bad(error.to_string()))?;
    Messenger::new(settings, key, store.clone()).map_err(|error| bad(error.to_string()))
}

fn random_key() -> io::Result<[u8; 32]> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    Ok(bits)
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}

/// Resident memory, from proc_pid_statm(5): its second number, in pages.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}
