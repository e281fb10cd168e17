//! Standard error for many lines: those of the access log are gathered for a moment, all others go out at once.
//!
//! A write for each request would cost as much as the request's script. Order is kept: a line that goes out at once
//! takes along what was gathered before it.

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

/// Where lines gather. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Gathered>);

#[derive(Default)]
struct Gathered {
    bytes: Mutex<Vec<u8>>,
    some: Condvar,
}

/// One line in the making.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    at_once: bool,
}

impl Lines {
    /// Starts the thread that writes what has gathered.
    pub(super) fn start() -> io::Result<Lines> {
        let lines = Lines::default();
        let own = lines.clone();
        thread::Builder::new().name("log".into()).spawn(move || {
            loop {
                let empty = own.0.some.wait_while(own.lock(), |bytes| bytes.is_empty());
                drop(empty.unwrap_or_else(PoisonError::into_inner));
                thread::sleep(KEPT);
                own.flush();
            }
        })?;
        Ok(lines)
    }

    /// Writes what has gathered.
    pub(super) fn flush(&self) {
        write_out(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut bytes = self.lines.lock();
        if bytes.is_empty() && !self.at_once {
            self.lines.0.some.notify_one();
        }
        bytes.extend_from_slice(text);
        if self.at_once || bytes.len() >= FULL {
            write_out(&mut bytes);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_out(bytes: &mut Vec<u8>) {
    // If standard error is gone there is nobody left to tell.
    let _ = io::stderr().write_all(bytes);
    bytes.clear();
}
