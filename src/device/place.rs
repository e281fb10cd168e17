//! Where things lie on the appliance.

use std::path::{Path, PathBuf};

/// The root of a device's files: `/`, or a directory in tests.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

impl Place {
    /// The device that this program runs on.
    pub fn here() -> Place {
        Place(PathBuf::from("/"))
    }

    /// One that lies below a directory.
    pub fn below(root: impl Into<PathBuf>) -> Place {
        Place(root.into())
    }

    /// Any path of it; `path` has no leading slash.
    pub fn path(&self, path: &str) -> PathBuf {
        debug_assert!(!Path::new(path).is_absolute(), "a path below the root");
        self.0.join(path)
    }

    /// What image this is, as `scripts/build-image` wrote it; without it the computer is no appliance.
    pub fn image(&self) -> PathBuf {
        self.path("usr/lib/picloud/image.json")
    }

    /// The first partition, which people see when they put the card into their computer: read only but for helpers.
    pub fn boot(&self) -> PathBuf {
        self.path("boot/firmware")
    }

    /// The last partition: everything that stays.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// What makes the device this one: for root only.
    pub fn identity(&self) -> PathBuf {
        self.path("data/identity")
    }

    /// The daemon's data directory; it is root's helpers that take requests out of its `device` below.
    pub fn daemon(&self) -> PathBuf {
        self.path("data/picloud")
    }

    /// What helpers tell until the next boot; anybody may read it.
    pub fn run(&self) -> PathBuf {
        self.path("run/picloud-device")
    }
}
