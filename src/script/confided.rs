//! What a run is told by the device: secrets of its app, and plain settings.

use rhai::{EvalAltResult, ImmutableString, NativeCallContext};

use crate::model::{Secret, SecretName};

use super::watch::{Stop, Watch};
use super::{FaultKind, alloc};

/// Secrets that one run may read: each is looked for in all that is kept of the run.
const SECRETS_MAX: usize = 100;

type Raised = Box<EvalAltResult>;

impl Watch {
    /// The secret of the run's app with this name, or `default`. An error that the script can catch says what to do if
    /// it is not there or cannot be opened.
    pub(super) fn secret(
        &self,
        ctx: &NativeCallContext,
        name: &str,
        default: Option<ImmutableString>,
    ) -> Result<ImmutableString, Raised> {
        let wrong = |why: String| -> Raised { format!("secrets::get: {why}").into() };
        let name: SecretName = name.parse().map_err(|why| wrong(format!("the name {why}")))?;
        let command = || format!("picloud secret set {name}{}", self.in_app());
        let missing = || {
            default.ok_or_else(|| {
                wrong(format!("there is no secret \"{name}\" in this app; store it with `{}`", command()))
            })
        };
        let (Some(world), Some(row)) = (self.world(), self.row()) else { return missing() };
        let found =
            alloc::outside(|| world.store.read().and_then(|snapshot| snapshot.secret(row.app_id, &name)));
        let found = found.map_err(|error| {
            tracing::error!(%error, "a script's secret could not be read");
            self.stop(ctx, Stop::Fault(FaultKind::Platform))
        })?;
        let Some(Secret { sealed, .. }) = found else { return missing() };
        let plain = alloc::outside(|| world.sealer.open(row.app_id, &name, &sealed));
        let plain = plain.map_err(|why| wrong(format!("secret \"{name}\" {why} with `{}`", command())))?;
        if !self.obtained(plain.expose(), SECRETS_MAX) {
            return Err(wrong(format!("one run reads at most {SECRETS_MAX} secrets")));
        }
        let text = plain.expose().into();
        alloc::outside(|| drop(plain));
        Ok(text)
    }

    /// The setting with this name, or `default`.
    pub(super) fn setting(
        &self,
        name: &str,
        default: Option<ImmutableString>,
    ) -> Result<ImmutableString, Raised> {
        let found = self.world().and_then(|world| world.env.get(name).map(ImmutableString::from));
        found.or(default).ok_or_else(|| {
            let shown = super::logs::cut(name, 128);
            format!("env::get: there is no setting {shown:?}; set it in the section [env] of picloud.toml")
                .into()
        })
    }

    /// The option that names the app to the command line.
    fn in_app(&self) -> String {
        let (Some(world), Some(row)) = (self.world(), self.row()) else { return String::new() };
        let catalog = world.store.catalog();
        catalog.apps.get(&row.app_id).map(|app| format!(" --app {}", app.slug)).unwrap_or_default()
    }
}
