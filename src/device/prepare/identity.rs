//! What makes the device this one, made on it and never in the image: its name, the key of root's helpers, the code that
//! its first user types.

use std::fs;
use std::io;

use super::files;
use super::settings::Settings;
use crate::device::Place;

/// Where randomness comes from: it fills the bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> io::Result<()>;

/// What all devices are called that nobody named.
const NAME: &str = "picloud";
/// Letters and digits that nobody takes for others: without 0, O, 1 and I. There are 32 of them.
const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const CODE_LETTERS: usize = 8;
/// A name, a key or a code is a line.
const LINE_BYTES_MAX: u64 = 1024;

/// The name of the device: the one that was set, else the one that it once gave itself.
pub(super) fn host_name(place: &Place, settings: &Settings) -> Result<String, (String, io::Error)> {
    if let Some(name) = &settings.device.hostname {
        return Ok(name.clone());
    }
    let path = place.identity().join("hostname");
    let kept = line(&path).filter(|name| super::values::host_name(name).as_ref() == Ok(name));
    if let Some(name) = kept {
        return Ok(name);
    }
    let name = format!("{NAME}-{}", tail(place));
    // The name stays when the card moves to another board: people know the device by it.
    match files::write(&path, format!("{name}\n").as_bytes(), 0o600) {
        Ok(()) => Ok(name),
        Err(why) => Err((name, why)),
    }
}

/// Four digits that tell devices of one network apart: the last of the board's serial number, if its maker gave it one,
/// else of the machine's id.
fn tail(place: &Place) -> String {
    let serial = place.path("sys/firmware/devicetree/base/serial-number");
    let ids = [serial, place.identity().join("machine-id"), place.path("etc/machine-id")];
    let hex = |text: String| {
        let digits = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let told = digits && text.bytes().any(|byte| byte != b'0');
        told.then(|| text[text.len() - 4..].to_ascii_lowercase())
    };
    ids.iter().find_map(|path| line(path).and_then(hex)).unwrap_or_else(|| "0000".to_owned())
}

/// The admin key of this boot: the one that was set, one that lies in the identity, else a new one.
pub(super) fn admin_key(place: &Place, settings: &Settings, random: Random<'_>) -> io::Result<String> {
    let kept = || line(&place.identity().join("api-key")).filter(|key| super::values::admin_key(key).is_ok());
    if let Some(key) = settings.admin.key.clone().or_else(kept) {
        return Ok(key);
    }
    // A second run in one boot must not change the key under the daemon, which has read it.
    if let Some(key) = line(&place.run().join("api-key")).filter(|key| super::values::admin_key(key).is_ok())
    {
        return Ok(key);
    }
    let mut bytes = [0; 32];
    random(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("pc_{digits}"))
}

/// The code that whoever sets up the first user must know: the one that was set, else one that is made once and shown.
pub(super) fn setup_code(place: &Place, settings: &Settings, random: Random<'_>) -> io::Result<String> {
    if let Some(code) = &settings.admin.setup_code {
        return Ok(code.clone());
    }
    let path = place.identity().join("setup-code");
    if let Some(code) = line(&path).filter(|code| is_code(code)) {
        return Ok(code);
    }
    let mut bytes = [0; CODE_LETTERS];
    random(&mut bytes)?;
    let letters = bytes.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    let (left, right) = letters.split_at(CODE_LETTERS / 2);
    let code = format!("{}-{}", String::from_iter(left), String::from_iter(right));
    files::write(&path, format!("{code}\n").as_bytes(), 0o600)?;
    Ok(code)
}

fn is_code(text: &str) -> bool {
    let right = |(at, byte): (usize, &u8)| {
        if at == CODE_LETTERS / 2 { *byte == b'-' } else { LETTERS.contains(byte) }
    };
    text.len() == CODE_LETTERS + 1 && text.as_bytes().iter().enumerate().all(right)
}

/// Whether a user exists, as the daemon tells.
pub(super) fn is_set_up(place: &Place) -> bool {
    place.daemon().join("device/set-up").exists()
}

/// The one line of a file. The kernel ends texts of the device tree with a zero.
fn line(path: &std::path::Path) -> Option<String> {
    let bytes = files::read(path, LINE_BYTES_MAX).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let line = text.trim_matches(|letter: char| letter == '\0' || letter.is_whitespace());
    (!line.is_empty() && !line.contains('\n')).then(|| line.to_owned())
}

/// What the kernel was started with, for those who may not look: the daemon sees no `/proc` but its own.
pub(super) fn boot(place: &Place) -> serde_json::Value {
    let line = fs::read_to_string(place.path("proc/cmdline")).unwrap_or_default();
    let word = |name: &str| {
        line.split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(name))
            .filter(|value| !value.is_empty())
    };
    let id = fs::read_to_string(place.path("proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let id = id.trim();
    serde_json::json!({
        "slot": word("picloud.slot="),
        "pending": word("picloud.pending="),
        "boot_id": (!id.is_empty()).then_some(id),
    })
}
