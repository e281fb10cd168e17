//! The inbox: who waits for which answer, in this process.
//!
//! A waiter is registered before its row is committed, so that no delivery can race it. Every row with a reply
//! address ends in one delivery; one that finds nobody is abandoned: counted, logged, never an error.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Answer;
use crate::model::InboxId;

const SHARDS: usize = 16;

/// A handle on the registry, cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    shared: Arc<Shared>,
}

struct Shared {
    shards: [Mutex<HashMap<InboxId, oneshot::Sender<Answer>>>; SHARDS],
    next: AtomicU64,
    abandoned: AtomicU64,
}

/// Someone who waits. Dropping it takes the entry out.
pub struct Waiter {
    id: InboxId,
    inbox: Inbox,
    answer: oneshot::Receiver<Answer>,
}

/// Someone to tell, taken out of the inbox.
pub struct Receiver(Option<oneshot::Sender<Answer>>);

impl Inbox {
    /// An empty inbox. `first` is where its ids begin: a random number, so that a row which an earlier process
    /// left can never name a waiter of this one.
    pub fn new(first: u64) -> Inbox {
        let shards = std::array::from_fn(|_| Mutex::default());
        Inbox {
            shared: Arc::new(Shared { shards, next: AtomicU64::new(first), abandoned: AtomicU64::new(0) }),
        }
    }

    /// Registers a waiter.
    pub fn register(&self) -> Waiter {
        let id = InboxId(self.shared.next.fetch_add(1, Relaxed));
        let (sender, answer) = oneshot::channel();
        self.shard(id).insert(id, sender);
        Waiter { id, inbox: self.clone(), answer }
    }

    /// Takes out whoever waits under this id.
    pub fn take(&self, id: InboxId) -> Receiver {
        Receiver(self.shard(id).remove(&id))
    }

    /// Counts an answer that found nobody.
    pub fn count_abandoned(&self) {
        self.shared.abandoned.fetch_add(1, Relaxed);
    }

    /// Answers that found nobody.
    pub fn abandoned(&self) -> u64 {
        self.shared.abandoned.load(Relaxed)
    }

    /// Who waits now.
    pub fn waiting(&self) -> usize {
        self.shared
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    fn shard(&self, id: InboxId) -> MutexGuard<'_, HashMap<InboxId, oneshot::Sender<Answer>>> {
        let shard = usize::try_from(id.0 % 16).unwrap_or_default();
        self.shared.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiver {
    /// Whether somebody still waits.
    pub fn is_there(&self) -> bool {
        self.0.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Hands the answer over. False if nobody took it.
    pub fn deliver(self, answer: Answer) -> bool {
        self.0.is_some_and(|sender| sender.send(answer).is_ok())
    }
}

impl Waiter {
    /// The reply address for the row.
    pub fn id(&self) -> InboxId {
        self.id
    }

    /// The answer. `None` if the house lost it, which is a fault of ours.
    pub async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.inbox.shard(self.id).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Answer;
    use crate::script::{Fault, FaultKind};

    fn answer() -> Answer {
        Answer { result: Err(Fault::new(FaultKind::Runtime, "x")) }
    }

    #[test]
    fn a_waiter_gets_its_answer_once() {
        let inbox = Inbox::new(u64::MAX);
        let mut waiter = inbox.register();
        let receiver = inbox.take(waiter.id());
        assert!(receiver.is_there() && receiver.deliver(answer()));
        assert!(!inbox.take(waiter.id()).deliver(answer()), "the second delivery finds nobody");
        assert!(waiter.answer.try_recv().is_ok());
    }

    #[test]
    fn a_waiter_that_left_is_not_found() {
        let inbox = Inbox::new(0);
        let (gone, unknown) = (inbox.register().id(), InboxId(99));
        assert_eq!(inbox.waiting(), 0);
        assert!(!inbox.take(gone).is_there() && !inbox.take(unknown).is_there());
    }
}
