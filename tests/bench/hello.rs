//! What the workshop adds to a script: a run through the executor beside the engine's own evaluation of the same
//! program, in this process.

use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use picloud::script::{
    Ceilings, ChainKey, EgressSettings, Executor, Finished, Job, Lane, Limits, Messenger, Settings, Verdict,
};
use picloud::store::{DEVICE_KEY_BYTES, Sealer};
use rhai::packages::{Package, StandardPackage};

use crate::Outcome;
use crate::args::Args;
use crate::numbers::{float, median};
use crate::seed::{self, Device};

/// Runs under way at once where they are many.
const BATCH: u64 = 256;
/// Samples of which the median is taken.
const SAMPLES: usize = 9;

/// Microseconds for each run.
pub(crate) struct Hello {
    /// The engine, with its standard package, evaluates a compiled program.
    pub(crate) engine_us: f64,
    /// One run after the other, each waited for: two threads wake each other.
    pub(crate) alone_us: f64,
    /// The benches are never out of work; time of a bench.
    pub(crate) busy_us: f64,
}

/// Measures both.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Hello> {
    eprintln!("hello");
    let runs = if args.is_quick() { BATCH } else { 20 * BATCH };
    let device = Device::open(&dir.join("hello"))?;
    let script = device.furnish()?;
    let executor = workshop(&device)?;
    let row = Arc::new(seed::row(&script));
    let engine_us = engine(runs)?;
    let alone_us = sampled(runs, || (0..runs).try_for_each(|_| together(&executor, &row, 1)))?;
    let cores = float(u64::try_from(std::thread::available_parallelism()?.get())?);
    let batches = runs / BATCH;
    let busy_us = sampled(runs, || (0..batches).try_for_each(|_| together(&executor, &row, BATCH)))?;
    executor.close(Instant::now() + Duration::from_secs(1));
    device.close()?;
    Ok(Hello { engine_us, alone_us, busy_us: busy_us * cores })
}

/// The script of the seeded device, for an engine that knows nothing of requests.
fn engine(runs: u64) -> Outcome<f64> {
    let mut engine = rhai::Engine::new_raw();
    engine.register_global_module(StandardPackage::new().as_shared_module());
    engine.set_optimization_level(rhai::OptimizationLevel::None);
    let program = engine.compile("#{ at: request.path }")?;
    let request: rhai::Map = [("path".into(), seed::ANSWERS.into())].into_iter().collect();
    let evaluate = || {
        let mut scope = rhai::Scope::new();
        scope.push("request", request.clone());
        engine.eval_ast_with_scope::<rhai::Dynamic>(&mut scope, &program).map(|value| drop(black_box(value)))
    };
    sampled(runs, || Ok((0..runs).try_for_each(|_| evaluate()).map_err(|error| error.to_string())?))
}

/// The median of some samples of so many runs, in microseconds for each.
fn sampled(runs: u64, sample: impl Fn() -> Outcome<()>) -> Outcome<f64> {
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let began = Instant::now();
        sample()?;
        times.push(began.elapsed().as_secs_f64() * 1e6 / float(runs));
    }
    Ok(median(times))
}

/// Makes some runs at once and waits for all.
fn together(executor: &Executor, row: &Arc<picloud::model::Row>, count: u64) -> Outcome<()> {
    let (tell, told) = mpsc::channel();
    for _ in 0..count {
        let tell = tell.clone();
        let done = Box::new(move |finished: Finished| {
            drop(tell.send(finished.outcome.result.map(drop).map_err(|fault| fault.message)));
            Verdict::Ended
        });
        executor.submit(Lane::Sync, Job { row: row.clone(), done, queued_at: Instant::now() });
    }
    drop(tell);
    told.iter().try_for_each(|ended| Ok(ended?))
}

fn workshop(device: &Device) -> Outcome<Executor> {
    let limits = Limits::default();
    let benches = (2 * std::thread::available_parallelism()?.get()).max(4);
    let settings = Settings {
        benches,
        aside_max: 0,
        queue_max: 1_024,
        app_concurrency: Some(benches),
        cache_bytes: 8 * 1024 * 1024,
        ceilings: Ceilings::default(),
        limits,
        timeout_async: Duration::from_secs(30),
        env: Default::default(),
        leaked_bytes_max: u64::MAX,
    };
    let egress = EgressSettings {
        calls_max: 1,
        answer_bytes_max: 1,
        connect_time_max: Duration::from_secs(1),
        roots: None,
    };
    let messenger = Messenger::new(egress, ChainKey::new([0; 32]), device.store.clone())?;
    let sealer = Sealer::new([0; DEVICE_KEY_BYTES].into());
    Ok(Executor::start(settings, device.store.clone(), (messenger, sealer), Box::new(|_| {}))?)
}
