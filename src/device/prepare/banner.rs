//! What stands on the screen above the login (agetty(8), issue.d), for whoever has only a monitor.

use super::{files, identity};
use crate::device::Place;

/// A page of text on the smallest screen.
const LINES_MAX: usize = 14;

/// What the banner tells besides the name.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub(super) host_name: String,
    pub(super) errors: Vec<String>,
    pub(super) complaints: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// The text, with escapes that agetty fills in: `\4` and `\6` are the addresses.
pub(super) fn text(place: &Place, told: &Told, code: Option<&str>) -> String {
    let image = files::read(&place.image(), 64 * 1024).ok();
    let image: serde_json::Value =
        image.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let boot = identity::boot(place);
    let word = |value: &serde_json::Value| value.as_str().map(plain).unwrap_or_else(|| "?".to_owned());
    let mut text = format!(
        "\nPiCloud {} ({}, slot {}) on {}\n\n  http://{}.local   \\4   \\6\n",
        word(&image["version"]),
        word(&image["build"]),
        word(&boot["slot"]),
        told.host_name,
        told.host_name,
    );
    if let Some(code) = code {
        let name = &told.host_name;
        text += &format!(
            "\n  Nobody has set it up yet. The setup code is {code}; on another computer:\n  picloud --url http://{name}.local setup --email YOURS\n"
        );
    }
    if let Ok(bytes) = files::read(&place.run().join("no-data"), 4096) {
        let why = plain(String::from_utf8_lossy(&bytes).trim());
        text += &format!("\n  THE DATA PARTITION IS NOT IN USE, nothing is kept: {why}\n");
    }
    let mut lines: Vec<String> =
        told.errors.iter().map(|why| format!("  Not applied: {}\n", plain(why))).collect();
    lines.extend(told.complaints.iter().map(|why| format!("  Failed: {}\n", plain(why))));
    lines.extend(told.notes.iter().map(|note| format!("  Note: {}\n", plain(note))));
    if !lines.is_empty() {
        text.push('\n');
    }
    text.extend(lines.iter().take(LINES_MAX).map(String::as_str));
    if lines.len() > LINES_MAX {
        text += "  ... and more: see the journal\n";
    }
    text + "\n"
}

/// Nothing that agetty or a terminal takes for something else.
fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\\' => '/',
            letter if letter.is_control() => ' ',
            letter => letter,
        })
        .take(300)
        .collect()
}
