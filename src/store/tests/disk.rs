//! A disk in memory that remembers every write in order, fails when told to, and can be cut from its power
//! afterwards at every point of what it remembers.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use super::chance::Chance;

/// What a disk is sure to write as a whole.
const SECTOR_BYTES: usize = 512;

/// What reached the disk, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Write {
        offset: usize,
        data: Arc<[u8]>,
    },
    SetLen(usize),
    /// Another file took the name of this one.
    Replace(Arc<[u8]>),
    Sync,
}

/// An operation that will fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// Which one, counted from 0 over all kinds.
    pub(super) at: usize,
    /// Whether all that follow fail too.
    pub(super) lasting: bool,
    /// The number of the system's error.
    pub(super) errno: i32,
}

/// Shared by the store that writes and the test that watches.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    image: Vec<u8>,
    journal: Option<Vec<Event>>,
    operations: usize,
    fault: Option<Fault>,
}

impl Disk {
    /// A disk with these bytes that remembers what is done to it.
    pub(super) fn recording(image: Vec<u8>, fault: Option<Fault>) -> Disk {
        Disk(Arc::new(Mutex::new(Inner { image, journal: Some(Vec::new()), operations: 0, fault })))
    }

    /// A disk with these bytes.
    pub(super) fn plain(image: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(Inner { image, journal: None, operations: 0, fault: None })))
    }

    /// How many events there were.
    pub(super) fn position(&self) -> usize {
        self.lock().journal.as_ref().map_or(0, Vec::len)
    }

    /// Fails the next operation.
    pub(super) fn fail(&self, lasting: bool, errno: i32) {
        let mut inner = self.lock();
        inner.fault = Some(Fault { at: inner.operations, lasting, errno });
    }

    /// Whether an operation fails, sooner or later.
    pub(super) fn is_faulty(&self) -> bool {
        self.lock().fault.is_some()
    }

    /// Whether one has failed.
    pub(super) fn has_failed(&self) -> bool {
        let inner = self.lock();
        inner.fault.is_some_and(|fault| inner.operations > fault.at)
    }

    /// Lets `other` take this one's name and go on with its journal; then the directory is synced.
    pub(super) fn give_way_to(&self, other: &Disk) {
        let mut journal = self.take_journal();
        let mut other = other.lock();
        let copied = other.journal.take().unwrap_or_default();
        assert_eq!(copied.last(), Some(&Event::Sync), "a copy is synced before it takes over");
        journal.extend([Event::Replace(other.image.as_slice().into()), Event::Sync]);
        other.journal = Some(journal);
    }

    pub(super) fn image(&self) -> Vec<u8> {
        self.lock().image.clone()
    }

    pub(super) fn take_journal(&self) -> Vec<Event> {
        self.lock().journal.take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    /// Counts an operation; an error if it is the one that fails.
    fn operate(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some(fault) if number == fault.at || (fault.lasting && number > fault.at) => {
                Err(io::Error::from_raw_os_error(fault.errno))
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, event: Event) {
        if let Some(journal) = &mut self.journal {
            journal.push(event);
        }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        put(&mut self.image, offset, data);
        if self.journal.is_some() {
            self.note(Event::Write { offset, data: data.into() });
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.lock().image.len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operate()?;
        let offset = usize::try_from(offset).unwrap();
        let bytes = inner.image.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operate()?;
        let len = usize::try_from(len).unwrap();
        inner.image.resize(len, 0);
        inner.note(Event::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operate()?;
        inner.note(Event::Sync);
        Ok(())
    }

    /// One that fails may have written a part.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let offset = usize::try_from(offset).unwrap();
        let result = inner.operate();
        let done = if result.is_ok() { data } else { &data[..data.len() / 2] };
        inner.write(offset, done);
        result
    }
}

/// Makes the images that cuts of the power at ascending positions of a journal may leave.
pub(super) struct Cutter<'a> {
    journal: &'a [Event],
    /// What is sure to be on the disk.
    synced: Vec<u8>,
    /// How many events are in it.
    synced_upto: usize,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(image: Vec<u8>, journal: &'a [Event]) -> Cutter<'a> {
        Cutter { journal, synced: image, synced_upto: 0 }
    }

    /// The bytes after a cut before event `at`: all that was synced, and of the rest what chance leaves.
    pub(super) fn cut(&mut self, at: usize, chance: &mut Chance) -> Vec<u8> {
        let window = &self.journal[self.synced_upto..at];
        if let Some(last) = window.iter().rposition(|event| *event == Event::Sync) {
            window[..last].iter().for_each(|event| apply(&mut self.synced, event));
            self.synced_upto += last + 1;
        }
        let mut image = self.synced.clone();
        let window = &self.journal[self.synced_upto..at];
        survivors(window, chance).iter().for_each(|event| apply(&mut image, event));
        image
    }
}

/// What is left of writes that no sync followed.
fn survivors(window: &[Event], chance: &mut Chance) -> Vec<Event> {
    let variant = chance.below(8);
    let share = [100, 10, 50, 90][chance.below(4)];
    match variant {
        0 => Vec::new(),
        1 => window.to_vec(),
        2 => some(window, share, chance),
        3 | 4 => shuffled(some(window, share, chance), chance),
        5 => {
            let mut kept = window[..window.len().saturating_sub(1)].to_vec();
            kept.extend(window.last().into_iter().flat_map(|last| torn(last, chance)));
            kept
        }
        _ => {
            let kept = some(window, share, chance);
            let torn = kept.iter().flat_map(|event| torn(event, chance)).collect();
            if variant == 6 { torn } else { shuffled(torn, chance) }
        }
    }
}

fn some(window: &[Event], share: usize, chance: &mut Chance) -> Vec<Event> {
    window.iter().filter(|_| chance.percent(share)).cloned().collect()
}

/// Writes overtake each other, but none overtakes a change of the length, since a file system drops what lies
/// behind the end of a shortened file; nor another file's coming.
fn shuffled(mut events: Vec<Event>, chance: &mut Chance) -> Vec<Event> {
    events.split_mut(|event| !matches!(event, Event::Write { .. })).for_each(|writes| chance.shuffle(writes));
    events
}

/// Some of a write's sectors, and of one perhaps only some bytes.
fn torn(event: &Event, chance: &mut Chance) -> Vec<Event> {
    let Event::Write { offset, data } = event else { return vec![event.clone()] };
    let share = [50, 90, 100][chance.below(3)];
    let mut parts = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let next = (at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES).min(data.len());
        let end = if chance.percent(5) { at + chance.below(next - at) } else { next };
        if chance.percent(share) {
            parts.push(Event::Write { offset: offset + at, data: data[at..end].into() });
        }
        at = next;
    }
    parts
}

fn apply(image: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { offset, data } => put(image, *offset, data),
        Event::SetLen(len) => image.resize(*len, 0),
        Event::Replace(other) => *image = other.to_vec(),
        Event::Sync => {}
    }
}

fn put(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(data);
}
