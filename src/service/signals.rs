//! The signals. They outlive a house: one that comes while it reopens is not lost.

use std::io::{self, IsTerminal};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::logging::Log;
use super::watch::Watch;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The house is to close.
    Close,
    /// The configuration is to be read again.
    Reload,
}

/// What has been asked since the process started.
pub(super) struct Signals {
    told: mpsc::UnboundedReceiver<Asked>,
    is_attended: Arc<AtomicBool>,
}

struct Sources {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// What a hangup means: with a terminal, that it was closed.
    on_hangup: Asked,
}

impl Signals {
    /// From here on they no longer end the process by themselves. Who asks to close is obeyed at once for the second time,
    /// and also the first as long as nobody attends: a house that is being opened has nothing to finish.
    pub(super) fn listen(log: Log, watch: Watch) -> io::Result<Signals> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let mut sources = runtime.block_on(async { Sources::new() })?;
        let (tell, told) = mpsc::unbounded_channel();
        let is_attended = Arc::new(AtomicBool::new(false));
        let attended = is_attended.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            let is_second = runtime.block_on(async {
                let mut closing = false;
                loop {
                    match sources.next().await {
                        Asked::Close if closing || !attended.load(Relaxed) => break closing,
                        Asked::Reload if closing => {}
                        asked => {
                            closing = asked == Asked::Close;
                            // Nobody listens any more if the house is closing already.
                            let _ = tell.send(asked);
                        }
                    }
                }
            });
            // What was accepted is on the card.
            if is_second {
                tracing::warn!("stopped at once, at the second signal");
                log.flush();
                exit(1);
            }
            tracing::info!("stopped before PiCloud was open");
            watch.take_back();
            log.flush();
            exit(0);
        })?;
        Ok(Signals { told, is_attended })
    }

    /// From here on somebody asks for the next, and closes the house in order.
    pub(super) fn attend(&self) {
        self.is_attended.store(true, Relaxed);
    }

    /// The next of them. Several that ask for the same at once are one.
    pub(super) async fn next(&mut self) -> Asked {
        let Some(asked) = self.told.recv().await else {
            // The thread ends only with the process.
            return std::future::pending().await;
        };
        if asked == Asked::Reload {
            while let Ok(more) = self.told.try_recv() {
                if more == Asked::Close {
                    return Asked::Close;
                }
            }
        }
        asked
    }
}

impl Sources {
    /// Needs the event loop.
    fn new() -> io::Result<Sources> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let on_hangup = if io::stderr().is_terminal() { Asked::Close } else { Asked::Reload };
        Ok(Sources { terminate, interrupt, hangup: signal(SignalKind::hangup())?, on_hangup })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Close,
            _ = self.interrupt.recv() => Asked::Close,
            _ = self.hangup.recv() => self.on_hangup,
        }
    }
}
