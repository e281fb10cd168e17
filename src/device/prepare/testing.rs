//! Directories that stand for devices, for tests of this room.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Prepared, prepare};
use crate::device::Place;

/// The public half of a key for ssh.
pub(super) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZ me@desk";
/// The hash of a password.
pub(super) const HASH: &str = "$6$saltsalt$abcdefghijklmnopqrstuvwxyzABCDEFGHIJ./0123456789";

/// A directory that goes when its test does.
pub(in crate::device) struct TempDir(PathBuf);

impl TempDir {
    pub(in crate::device) fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("picloud-device-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub(in crate::device) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A device that was never started.
pub(super) struct Board(TempDir);

impl Board {
    pub(super) fn new() -> Board {
        let board = Board(TempDir::new());
        for (path, text) in [
            ("boot/firmware/config.txt", ""),
            ("sys/firmware/devicetree/base/serial-number", "100000000000BEEF\0"),
            ("usr/lib/picloud/image.json", r#"{"version":"0.1.0","build":"2026-11-27T00:00:00Z"}"#),
            ("usr/share/picloud/picloud.toml", "[scripts]\nqueue_max = 7\n"),
            ("proc/cmdline", "console=tty1 picloud.slot=A picloud.pending= ro\n"),
        ] {
            board.put(path, text);
        }
        board
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn place(&self) -> Place {
        Place::below(self.0.path())
    }

    pub(super) fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn drop_file(&self, name: &str, text: impl AsRef<[u8]>) {
        self.put(&format!("boot/firmware/{name}"), text);
    }

    /// The text of a file, or nothing.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(path)).ok()
    }

    pub(super) fn start(&self) -> Prepared {
        let mut next = 0_u8;
        prepare(&self.place(), &mut |bytes| {
            bytes.iter_mut().for_each(|byte| {
                next = next.wrapping_add(7);
                *byte = next;
            });
            Ok(())
        })
    }

    /// As a power cycle does it.
    pub(super) fn start_anew(&self) -> Prepared {
        let _ = fs::remove_dir_all(self.0.path().join("run"));
        self.start()
    }

    /// Everything that is there, by path.
    pub(super) fn files(&self) -> BTreeMap<String, (u32, String)> {
        let mut all = BTreeMap::new();
        walk(self.0.path(), self.0.path(), &mut all);
        all
    }
}

fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<String, (u32, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if meta.is_dir() {
            walk(root, &path, all);
        } else if meta.is_symlink() {
            all.insert(name, (0, fs::read_link(&path).unwrap().to_str().unwrap().to_owned()));
        } else {
            // FAT knows no rights.
            let mode = if name.starts_with("boot/") { 0 } else { meta.permissions().mode() & 0o777 };
            all.insert(name, (mode, fs::read_to_string(&path).unwrap()));
        }
    }
}
