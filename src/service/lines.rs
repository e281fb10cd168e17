//! Standard error for many lines: a thread of its own writes them, so that a reader who is slow or stopped holds up nobody.
//!
//! Lines of the access log are gathered for a moment, since a write for each request would cost as much as the request's
//! script; all others go out at once, and take along what was gathered before them. What nobody reads is dropped beyond a
//! bound, and counted in a line of its own once there is room again.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// The target of access lines.
const GATHERED: &str = "picloud::access";
/// How long a line is kept.
const KEPT: Duration = Duration::from_millis(20);
/// Gathered bytes that are written without waiting.
const FULL: usize = 64 * 1024;
/// Bytes that wait for a reader. A line of 1 MiB fits among others.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long the end of the process waits for a reader.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Where lines gather. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    some: Condvar,
    urgent: Condvar,
    none: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// They are to go out now.
    is_urgent: bool,
    /// Some are out of here and not at the reader yet.
    under_way: bool,
    dropped: u64,
}

/// One line in the making.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    at_once: bool,
}

impl Lines {
    /// Starts the thread that writes to standard error.
    pub(super) fn start() -> io::Result<Lines> {
        Lines::start_to(io::stderr())
    }

    fn start_to(reader: impl Write + Send + 'static) -> io::Result<Lines> {
        let lines = Lines::default();
        let own = lines.clone();
        thread::Builder::new().name("log".into()).spawn(move || own.hand_on(reader))?;
        Ok(lines)
    }

    /// Waits until everything is written, but not for ever.
    pub(super) fn flush(&self) {
        let mut waiting = self.lock();
        waiting.is_urgent = true;
        self.0.urgent.notify_one();
        let busy = |waiting: &mut Waiting| !waiting.bytes.is_empty() || waiting.under_way;
        drop(self.0.none.wait_timeout_while(waiting, FLUSH_MAX, busy));
    }

    fn hand_on(&self, mut reader: impl Write) {
        let mut out = Vec::new();
        loop {
            let mut waiting = self.lock();
            waiting.under_way = false;
            if waiting.bytes.is_empty() {
                self.0.none.notify_all();
            }
            let waited = self.0.some.wait_while(waiting, |waiting| waiting.bytes.is_empty());
            let waiting = waited.unwrap_or_else(PoisonError::into_inner);
            let gathered = self.0.urgent.wait_timeout_while(waiting, KEPT, |waiting| !waiting.is_urgent);
            let mut waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
            std::mem::swap(&mut waiting.bytes, &mut out);
            waiting.is_urgent = false;
            waiting.under_way = true;
            let dropped = std::mem::take(&mut waiting.dropped);
            drop(waiting);
            // If standard error is gone there is nobody left to tell.
            let _ = reader.write_all(&out);
            out.clear();
            out.shrink_to(FULL);
            if dropped > 0 {
                tracing::warn!(dropped, "lines were dropped: nobody read standard error in time");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, at_once: true }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line { lines: self, at_once: event.target() != GATHERED }
    }
}

impl Write for Line<'_> {
    /// Takes a whole line; the layers that format lines give them so.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let shared = &self.lines.0;
        let mut waiting = self.lines.lock();
        if waiting.bytes.len() + text.len() > WAITING_BYTES_MAX {
            waiting.dropped += 1;
            return Ok(text.len());
        }
        if waiting.bytes.is_empty() {
            shared.some.notify_one();
        }
        waiting.bytes.extend_from_slice(text);
        if (self.at_once || waiting.bytes.len() >= FULL) && !waiting.is_urgent {
            waiting.is_urgent = true;
            shared.urgent.notify_one();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes nothing until it is let, and hands on what it got.
    struct Stopped {
        go: mpsc::Receiver<()>,
        got: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Stopped {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // Once the sender is gone it takes everything.
            let _ = self.go.recv();
            let _ = self.got.send(text.to_vec());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_is_stopped_holds_up_nobody_and_gets_what_fitted() {
        let (go, wait) = mpsc::channel();
        let (got, took) = mpsc::channel();
        let lines = Lines::start_to(Stopped { go: wait, got }).unwrap();
        let write = |text: &[u8]| lines.make_writer().write_all(text).unwrap();
        write(b"first\n");
        // The thread holds the first line now, and the rest waits.
        while !lines.lock().under_way {
            thread::yield_now();
        }
        let large = vec![b'x'; 1024 * 1024];
        (0..20).for_each(|_| write(&large));
        assert_eq!(lines.lock().dropped, 12);
        drop(go);
        lines.flush();
        let got: Vec<u8> = took.try_iter().flatten().collect();
        assert!(got.starts_with(b"first\nxxx"));
        assert_eq!(got.len(), 6 + 8 * large.len());
    }
}
