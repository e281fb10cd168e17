//! Compiled programs, kept by script and version so that a source is compiled once. Bounded by bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::Program;

/// What the cache holds unless told otherwise.
pub const PROGRAM_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// The cache. Versions are immutable, so an entry is never stale; the least recently used go first.
#[derive(Debug)]
pub struct Programs {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<(Uuid, u32), Entry>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    program: Arc<Program>,
    used_at: u64,
}

impl Default for Programs {
    fn default() -> Programs {
        Programs::new(PROGRAM_BYTES_DEFAULT)
    }
}

impl Programs {
    /// An empty cache of at most `bytes_max`.
    pub fn new(bytes_max: usize) -> Programs {
        Programs { bytes_max, kept: Mutex::default() }
    }

    /// The program of a version, if it is kept.
    pub fn find(&self, script_id: Uuid, version: u32) -> Option<Arc<Program>> {
        let mut kept = self.kept();
        kept.clock += 1;
        let now = kept.clock;
        let entry = kept.entries.get_mut(&(script_id, version))?;
        entry.used_at = now;
        Some(entry.program.clone())
    }

    /// Keeps a program, at the cost of those that were not used for longest. One that is larger than the whole cache
    /// is not kept.
    pub fn insert(&self, script_id: Uuid, version: u32, program: Arc<Program>) {
        let bytes = program.bytes();
        if bytes > self.bytes_max {
            return;
        }
        let mut kept = self.kept();
        kept.clock += 1;
        let entry = Entry { program, used_at: kept.clock };
        if let Some(old) = kept.entries.insert((script_id, version), entry) {
            kept.bytes -= old.program.bytes();
        }
        kept.bytes += bytes;
        while kept.bytes > self.bytes_max {
            kept.evict();
        }
    }

    /// Bytes held by programs.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Drops the entry that was not used for longest. A scan is fine: there are some hundred at most, and it happens
    /// only after a compilation.
    fn evict(&mut self) {
        let Some(key) = self.entries.iter().min_by_key(|(_, entry)| entry.used_at).map(|(key, _)| *key)
        else {
            self.bytes = 0;
            return;
        };
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.program.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compile;
    use super::*;

    fn program(source: &str) -> Arc<Program> {
        Arc::new(compile(&source.parse().unwrap()).unwrap())
    }

    #[test]
    fn keeps_the_recently_used_within_its_bytes() {
        let one = program("let x = 1; x + 1");
        let programs = Programs::new(one.bytes() * 2);
        let id = Uuid::from_u128;
        programs.insert(id(1), 1, one.clone());
        programs.insert(id(2), 1, one.clone());
        assert!(programs.find(id(1), 1).is_some() && programs.find(id(1), 2).is_none());
        programs.insert(id(3), 1, one.clone());
        assert!(programs.find(id(2), 1).is_none(), "the least recently used goes first");
        assert!(programs.find(id(1), 1).is_some() && programs.find(id(3), 1).is_some());
        programs.insert(id(3), 1, one.clone());
        assert_eq!(programs.bytes(), one.bytes() * 2);
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let programs = Programs::new(10);
        programs.insert(Uuid::nil(), 1, program("1"));
        assert_eq!((programs.bytes(), programs.find(Uuid::nil(), 1).is_none()), (0, true));
    }
}
