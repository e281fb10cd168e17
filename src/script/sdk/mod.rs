//! What scripts get beyond the language: namespaces of native functions, as static modules, and a few without one.
//! Constants of a scope would not do, for functions of a script do not see them.
//!
//! Each namespace is a file with a `kit`: it registers the functions, and the doc comment at the place of registration
//! is their page, for the terminal and for the reference alike. A test runs every example of every page, and refuses a
//! function without one.

mod crypto;
mod csv;
mod enc;
mod env;
mod given;
mod globals;
mod http;
mod id;
mod json;
mod jwt;
mod kit;
mod kv;
mod log;
mod markdown;
mod options;
mod page;
mod password;
mod queue;
mod rand;
mod run;
mod secrets;
mod template;
#[cfg(test)]
mod tests;
mod time;

use std::sync::Arc;

use rhai::{Engine, EvalAltResult};

use super::watch::Watch;
use crate::model::Chapter;
use given::wrong;
use kit::{Kit, offer};

pub use markdown::markdown;

/// An error of a native function, as the interpreter wants it.
type Raised = Box<EvalAltResult>;

/// All namespaces, in the order of the reference.
fn kits(watch: &Arc<Watch>) -> Vec<Kit> {
    vec![
        globals::kit(watch),
        kv::kit(watch),
        queue::kit(watch),
        run::kit(watch),
        http::kit(watch),
        secrets::kit(watch),
        env::kit(watch),
        log::kit(watch),
        time::kit(watch),
        id::kit(watch),
        rand::kit(watch),
        crypto::kit(watch),
        enc::kit(watch),
        json::kit(watch),
        csv::kit(watch),
        template::kit(watch),
    ]
}

/// Gives an engine all namespaces; their functions answer to `watch`.
pub(super) fn furnish(engine: &mut Engine, watch: &Arc<Watch>) {
    for kit in kits(watch) {
        kit.furnish(engine);
    }
}

/// What scripts can call, to be read: every namespace with the page of every function. Needs no engine.
pub fn reference() -> Vec<Chapter> {
    kits(&Arc::new(Watch::new(None))).iter().map(Kit::chapter).collect()
}
