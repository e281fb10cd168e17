//! The card and the data partition on it.

use std::path::Path;

use serde_json::{Value, json};

use super::{number, text};
use crate::device::Place;

/// The kernel counts sizes of disks in these, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// The card, as it says itself (kernel: mmc-dev-attrs.rst). Wear is only told by eMMC.
pub(super) fn look(place: &Place) -> Value {
    let Some(disk) = disk(place) else { return Value::Null };
    let block = place.path("sys/block").join(&disk);
    if !block.exists() {
        return Value::Null;
    }
    let device = |name: &str| text(&block.join("device").join(name));
    json!({
        "disk": disk,
        "type": device("type"),
        "name": device("name"),
        "manufacturer_id": device("manfid"),
        "made": device("date"),
        "bytes": number::<u64>(&block.join("size")).and_then(|sectors| sectors.checked_mul(SECTOR_BYTES)),
        // Two figures in tenths of the expected life, used up (JEDEC eMMC 5.1, DEVICE_LIFE_TIME_EST).
        "life_time": device("life_time"),
        "pre_eol": device("pre_eol_info"),
    })
}

/// The data partition: its room, and what the file system has counted since it was made.
pub(super) fn data(place: &Place) -> Value {
    let Ok(room) = rustix::fs::statvfs(place.data()) else { return Value::Null };
    let ext4 = disk(place).map(|disk| place.path("sys/fs/ext4").join(partition(&disk, 4)));
    let counted = |name: &str| ext4.as_ref().and_then(|ext4| number::<u64>(&ext4.join(name)));
    json!({
        "total_bytes": room.f_blocks.checked_mul(room.f_frsize),
        "free_bytes": room.f_bavail.checked_mul(room.f_frsize),
        "errors": counted("errors_count"),
        "bytes_written": counted("lifetime_write_kbytes").and_then(|kib| kib.checked_mul(1024)),
        "read_only": is_read_only(&place.path("proc/self/mountinfo")),
        "missing_because": text(&place.run().join("no-data")),
    })
}

/// The disk that was booted from, like `mmcblk0`.
fn disk(place: &Place) -> Option<String> {
    let path = text(&place.run().join("disk"))?;
    let name = path.strip_prefix("/dev/")?;
    name.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| name.to_owned())
}

/// Partitions of disks whose names end with a digit are told from them by a `p`.
fn partition(disk: &str, number: u8) -> String {
    let between = if disk.ends_with(|letter: char| letter.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{between}{number}")
}

/// Whether the file system of the data has been made read only, as it is after an error of the card. The options of the
/// mount say nothing: a sandbox has its own (proc_pid_mountinfo(5)).
fn is_read_only(mounts: &Path) -> Option<bool> {
    let mounts = text(mounts)?;
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let options = file_system.split(' ').nth(2)?;
        matches!(point, "/data" | "/var/lib/picloud").then(|| options.split(',').any(|option| option == "ro"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        for (disk, name) in [("mmcblk0", "mmcblk0p4"), ("vda", "vda4"), ("nvme0n1", "nvme0n1p4")] {
            assert_eq!(partition(disk, 4), name);
        }
    }
}
