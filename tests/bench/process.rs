//! A server in its own process, and what the kernel knows about it.

use std::fs;
use std::io;
use std::process::{Child, Command};
use std::time::Duration;

use crate::Outcome;

/// A child process that does not outlive its handle.
pub(crate) struct Process {
    pub(crate) child: Child,
}

impl Process {
    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> Outcome<Process> {
        let child = command.spawn().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        Ok(Process { child })
    }

    /// Time that all its threads spent on a core: utime and stime of proc_pid_stat(5), in ticks.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let stat = self.read("stat")?;
        // The name before the closing bracket may hold anything; utime is the twelfth field after it.
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has no name")?;
        let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks = times.sum::<Result<u64, _>>()?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_micros(ticks * 1_000_000 / ticks_per_second.max(1)))
    }

    /// Forgets the largest resident memory so far. Where the kernel refuses, the next peak is since the start.
    pub(crate) fn forget_peak(&self) {
        // proc_pid_clear_refs(5): 5 resets VmHWM.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    /// Most bytes of memory resident at once: VmHWM of proc_pid_status(5), in KiB.
    pub(crate) fn peak_bytes(&self) -> Outcome<u64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib =
            line.and_then(|line| line.split_whitespace().next()).ok_or("/proc/PID/status has no VmHWM")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// Asks it to end, as systemd would, and waits.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        let id = i32::try_from(self.child.id())?;
        let id = rustix::process::Pid::from_raw(id).ok_or("the process has no id")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server ended with {status}").into()) }
    }

    fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill and its status is taken.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
