//! Where those wait whose handshake is not done: so many at once, and each only so long.
//!
//! When it is full the one that has been there longest must go. An honest handshake is over in some milliseconds, so
//! whoever has been there longest is slow on purpose or gone; newcomers are never kept out by such.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

/// The room.
pub(in crate::http) struct Anteroom {
    most: usize,
    waiting: Mutex<Waiting>,
    evicted: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

/// A place in it, free again when this goes.
pub(in crate::http) struct Seat {
    room: Arc<Anteroom>,
    number: u64,
}

impl Anteroom {
    /// A room with so many places.
    pub(in crate::http) fn new(most: usize) -> Arc<Anteroom> {
        Arc::new(Anteroom { most, waiting: Mutex::default(), evicted: AtomicU64::new(0) })
    }

    /// Starts a task that holds a seat until its handshake is over.
    pub(in crate::http) fn enter(self: &Arc<Anteroom>, start: impl FnOnce(Seat) -> AbortHandle) {
        let oldest = {
            // Held while it starts, so that a task cannot leave before it is listed.
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let is_full = waiting.tasks.len() >= self.most;
            let oldest = if is_full { waiting.tasks.pop_first() } else { None };
            let number = waiting.next;
            waiting.next += 1;
            let task = start(Seat { room: self.clone(), number });
            waiting.tasks.insert(number, task);
            oldest
        };
        if let Some((_, oldest)) = oldest {
            oldest.abort();
            self.evicted.fetch_add(1, Relaxed);
        }
    }

    /// How many are in it, and how many had to go before they were done.
    pub(in crate::http) fn count(&self) -> (usize, u64) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        (waiting.tasks.len(), self.evicted.load(Relaxed))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let task = {
            let mut waiting = self.room.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.tasks.remove(&self.number)
        };
        // Outside of the lock: the last handle of a task may drop the task.
        drop(task);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_one_that_waits_longest_makes_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let room = Anteroom::new(2);
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            for number in 0..3 {
                let tell = tell.clone();
                room.enter(|seat| {
                    let wait = async move {
                        let _seat = seat;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        let _ = tell.send(number);
                    };
                    tokio::spawn(wait).abort_handle()
                });
            }
            drop(tell);
            let mut done = Vec::new();
            while let Some(number) = told.recv().await {
                done.push(number);
            }
            assert_eq!((done, room.count()), (vec![1, 2], (0, 1)));
        });
    }
}
