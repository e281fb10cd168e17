//! What the numbers were measured on: without it they say nothing.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::Outcome;
use crate::numbers::median;

/// A few lines on the processor, the kernel, and the disk under `dir`.
pub(crate) fn describe(dir: &Path) -> Outcome<String> {
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(format!(
        "{}, {cores} cores, Linux {}, load {load} before the first run; \
         data on {}, where fdatasync of 4 KiB takes {:.2} ms",
        processor(),
        kernel.trim(),
        file_system(dir)?,
        sync_ms(dir)?,
    ))
}

/// The board's model on ARM, the processor's on x86.
fn processor() -> String {
    let board = fs::read_to_string("/proc/device-tree/model").ok();
    let board = board.map(|model| model.trim_end_matches('\0').to_owned());
    let cpu = || {
        let info = fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    board.or_else(cpu).unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// The type of the file system under `dir`, from proc_pid_mountinfo(5).
fn file_system(dir: &Path) -> Outcome<String> {
    let dir = dir.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let types = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, source.split(' ').next()?))
    });
    let over = types.filter(|(point, _)| dir.starts_with(point));
    let nearest = over.max_by_key(|(point, _)| point.len());
    Ok(nearest.map_or("an unknown file system", |(_, name)| name).to_owned())
}

/// Milliseconds that one small durable write takes here, the median of 50.
fn sync_ms(dir: &Path) -> Outcome<f64> {
    let path = dir.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(path)?;
    Ok(median(times))
}
