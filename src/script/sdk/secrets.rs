//! `secrets::…`: passwords and tokens of the app.

use std::sync::Arc;

use rhai::{ImmutableString, NativeCallContext};

use super::super::watch::Watch;
use super::{Kit, Raised, offer};

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Passwords and tokens of the app, stored with `picloud secret set` and sealed on the card.";
    let mut kit = Kit::new("secrets", about, watch);
    let watch = kit.watch();
    offer!(
        kit,
        /// Gives the value of a secret of this app. A secret of another app is not there.
        ///
        /// If there is none of this name, it gives the default, or an error that `try` catches where none is given.
        /// What it gives is taken out of the log of the run, its error and the bodies that are kept of it: there stands
        /// `[secret]` instead, if the value has 8 bytes or more. A value that the script encodes or takes apart first is
        /// not found there.
        ///
        /// Limits: names of 1 to 128 of A-Z, a-z, 0-9, `_`, `.` and `-`; values of 64 KiB; 1000 secrets an app; a run
        /// reads at most 100 of them.
        ///
        /// ```rhai
        /// secrets::get("smtp.password", "not set") // => "not set"
        /// ```
        /// ```rhai
        /// secrets::get("smtp.password") // throws: there is no secret "smtp.password" in this app; store it with
        /// ```
        "secrets::get(name[, default])",
        move |ctx: NativeCallContext, name: ImmutableString| -> Result<ImmutableString, Raised> {
            watch.secret(&ctx, &name, None)
        }
    );
    let watch = kit.watch();
    kit.also(
        "get",
        move |ctx: NativeCallContext,
              name: ImmutableString,
              default: ImmutableString|
              -> Result<ImmutableString, Raised> { watch.secret(&ctx, &name, Some(default)) },
    );
    kit
}
