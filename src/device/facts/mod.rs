//! What the device tells about itself: board, image, card, memory, network, as far as a process without privileges can see.
//!
//! Each look reads some forty small files of `/sys`, none of which can grow, and never a device. The daemon's sandbox
//! hides `/proc` but for its own directory, so that what only `/proc` tells (the command line of the kernel, the id of the
//! boot) is taken from what `prepare` left. What is not known is null, also on a computer that is no appliance.
//! `http` calls it for the status, off its event loop.

mod card;
mod network;

use std::path::Path;

use serde_json::{Value, json};

use super::{Place, clock};
use crate::model::UnixMs;

/// Files of `/sys` are a line, `boot.json` and `image.json` some lines.
const BYTES_MAX: u64 = 64 * 1024;
/// Why nothing is said about the supply voltage.
const NO_THROTTLING: &str = "this kernel cannot tell";

/// Looks at everything. Blocks for a moment.
pub fn look(place: &Place, now: UnixMs) -> Value {
    let image = document(&place.image());
    let boot = document(&place.run().join("boot.json"));
    let memory = rustix::system::sysinfo();
    let unit = u64::from(memory.mem_unit);
    let uptime_seconds = u64::try_from(memory.uptime).unwrap_or_default();
    let started = UnixMs(now.0.saturating_sub(i64::try_from(uptime_seconds).unwrap_or_default() * 1000));
    let boot_id = boot["boot_id"].as_str().map(str::to_owned);
    let boot_id = boot_id.or_else(|| text(&place.path("proc/sys/kernel/random/boot_id")));
    let prepared = document(&place.run().join("prepare.json"));
    json!({
        "appliance": image.is_object(),
        "host_name": rustix::system::uname().nodename().to_str().ok(),
        "board": {
            "model": text(&place.path("sys/firmware/devicetree/base/model")),
            "serial_tail": serial_tail(place),
        },
        "image": {
            "version": image["version"],
            "build": image["build"],
            "compatible": image["compatible"],
            "development": image["development"],
        },
        "boot": {
            "slot": boot["slot"],
            "pending": boot["pending"],
            "id": boot_id,
            // By the clock of now: it moves with it.
            "at": started,
            "uptime_seconds": uptime_seconds,
        },
        "temperature_celsius": temperature(place),
        "throttling": { "throttled": null, "why": NO_THROTTLING },
        "card": card::look(place),
        "data": card::data(place),
        "memory": {
            "total_bytes": size(memory.totalram, unit),
            "free_bytes": size(memory.freeram, unit),
            "swap_total_bytes": size(memory.totalswap, unit),
            "swap_free_bytes": size(memory.freeswap, unit),
            "zram": zram(place),
        },
        "network": network::look(place),
        "clock": clock::state(place),
        "provisioning": { "errors": prepared["errors"], "complaints": prepared["complaints"] },
    })
}

/// The part of the serial number that the device's name ends with. The whole of it is nobody's business.
fn serial_tail(place: &Place) -> Option<String> {
    let serial = text(&place.path("sys/firmware/devicetree/base/serial-number"))?;
    let at = serial.len().checked_sub(4)?;
    serial.get(at..).map(str::to_ascii_lowercase)
}

/// The processor's temperature, from the first zone that there is.
fn temperature(place: &Place) -> Option<f64> {
    let millis: i32 = number(&place.path("sys/class/thermal/thermal_zone0/temp"))?;
    Some(f64::from(millis) / 1000.0)
}

/// The compressed memory that stands for a swap file, which would wear the card (kernel: zram.rst).
fn zram(place: &Place) -> Value {
    let block = place.path("sys/block/zram0");
    let size = number::<u64>(&block.join("disksize")).filter(|size| *size > 0);
    let Some(size) = size else { return Value::Null };
    let figures = text(&block.join("mm_stat")).unwrap_or_default();
    let mut figures = figures.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
    let (stored, compressed, used) = (figures.next(), figures.next(), figures.next());
    json!({
        "size_bytes": size,
        "stored_bytes": stored.flatten(),
        "compressed_bytes": compressed.flatten(),
        "used_bytes": used.flatten(),
    })
}

fn size(count: impl TryInto<u64>, unit: u64) -> Option<u64> {
    count.try_into().ok()?.checked_mul(unit)
}

/// A JSON file, or null.
fn document(path: &Path) -> Value {
    bytes(path).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// A short text without what the kernel ends it with.
fn text(path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&bytes(path)?).into_owned();
    let text = text.trim_matches(|letter: char| letter == '\0' || letter.is_whitespace());
    let clean = text.chars().filter(|letter| !letter.is_control() || *letter == '\n').collect::<String>();
    (!clean.is_empty()).then_some(clean)
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

fn bytes(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;

    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::device::prepare::testing::TempDir;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn put(place: &Place, path: &str, text: &str) {
        let path = place.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[track_caller]
    fn check(facts: &Value, pointer: &str, wanted: Value) {
        assert_eq!(facts.pointer(pointer), Some(&wanted), "{pointer} of {facts:#}");
    }

    #[test]
    fn a_computer_that_is_no_appliance_says_so() {
        let dir = TempDir::new();
        let facts = look(&Place::below(dir.path()), NOW);
        check(&facts, "/appliance", json!(false));
        for unknown in [
            "/board/model",
            "/board/serial_tail",
            "/image/version",
            "/boot/slot",
            "/boot/pending",
            "/temperature_celsius",
            "/throttling/throttled",
            "/card",
            "/data",
            "/memory/zram",
        ] {
            check(&facts, unknown, Value::Null);
        }
        check(&facts, "/network/interfaces", json!([]));
        assert!(facts["memory"]["total_bytes"].as_u64().unwrap() > 1_000_000, "{facts:#}");
        assert!(facts["boot"]["uptime_seconds"].as_u64().is_some(), "{facts:#}");
    }

    #[test]
    fn a_board_tells_what_it_is() {
        let dir = TempDir::new();
        let place = Place::below(dir.path());
        for (path, text) in [
            ("usr/lib/picloud/image.json", r#"{"version":"0.1.0","build":"2026-11-27T00:00:00Z"}"#),
            ("run/picloud-device/boot.json", r#"{"slot":"B","pending":"B","boot_id":"an-id"}"#),
            ("run/picloud-device/disk", "/dev/mmcblk0\n"),
            ("sys/firmware/devicetree/base/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
            ("sys/firmware/devicetree/base/serial-number", "10000000ABCD1234\0"),
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/block/mmcblk0/device/name", "SU32G\n"),
            ("sys/block/mmcblk0/device/manfid", "0x000003\n"),
            ("sys/block/mmcblk0/device/date", "05/2024\n"),
            ("sys/block/mmcblk0/size", "62333952\n"),
            ("sys/fs/ext4/mmcblk0p4/errors_count", "2\n"),
            ("sys/fs/ext4/mmcblk0p4/lifetime_write_kbytes", "12345\n"),
            ("sys/block/zram0/disksize", "268435456\n"),
            ("sys/block/zram0/mm_stat", " 8192 74 12288 0 12288 0 0 0 0\n"),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth0/address", "dc:a6:32:00:00:01\n"),
            ("sys/class/net/lo/operstate", "unknown\n"),
            (
                "proc/self/mountinfo",
                "30 1 179:4 / /data rw,noatime shared:1 - ext4 /dev/mmcblk0p4 ro,errors=remount-ro\n",
            ),
            (
                "proc/self/net/fib_trie",
                "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.168.7.2\n        /32 host LOCAL\n     |-- 192.168.7.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n",
            ),
            ("proc/self/net/if_inet6", "fe80000000000000dea632fffe000001 02 40 20 80 eth0\n"),
        ] {
            put(&place, path, text);
        }
        fs::create_dir_all(place.data()).unwrap();
        let facts = look(&place, NOW);
        for (pointer, wanted) in [
            ("/appliance", json!(true)),
            ("/image/version", json!("0.1.0")),
            ("/board/model", json!("Raspberry Pi 4 Model B Rev 1.4")),
            ("/board/serial_tail", json!("1234")),
            ("/boot/slot", json!("B")),
            ("/boot/pending", json!("B")),
            ("/boot/id", json!("an-id")),
            ("/temperature_celsius", json!(48.312)),
            ("/throttling/why", json!(NO_THROTTLING)),
            ("/card/name", json!("SU32G")),
            ("/card/manufacturer_id", json!("0x000003")),
            ("/card/made", json!("05/2024")),
            ("/card/bytes", json!(62_333_952_u64 * 512)),
            ("/card/life_time", Value::Null),
            ("/card/pre_eol", Value::Null),
            ("/data/errors", json!(2)),
            ("/data/bytes_written", json!(12_345 * 1024)),
            ("/data/read_only", json!(true)),
            ("/memory/zram/size_bytes", json!(268_435_456)),
            ("/memory/zram/used_bytes", json!(12_288)),
            ("/network/addresses", json!(["192.168.7.2", "fe80::dea6:32ff:fe00:1"])),
            ("/network/interfaces", json!([{ "name": "eth0", "up": true }])),
        ] {
            check(&facts, pointer, wanted);
        }
        assert!(facts["data"]["total_bytes"].as_u64().unwrap() > 0, "{facts:#}");
        assert!(!facts.to_string().contains("10000000"), "the whole serial number is told: {facts:#}");
    }

    #[test]
    fn nonsense_is_unknown() {
        let dir = TempDir::new();
        let place = Place::below(dir.path());
        for (path, text) in [
            ("usr/lib/picloud/image.json", "{"),
            ("run/picloud-device/boot.json", "[]"),
            ("run/picloud-device/disk", "../../etc"),
            ("sys/firmware/devicetree/base/serial-number", "\0"),
            ("sys/class/thermal/thermal_zone0/temp", "hot"),
            ("proc/self/mountinfo", "\n- -\n"),
            ("proc/self/net/fib_trie", "|-- \n/32 host LOCAL\n"),
            ("proc/self/net/if_inet6", "xyz\n00 11\n"),
        ] {
            put(&place, path, text);
        }
        let facts = look(&place, NOW);
        check(&facts, "/appliance", json!(false));
        check(&facts, "/temperature_celsius", Value::Null);
        check(&facts, "/card", Value::Null);
        check(&facts, "/network/addresses", json!([]));
    }
}
