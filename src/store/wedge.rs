//! A hook for tests: lets one part of a debug build stop for ever, so that the watchdog can be seen to bite. In a
//! release build there is none of it.

#[cfg(debug_assertions)]
pub use debug::{arm, here};

/// Does nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub fn here(_part: &str) {}

#[cfg(debug_assertions)]
mod debug {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::thread;
    use std::time::Duration;

    static FILE: OnceLock<PathBuf> = OnceLock::new();

    /// From here on a part stops while this file holds its name.
    pub fn arm(file: PathBuf) {
        // The first one holds; there is one a process.
        let _ = FILE.set(file);
    }

    /// Stops here while the file says so.
    pub fn here(part: &str) {
        let Some(file) = FILE.get() else { return };
        while std::fs::read_to_string(file).is_ok_and(|wedged| wedged.trim() == part) {
            thread::sleep(Duration::from_millis(100));
        }
    }
}
