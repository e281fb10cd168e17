//! Which triggers wait for what: an index of the catalog, made anew when a trigger changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::Change;
use crate::model::{KvKey, Name, Trigger, TriggerOn};

type All = Arc<BTreeMap<Uuid, Arc<Trigger>>>;

/// Triggers by what makes them run.
#[derive(Debug, Default)]
pub(crate) struct Reactions {
    of: All,
    kv: HashMap<Uuid, Vec<Arc<Trigger>>>,
    queues: HashMap<(Uuid, Name), Arc<Trigger>>,
}

impl Reactions {
    /// The index of these.
    pub(crate) fn of(all: &All) -> Reactions {
        let mut made = Reactions { of: all.clone(), ..Reactions::default() };
        for trigger in all.values() {
            match &trigger.on {
                TriggerOn::Kv { .. } if trigger.enabled => {
                    made.kv.entry(trigger.app_id).or_default().push(trigger.clone());
                }
                // Messages for a paused one wait.
                TriggerOn::Queue { queue, .. } => {
                    made.queues.insert((trigger.app_id, queue.clone()), trigger.clone());
                }
                TriggerOn::Kv { .. }
                | TriggerOn::Cron { .. }
                | TriggerOn::DeadLetter { .. }
                | TriggerOn::Startup => {}
            }
        }
        made
    }

    /// Whether it is the index of these.
    pub(crate) fn is_of(&self, all: &All) -> bool {
        Arc::ptr_eq(&self.of, all)
    }

    /// Triggers that this change makes run.
    pub(crate) fn to_change<'r>(
        &'r self,
        app: Uuid,
        change: &'r Change,
    ) -> impl Iterator<Item = &'r Arc<Trigger>> + 'r {
        let all = self.kv.get(&app).map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |trigger| waits_for(trigger, &change.key, change.value.is_some()))
    }

    /// The trigger that takes the messages of a queue.
    pub(crate) fn to_message(&self, app: Uuid, queue: &Name) -> Option<&Arc<Trigger>> {
        self.queues.get(&(app, queue.clone()))
    }
}

fn waits_for(trigger: &Trigger, key: &KvKey, is_set: bool) -> bool {
    match &trigger.on {
        TriggerOn::Kv { prefix, set, delete } => prefix.takes(key) && if is_set { *set } else { *delete },
        TriggerOn::Queue { .. }
        | TriggerOn::Cron { .. }
        | TriggerOn::DeadLetter { .. }
        | TriggerOn::Startup => false,
    }
}
