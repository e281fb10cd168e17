//! The journal at arm's length: a thread of its own hands events to it, so that one that is full or stopped holds up
//! nobody.
//!
//! The layer for the journal sends each event to journald's socket and waits until there is room. Here events are taken
//! apart, queued, and put together again on the thread that may wait. What does not fit into the queue is dropped, and
//! counted in the next line that gets through.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::field::{Field, Value, Visit};
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Bytes of events that wait, about. One of 1 MiB fits among others.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one event beside its texts, about.
const EVENT_BYTES: usize = 256;
/// Fields of one event: as many as tracing's macros take.
const FIELDS_MAX: usize = 32;
/// How long the end of the process waits for the journal.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// A handle on the queue.
#[derive(Clone)]
pub(super) struct Journal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    some: Condvar,
    none: Condvar,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Taken>,
    bytes: usize,
    dropped: u64,
    /// One is out of the queue and not at the journal yet.
    under_way: bool,
}

/// An event taken apart.
struct Taken {
    metadata: &'static Metadata<'static>,
    fields: Vec<(Field, Content)>,
    bytes: usize,
}

enum Content {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Flag(bool),
}

impl Journal {
    /// Starts the thread that hands events to `layer`.
    pub(super) fn start(
        layer: impl Layer<tracing_subscriber::Registry> + Send + Sync + 'static,
    ) -> io::Result<Journal> {
        let journal = Journal(Arc::default());
        let own = journal.clone();
        let inner = Dispatch::new(tracing_subscriber::registry().with(layer));
        thread::Builder::new().name("journal".into()).spawn(move || own.hand_on(&inner))?;
        Ok(journal)
    }

    /// What events are to be given to.
    pub(super) fn layer(&self) -> Queued {
        Queued(self.clone())
    }

    /// Waits until the journal has everything, but not for ever.
    pub(super) fn flush(&self) {
        let busy = |queue: &mut Queue| !queue.events.is_empty() || queue.under_way;
        drop(self.0.none.wait_timeout_while(self.lock(), FLUSH_MAX, busy));
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Taken) {
        let mut queue = self.lock();
        if queue.bytes + event.bytes > WAITING_BYTES_MAX {
            queue.dropped += 1;
            return;
        }
        queue.bytes += event.bytes;
        queue.events.push_back(event);
        drop(queue);
        self.0.some.notify_one();
    }

    fn hand_on(&self, journal: &Dispatch) {
        loop {
            let mut queue = self.lock();
            queue.under_way = false;
            if queue.events.is_empty() {
                self.0.none.notify_all();
            }
            let waited = self.0.some.wait_while(queue, |queue| queue.events.is_empty());
            let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(event) = queue.events.pop_front() else { continue };
            queue.bytes -= event.bytes;
            queue.under_way = true;
            let dropped = std::mem::take(&mut queue.dropped);
            drop(queue);
            event.tell(journal);
            if dropped > 0 {
                tracing::dispatcher::with_default(journal, || {
                    tracing::warn!(dropped, "lines were dropped: the journal did not take them in time");
                });
            }
        }
    }
}

/// The layer that queues events.
pub(super) struct Queued(Journal);

impl<S: Subscriber> Layer<S> for Queued {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut taken = Taken { metadata: event.metadata(), fields: Vec::new(), bytes: EVENT_BYTES };
        event.record(&mut taken);
        self.0.push(taken);
    }
}

impl Taken {
    fn put(&mut self, field: &Field, content: Content) {
        if let Content::Text(text) = &content {
            self.bytes += text.len();
        }
        if self.fields.len() < FIELDS_MAX {
            self.fields.push((field.clone(), content));
        }
    }

    /// Puts it together again.
    fn tell(&self, journal: &Dispatch) {
        let all = self.metadata.fields();
        // A set of values has a fixed number of them; what is `None` is left out.
        let Some(any) = all.iter().next() else { return };
        let mut values: [(&Field, Option<&dyn Value>); FIELDS_MAX] = [(&any, None); FIELDS_MAX];
        for (slot, (field, content)) in values.iter_mut().zip(&self.fields) {
            *slot = (field, Some(content.value()));
        }
        journal.event(&Event::new_child_of(None, self.metadata, &all.value_set(&values)));
    }
}

impl Content {
    fn value(&self) -> &dyn Value {
        match self {
            Content::Text(text) => text,
            Content::Signed(number) => number,
            Content::Unsigned(number) => number,
            Content::Flag(flag) => flag,
        }
    }
}

impl Visit for Taken {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Content::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Content::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Content::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Content::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Content::Flag(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A journal that takes nothing until it is let, and notes what it gets.
    struct Stopped {
        go: Mutex<mpsc::Receiver<()>>,
        got: Arc<Mutex<Vec<String>>>,
    }

    struct Words(String);

    impl Visit for Words {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0 += &format!("{}={value:?} ", field.name());
        }
    }

    impl<S: Subscriber> Layer<S> for Stopped {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            // Once the sender is gone it takes everything.
            let _ = self.go.lock().unwrap().recv();
            let mut words = Words(format!("{} ", event.metadata().level()));
            event.record(&mut words);
            self.got.lock().unwrap().push(words.0);
        }
    }

    #[test]
    fn a_journal_that_is_stopped_holds_up_nobody_and_hears_what_it_missed() {
        let (go, wait) = mpsc::channel();
        let got = Arc::<Mutex<Vec<String>>>::default();
        let journal = Journal::start(Stopped { go: Mutex::new(wait), got: got.clone() }).unwrap();
        let log = Dispatch::new(tracing_subscriber::registry().with(journal.layer()));
        let large = "x".repeat(1024 * 1024);
        tracing::dispatcher::with_default(&log, || {
            tracing::warn!(app = "a", status = 200_u64, code = -1, ok = true, path = %"/x", "first");
            (0..20).for_each(|_| tracing::info!("{large}"));
        });
        assert!(got.lock().unwrap().is_empty());
        drop(go);
        journal.flush();
        let got = got.lock().unwrap();
        let first = &got[0];
        for part in
            ["WARN ", "app=\"a\"", "status=200", "code=-1", "ok=true", "path=\"/x\"", "message=\"first\""]
        {
            assert!(first.contains(part), "{first} lacks {part}");
        }
        let whole = got.iter().filter(|line| line.contains(&large)).count();
        assert!((7..9).contains(&whole), "{whole} lines of 1 MiB came through");
        let dropped = got.iter().find(|line| line.contains("dropped=")).unwrap();
        assert!(dropped.contains(&format!("dropped={}", 20 - whole)), "{dropped}");
    }
}
