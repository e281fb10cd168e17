//! `log::…`: lines in the execution's log.

use std::sync::Arc;

use rhai::Dynamic;

use super::super::text;
use super::super::watch::Watch;
use super::{Kit, offer};

/// Longest text that is made of a value, in bytes; the log cuts further.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Lines in the log of the execution, to be read with `picloud logs`.";
    let mut kit = Kit::new("log", about, watch);
    let line = |level: &'static str| {
        let watch = kit.watch();
        move |value: Dynamic| watch.log(level, &text::display_cut(&value, TEXT_BYTES_MAX))
    };
    let (debug, info, warn, error) = (line("debug"), line("info"), line("warn"), line("error"));
    offer!(
        kit,
        /// Logs what only helps to find a mistake. Takes a value of any kind, and shows it as `print` does.
        ///
        /// Limits: 8 KiB a line, 1000 lines and 64 KiB a run; the last line says how many were dropped.
        ///
        /// ```rhai
        /// log::debug(#{ step: 1 }) // => null
        /// ```
        "log::debug(value)",
        debug
    );
    offer!(
        kit,
        /// Logs what is good to know, as `print` does.
        ///
        /// Limits: those of `log::debug`.
        ///
        /// ```rhai
        /// log::info("order " + 7 + " was paid") // => null
        /// ```
        "log::info(value)",
        info
    );
    offer!(
        kit,
        /// Logs what may become a problem.
        ///
        /// Limits: those of `log::debug`.
        ///
        /// ```rhai
        /// log::warn(`only ${3} left`) // => null
        /// ```
        "log::warn(value)",
        warn
    );
    offer!(
        kit,
        /// Logs what went wrong. The run goes on; `throw` or `fail` would end it.
        ///
        /// Limits: those of `log::debug`.
        ///
        /// ```rhai
        /// try { throw "no paper"; } catch (why) { log::error(why); } // => null
        /// ```
        "log::error(value)",
        error
    );
    kit
}
