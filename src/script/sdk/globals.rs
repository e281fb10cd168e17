//! Functions without a namespace: how a run ends, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use rhai::{Dynamic, NativeCallContext};

use super::super::text;
use super::super::watch::{Stop, Watch};
use super::{Kit, Raised, offer, wrong};

/// Longest wait that `retry_after` takes, in seconds: a day.
const RETRY_AFTER_SECONDS_MAX: i64 = 86_400;

/// Longest text of a message, in bytes; the log cuts further.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The functions.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("", "How a run ends, and what it answers; called by their bare names.", watch);
    let watch = kit.watch();
    offer!(
        kit,
        /// Ends the run as failed for good: it is not tried again, and no `try` catches it. Use `throw` for what
        /// another attempt may mend.
        ///
        /// Limits: 4 KiB of message are kept.
        ///
        /// ```rhai
        /// fail("there is no order 7") // throws: there is no order 7
        /// ```
        "fail(message)",
        move |ctx: NativeCallContext, why: Dynamic| -> Result<(), Raised> {
            Err(watch.stop(&ctx, Stop::Failed(text::display_cut(&why, MESSAGE_BYTES_MAX))))
        }
    );
    let watch = kit.watch();
    offer!(
        kit,
        /// Says when the run is to be tried again, should it fail: so many seconds later. Only work in the background
        /// is tried again.
        ///
        /// Limits: 0 to 86400 seconds, a day.
        ///
        /// ```rhai
        /// retry_after(30); throw "the printer is busy" // throws: the printer is busy
        /// ```
        /// ```rhai
        /// retry_after(100_000) // throws: retry_after: takes 0 to 86400 seconds, not 100000
        /// ```
        "retry_after(seconds)",
        move |seconds: i64| -> Result<(), Raised> {
            let wish = u64::try_from(seconds).ok().filter(|_| seconds <= RETRY_AFTER_SECONDS_MAX);
            let wish = wish.ok_or_else(|| {
                let why = format!("takes 0 to {RETRY_AFTER_SECONDS_MAX} seconds, not {seconds}");
                wrong("retry_after", why)
            })?;
            watch.set_retry_after(Duration::from_secs(wish));
            Ok(())
        }
    );
    kit
}
