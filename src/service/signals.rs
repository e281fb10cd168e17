//! The signals that ask the house to close. They outlive a house: one that comes while it reopens is not lost.

use std::io;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What has been asked since the process started.
pub(super) struct Signals(mpsc::UnboundedReceiver<()>);

struct Asked {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal was closed.
    hangup: Signal,
}

impl Signals {
    /// From here on they no longer end the process by themselves; but the second one does, at once.
    pub(super) fn listen() -> io::Result<Signals> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let mut asked = runtime.block_on(async { Asked::new() })?;
        let (tell, told) = mpsc::unbounded_channel();
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                asked.next().await;
                // Nobody listens any more if the house is closing already.
                let _ = tell.send(());
                asked.next().await;
            });
            // Who asks twice does not want to wait. What was accepted is on the card.
            tracing::warn!("stopped at once, at the second signal");
            std::process::exit(1);
        })?;
        Ok(Signals(told))
    }

    /// The first of them.
    pub(super) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The thread ends only with the process.
            std::future::pending::<()>().await;
        }
    }
}

impl Asked {
    /// Needs the event loop.
    fn new() -> io::Result<Asked> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Asked { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
