//! Reading values of an app that keeps few and of one that keeps a million: through the real daemon, by a script that
//! reads a thousand at random a call. The same script without the reading is taken off.

use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use picloud::model::UnixMs;
use picloud::store::kv::{CHANGES_MAX, Put};
use serde_json::Value;
use uuid::Uuid;

use crate::Outcome;
use crate::args::Args;
use crate::daemon::Daemon;
use crate::numbers::{float, median};
use crate::seed::Device;

/// Values that one call reads.
const READS: u64 = 1_000;
/// Calls that are timed.
const CALLS: usize = 200;
/// Longer than what the daemon keeps in its cache of the file.
const VALUE: &str = r#"{"name":"a thing that somebody keeps","count":4711}"#;

/// An app that keeps so many values.
pub(crate) struct Keeping {
    pub(crate) values: u64,
    /// Of one `kv::get` of a key at random.
    pub(crate) get_us: f64,
    pub(crate) file_bytes: u64,
    pub(crate) resident_bytes: u64,
}

/// Measures few values and many.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Vec<Keeping>> {
    let most = if args.is_quick() { 10_000 } else { 1_000_000 };
    [1_000, most]
        .map(|values| keeping(args, &dir.join(format!("values-{values}")), values))
        .into_iter()
        .collect()
}

fn keeping(args: &Args, dir: &Path, values: u64) -> Outcome<Keeping> {
    eprintln!("million: {values} values");
    seed(&dir.join("data"), values)?;
    let daemon = Daemon::start(dir, &args.environment)?;
    let reading = calls(args, &daemon, "/reads", values, "if kv::get(key) == () { missed += 1; }")?;
    let idling = calls(args, &daemon, "/idles", values, "if key == () { missed += 1; }")?;
    let resident_bytes = daemon.metrics()?.value("resident_memory_bytes")?;
    daemon.stop()?;
    let file_bytes = std::fs::metadata(dir.join("data").join("picloud.redb"))?.len();
    Ok(Keeping { values, get_us: (reading - idling) * 1e6 / float(READS), file_bytes, resident_bytes })
}

/// The median time of a call, in seconds.
fn calls(args: &Args, daemon: &Daemon, path: &str, values: u64, what: &str) -> Outcome<f64> {
    let last = values - 1;
    let source = format!(
        r#"let missed = 0; for n in 0..{READS} {{ let key = "thing/" + rand::int(0, {last}); {what} }} missed"#
    );
    daemon.serve("app-0", path, &source, ("sync", "relaxed"))?;
    let mut times = Vec::new();
    for _ in 0..if args.is_quick() { 3 } else { CALLS } {
        let began = Instant::now();
        let missed = daemon.post(path, &Value::Null)?;
        times.push(began.elapsed().as_secs_f64());
        if missed != 0 {
            return Err(format!("{missed} of {READS} values are not there").into());
        }
    }
    Ok(median(times))
}

fn seed(dir: &Path, values: u64) -> Outcome<()> {
    let device = Device::open(dir)?;
    let app = device.furnish()?.app_id;
    let batch = u64::try_from(CHANGES_MAX)?;
    let mut from = 0;
    while from < values {
        let until = values.min(from + batch);
        set(&device, app, from..until, until == values)?;
        from = until;
    }
    device.close()
}

/// Sets some values in one commit. The last waits for all before it.
fn set(device: &Device, app: Uuid, numbers: std::ops::Range<u64>, wait: bool) -> Outcome<()> {
    let mut view = device.store.view(app, UnixMs::now());
    for number in numbers {
        let key = format!("thing/{number}").parse()?;
        view.put(Put { key, value: VALUE.into(), expires_at: None })?;
    }
    let effects = view.into_effects(None).ok_or("nothing was set")?;
    let (tell, told) = mpsc::channel();
    let told_to = move |done: Result<(), picloud::store::Error>| {
        drop(tell.send(done.map_err(|error| error.to_string())))
    };
    device.store.commit(effects, told_to).map_err(|why| format!("{why:?}"))?;
    if wait { Ok(told.recv()??) } else { Ok(()) }
}
