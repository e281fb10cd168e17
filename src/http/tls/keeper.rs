//! Looks after the certificates: files that changed, names that want one, those that will end.

use std::collections::HashMap;
use std::time::Duration;

use super::{State, Tls};
use crate::model::UnixMs;

/// Between two looks at the files of the operator.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at what is due; whoever wakes the keeper does not wait.
const WORK_EVERY: Duration = Duration::from_secs(60);
/// An end that is near is told once a day.
const TELL_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Does so for ever.
pub(super) async fn run(tls: &Tls) {
    let (files, orders) = (watch_files(tls), order(tls));
    tokio::join!(files, orders);
}

async fn watch_files(tls: &Tls) {
    let mut told = HashMap::new();
    loop {
        let this = tls.clone();
        // A network share may keep one waiting.
        let looked =
            tokio::task::spawn_blocking(move || this.inner.own.look(&this.inner.foundry, this.clock()));
        if let Err(error) = looked.await {
            tracing::error!(%error, "the files of certificates could not be looked at");
        }
        tell_ends(tls, &mut told);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn order(tls: &Tls) {
    let acme = &tls.inner.acme;
    loop {
        let this = tls.clone();
        // On a task of its own: whatever befalls it, there is a next time.
        let worked = tokio::spawn(async move {
            let inner = &this.inner;
            let claims = inner.claims.load_full();
            let has_own = |host: &str| inner.own.find(host).is_some();
            inner.acme.work(&claims, has_own, &inner.foundry, || this.clock()).await;
        });
        if let Err(error) = worked.await {
            tracing::error!(%error, "certificates could not be looked after; it is tried again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::select! {
            () = acme.woken() => {}
            () = tokio::time::sleep(WORK_EVERY) => {}
        }
    }
}

/// Certificates whose end is near are an event, once a day each.
fn tell_ends(tls: &Tls, told: &mut HashMap<String, UnixMs>) {
    let clock = tls.clock();
    if !clock.is_good {
        return;
    }
    let mut near = HashMap::new();
    for certificate in tls.certificates() {
        if !matches!(certificate.state, State::Expiring | State::Expired) {
            continue;
        }
        let before = told.get(&certificate.id).copied();
        let is_due = before.is_none_or(|before| clock.now.since(before) >= TELL_EVERY || before > clock.now);
        if is_due {
            let not_after = certificate.facts.as_ref().map(|facts| facts.not_after.to_string());
            let error = certificate.last_error.as_deref();
            let source = certificate.source.word();
            tracing::warn!(
                name = certificate.name,
                source,
                not_after,
                error,
                "a certificate ends soon and has not been renewed"
            );
        }
        near.insert(certificate.id, before.filter(|_| !is_due).unwrap_or(clock.now));
    }
    *told = near;
}
