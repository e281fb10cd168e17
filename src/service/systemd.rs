//! What systemd is told (sd_notify(3)), and what it is asked to keep. Without systemd there is nobody to tell.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use sd_notify::NotifyState::{
    Errno, ExtendTimeoutUsec, FdName, FdStore, FdStoreRemove, Ready, Reloading, Status, Stopping, Watchdog,
    WatchdogTrigger,
};
use sd_notify::{NotifyState, notify, notify_with_fds, watchdog_enabled};

/// Bytes of a status line.
const LINE_BYTES_MAX: usize = 400;
/// How the names of kept sockets begin.
const KEPT: &str = "kept-";

/// Whether somebody listens.
pub(super) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How long systemd waits for a sign of life before it restarts the daemon, if it does.
pub(super) fn watchdog() -> Option<Duration> {
    watchdog_enabled().filter(|period| !period.is_zero())
}

/// Requests are answered.
pub(super) fn ready(status: &str) {
    tell(&[Ready, Status(&line(status))]);
}

/// The configuration is read again; [`ready`] ends it.
pub(super) fn reloading() {
    // `Type=notify-reload` wants to know that this is the answer to its signal, and none before it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[Reloading, now]),
        Err(_) => tell(&[Reloading]),
    }
}

/// The daemon stops.
pub(super) fn stopping() {
    tell(&[Stopping]);
}

/// How things are.
pub(super) fn status(text: &str) {
    tell(&[Status(&line(text))]);
}

/// Starting, reloading or stopping takes this much longer.
pub(super) fn extend(by: Duration) {
    tell(&[ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// The daemon works.
pub(super) fn alive() {
    tell(&[Watchdog]);
}

/// The daemon does not work, and will not by itself: it is to be restarted.
pub(super) fn broken() {
    tell(&[WatchdogTrigger]);
}

/// The daemon ends for this reason; `errno` is the system's, if it was the system.
pub(super) fn failed(why: &str, errno: Option<i32>) {
    let errno = errno.and_then(|errno| u32::try_from(errno).ok());
    match errno {
        Some(errno) => tell(&[Status(&line(why)), Errno(errno)]),
        None => tell(&[Status(&line(why))]),
    }
}

/// Has a socket kept over a restart, as those of a socket unit are.
pub(super) fn keep(socket: &std::net::TcpListener, address: SocketAddr) {
    let told = notify_with_fds(&[FdStore, FdName(&name_of(address))], &[socket.as_fd()]);
    log(told);
}

/// A kept socket is not needed any more.
pub(super) fn forget(address: SocketAddr) {
    tell(&[FdStoreRemove, FdName(&name_of(address))]);
}

/// Whether a socket of this name is one that was kept.
pub(super) fn is_kept(name: &str) -> bool {
    name.starts_with(KEPT)
}

/// systemd takes no colons in names.
fn name_of(address: SocketAddr) -> String {
    format!("{KEPT}{}", address.to_string().replace(':', "_"))
}

fn tell(states: &[NotifyState<'_>]) {
    log(notify(states));
}

fn log(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// One line, not too long: a second one would be taken for something else.
fn line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(LINE_BYTES_MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_short_line() {
        assert_eq!(line("bad\nREADY=1"), "bad READY=1");
        assert_eq!(line(&"ü".repeat(400)).len(), LINE_BYTES_MAX);
    }

    #[test]
    fn names_of_kept_sockets() {
        let name = name_of("[::1]:8080".parse().unwrap());
        assert_eq!(name, "kept-[__1]_8080");
        assert!(is_kept(&name) && !is_kept("picloud-rescue.socket"));
    }
}
