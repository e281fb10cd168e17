//! What of the device's scripts and routes works in this version of the program: an update is held against it.

use std::collections::HashSet;

use crate::script::compile;
use crate::store::{Error, Store};

/// How many there are that work.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Serving {
    /// Routes whose script does.
    pub(super) routes: usize,
    /// Scripts that compile.
    pub(super) scripts: usize,
}

/// Compiles the active version of every script. Blocks for some milliseconds each.
pub(super) fn serving(store: &Store) -> Result<Serving, Error> {
    let (catalog, snapshot) = (store.catalog(), store.read()?);
    let mut whole = HashSet::new();
    for script in catalog.scripts.values() {
        let active = snapshot.version(script.id, script.active_version)?;
        if active.is_some_and(|version| compile(&version.source).is_ok()) {
            whole.insert(script.id);
        }
    }
    let routes = catalog.routes.values().filter(|route| whole.contains(&route.script_id)).count();
    Ok(Serving { routes, scripts: whole.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Access, App, AppLimits, BodyMode, DispatchMode, Durability, Egress, Route, Sandbox, Script, UnixMs,
    };
    use crate::store::testing;

    /// A version of the program may understand less than the one before.
    #[test]
    fn what_does_not_compile_does_not_serve() {
        let now = UnixMs(0);
        let store = testing::store(&testing::settings(), Vec::new(), move |changes| {
            let app = changes.create_app(App {
                id: changes.new_id(),
                slug: "a".parse().unwrap(),
                name: "A".parse().unwrap(),
                egress: Egress::default(),
                limits: AppLimits::default(),
                created_at: now,
                updated_at: now,
            });
            let app_id = app.unwrap().id;
            for (name, source) in [("good", "1"), ("bad", "let let")] {
                let script = Script {
                    id: changes.new_id(),
                    app_id,
                    name: name.parse().unwrap(),
                    active_version: 1,
                    latest_version: 1,
                    timeout_seconds: None,
                    sandbox: Sandbox::default(),
                    access: Access::Public,
                    created_at: now,
                    updated_at: now,
                };
                let script_id = changes.create_script(script, source.parse().unwrap()).unwrap().id;
                for path in ["/1", "/2"] {
                    let route = Route {
                        id: changes.new_id(),
                        app_id,
                        script_id,
                        host: None,
                        method: "GET".parse().unwrap(),
                        path: format!("/{name}{path}").parse().unwrap(),
                        dispatch_mode: DispatchMode::Sync,
                        durability: Durability::Auto,
                        body: BodyMode::Json,
                        access: Access::Public,
                        created_at: now,
                        updated_at: now,
                    };
                    changes.create_route(route).unwrap();
                }
            }
        });
        assert_eq!(serving(&store).unwrap(), Serving { routes: 2, scripts: 1 });
    }
}
