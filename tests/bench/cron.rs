//! What cron triggers cost a daemon that has nothing to do: the clock's wheel turns, and hardly any strikes.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use picloud::model::{CatchUp, Overlap, Trigger, TriggerOn, UnixMs, ZoneName};
use uuid::Uuid;

use crate::Outcome;
use crate::args::Args;
use crate::daemon::Daemon;
use crate::seed::Device;

/// Triggers of one change.
const BATCH: usize = 1_000;

/// A daemon at rest with so many triggers.
pub(crate) struct Idle {
    pub(crate) triggers: usize,
    /// Of one core.
    pub(crate) busy: f64,
    pub(crate) resident_bytes: u64,
    /// From the spawn to the line that says ready, in milliseconds.
    pub(crate) ready_ms: f64,
}

/// Watches daemons with no triggers and with many.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Vec<Idle>> {
    let most = if args.is_quick() { 1_000 } else { 10_000 };
    [0, most]
        .map(|triggers| idle(args, &dir.join(format!("cron-{triggers}")), triggers))
        .into_iter()
        .collect()
}

fn idle(args: &Args, dir: &Path, triggers: usize) -> Outcome<Idle> {
    eprintln!("cron: {triggers} triggers");
    seed(&dir.join("data"), triggers)?;
    // A clock that nobody set would keep them all waiting.
    let trusted = ("PICLOUD_CRON_CLOCK".to_owned(), "trusted".to_owned());
    let environment: Vec<_> = args.environment.iter().cloned().chain([trusted]).collect();
    let daemon = Daemon::start(dir, &environment)?;
    // What a start leaves to be done is not what the triggers cost.
    thread::sleep(if args.is_quick() { Duration::from_millis(100) } else { Duration::from_secs(5) });
    let (began, before) = (Instant::now(), daemon.process.cpu()?);
    thread::sleep(if args.is_quick() { Duration::from_millis(300) } else { Duration::from_secs(30) });
    let used = daemon.process.cpu()?.saturating_sub(before);
    let busy = used.as_secs_f64() / began.elapsed().as_secs_f64();
    let resident_bytes = daemon.metrics()?.value("resident_memory_bytes")?;
    let ready_ms = daemon.ready_after.as_secs_f64() * 1e3;
    daemon.stop()?;
    Ok(Idle { triggers, busy, resident_bytes, ready_ms })
}

/// Each strikes once a day, at a minute of its own, in one of three zones.
fn seed(dir: &Path, triggers: usize) -> Outcome<()> {
    let device = Device::open(dir)?;
    let script = device.furnish()?;
    let zones = ["UTC", "Europe/Berlin", "America/New_York"];
    let of = |index: usize| -> Outcome<Trigger> {
        let (minute, hour) = (index % 60, index / 60 % 24);
        let time_zone: ZoneName = zones[index % zones.len()].parse()?;
        let schedule = format!("{minute} {hour} * * *").parse()?;
        let on = TriggerOn::Cron { schedule, time_zone, catch_up: CatchUp::Skip, overlap: Overlap::Skip };
        let now = UnixMs::now();
        let (app_id, script_id) = (script.app_id, script.id);
        Ok(Trigger {
            id: Uuid::now_v7(),
            app_id,
            script_id,
            on,
            enabled: true,
            created_at: now,
            updated_at: now,
        })
    };
    let all = (0..triggers).map(of).collect::<Outcome<Vec<_>>>()?;
    for some in all.chunks(BATCH) {
        let some = some.to_vec();
        device.change(move |changes| {
            some.into_iter().try_for_each(|one| changes.create_trigger(one).map(drop))
        })?;
    }
    device.close()
}
