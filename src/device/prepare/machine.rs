//! The few things that touch the running kernel. None of them is done for a directory that stands for a device.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};

use crate::device::Place;

/// How the boot partition is mounted at all other times.
const USUAL: MountFlags = MountFlags::NOATIME.union(MountFlags::NODEV).union(MountFlags::NOSUID);

/// Gives the kernel the name of the device.
///
/// # Errors
/// If it does not take it.
pub(super) fn set_host_name(place: &Place, name: &str) -> io::Result<()> {
    if is_running(place) { Ok(rustix::system::sethostname(name.as_bytes())?) } else { Ok(()) }
}

/// Does something with the boot partition, which can be written to for just so long.
///
/// # Errors
/// Those of what is done, and if the partition cannot be made writable. That it cannot be protected again is no error of
/// what was done.
pub(super) fn with_boot_unlocked(place: &Place, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
    if !is_running(place) {
        return work();
    }
    let boot = place.boot();
    remount(&boot, USUAL)?;
    let done = work();
    rustix::fs::sync();
    let _ = remount(&boot, USUAL | MountFlags::RDONLY);
    done
}

fn remount(boot: &Path, flags: MountFlags) -> io::Result<()> {
    // The data of the first mount, like its mask, stay: FAT keeps what a remount does not name.
    Ok(mount_remount(boot, flags, "")?)
}

/// Whether the place is the device that this program runs on.
fn is_running(place: &Place) -> bool {
    place.path("") == Path::new("/")
}
