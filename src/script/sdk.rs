//! What scripts get beyond the language: `log::…`, `fail` and `retry_after`. Later rooms of the SDK move in here as
//! further static modules; constants of a scope would not do, for functions do not see them.

use std::sync::Arc;
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, ImmutableString, Module, NativeCallContext};

use super::text;
use super::watch::{Stop, Watch};

/// Longest wait that `retry_after` takes, in seconds: a day.
const RETRY_AFTER_SECONDS_MAX: i64 = 86_400;

/// Longest text of a message, in bytes; the log cuts further.
const MESSAGE_BYTES_MAX: usize = 4096;

/// `log::debug(..)`, `log::info(..)`, `log::warn(..)` and `log::error(..)`.
pub(super) fn log(watch: &Arc<Watch>) -> Module {
    let mut module = Module::new();
    for level in ["debug", "info", "warn", "error"] {
        let watch = watch.clone();
        module.set_native_fn(level, move |value: Dynamic| -> Result<(), Box<EvalAltResult>> {
            watch.log(level, &text::display_cut(&value, 16 * 1024));
            Ok(())
        });
    }
    module
}

/// Functions without a namespace.
pub(super) fn globals(watch: &Arc<Watch>) -> Module {
    let mut module = Module::new();
    let failing = watch.clone();
    module.set_native_fn(
        "fail",
        move |ctx: NativeCallContext, why: Dynamic| -> Result<(), Box<EvalAltResult>> {
            Err(failing.stop(&ctx, Stop::Failed(text::display_cut(&why, MESSAGE_BYTES_MAX))))
        },
    );
    let retrying = watch.clone();
    module.set_native_fn("retry_after", move |seconds: i64| -> Result<(), Box<EvalAltResult>> {
        let wish = u64::try_from(seconds).ok().filter(|_| seconds <= RETRY_AFTER_SECONDS_MAX);
        let wish = wish.ok_or_else(|| {
            format!("retry_after takes 0 to {RETRY_AFTER_SECONDS_MAX} seconds, not {seconds}")
        })?;
        retrying.set_retry_after(Duration::from_secs(wish));
        Ok(())
    });
    module
}

/// `secrets::get(..)`.
pub(super) fn secrets(watch: &Arc<Watch>) -> Module {
    let mut module = Module::new();
    let own = watch.clone();
    module.set_native_fn(
        "get",
        move |ctx: NativeCallContext, name: ImmutableString| -> Result<ImmutableString, Box<EvalAltResult>> {
            own.secret(&ctx, &name, None)
        },
    );
    let own = watch.clone();
    module.set_native_fn(
        "get",
        move |ctx: NativeCallContext,
              name: ImmutableString,
              default: ImmutableString|
              -> Result<ImmutableString, Box<EvalAltResult>> {
            own.secret(&ctx, &name, Some(default))
        },
    );
    module
}

/// `env::get(..)`.
pub(super) fn env(watch: &Arc<Watch>) -> Module {
    let mut module = Module::new();
    let own = watch.clone();
    module.set_native_fn(
        "get",
        move |name: ImmutableString| -> Result<ImmutableString, Box<EvalAltResult>> {
            own.setting(&name, None)
        },
    );
    let own = watch.clone();
    module.set_native_fn(
        "get",
        move |name: ImmutableString,
              default: ImmutableString|
              -> Result<ImmutableString, Box<EvalAltResult>> { own.setting(&name, Some(default)) },
    );
    module
}
