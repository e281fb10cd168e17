//! `env::…`: plain settings from the configuration.

use std::sync::Arc;

use rhai::ImmutableString;

use super::super::watch::Watch;
use super::{Kit, Raised, offer};

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Plain settings of the device, from the section `[env]` of picloud.toml.";
    let mut kit = Kit::new("env", about, watch);
    let watch = kit.watch();
    offer!(
        kit,
        /// Gives a setting. The environment of the daemon is not to be seen here, and passwords are no settings: see
        /// `secrets::get`.
        ///
        /// If there is none of this name, it gives the default, or an error that `try` catches where none is given.
        ///
        /// Limits: 100 settings of at most 4 KiB; all apps of the device see the same ones.
        ///
        /// ```rhai
        /// env::get("site_name", "The boat") // => "The boat"
        /// ```
        /// ```rhai
        /// env::get("PATH") // throws: there is no setting "PATH"
        /// ```
        "env::get(name[, default])",
        move |name: ImmutableString| -> Result<ImmutableString, Raised> { watch.setting(&name, None) }
    );
    let watch = kit.watch();
    kit.also(
        "get",
        move |name: ImmutableString, default: ImmutableString| -> Result<ImmutableString, Raised> {
            watch.setting(&name, Some(default))
        },
    );
    kit
}
