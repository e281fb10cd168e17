//! What image the device was booted from, and which updates it takes.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bundle::{BundleError, Manifest};
use super::{Error, Place};

/// What stands in `image.json`, which the image build writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The kind of device.
    pub compatible: String,
    /// The version (semver.org).
    pub version: String,
    /// When it was built, RFC 3339.
    pub build: String,
    /// Bytes of a slot's partition.
    pub slot_bytes: u64,
    /// Whether it is for those who work on PiCloud.
    #[serde(default)]
    pub development: bool,
}

impl Image {
    /// That of this device.
    ///
    /// # Errors
    /// `NoAppliance` if the computer was not booted from an image.
    pub fn here(place: &Place) -> Result<Image, Error> {
        Image::of(&place.image())
    }

    /// One in a file.
    ///
    /// # Errors
    /// `NoAppliance` if there is none.
    pub fn of(path: &Path) -> Result<Image, Error> {
        match fs::read(path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Err(Error::NoAppliance),
            Err(why) => Err(Error::io("read", path, why)),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|why| Error::io("understand", path, why.into()))
            }
        }
    }

    /// The version and the build, for people.
    pub fn name(&self) -> String {
        format!("{} ({})", self.version, self.build)
    }

    /// Refuses an update that is not for this device. `schema` is that of the data here.
    ///
    /// # Errors
    /// Why not.
    pub fn accept(&self, update: &Manifest, force: bool, schema: u32) -> Result<(), BundleError> {
        if update.compatible != self.compatible {
            let (found, own) = (update.compatible.clone(), self.compatible.clone());
            return Err(BundleError::Incompatible { found, own });
        }
        if update.slot_bytes > self.slot_bytes {
            return Err(BundleError::TooLarge { bytes: update.slot_bytes, room: self.slot_bytes });
        }
        if update.schema < schema {
            return Err(BundleError::OlderSchema { found: update.schema, own: schema });
        }
        let age = age(&update.version, &update.build)?;
        let own = self::age(&self.version, &self.build)?;
        if let Some(min_from) = &update.min_from
            && own.0 < version(min_from)?
        {
            return Err(BundleError::TooFar { min_from: min_from.clone(), own: self.name() });
        }
        match age.cmp(&own) {
            _ if force => Ok(()),
            std::cmp::Ordering::Less => Err(BundleError::Older { found: update.name(), own: self.name() }),
            std::cmp::Ordering::Equal => Err(BundleError::Same(self.name())),
            std::cmp::Ordering::Greater => Ok(()),
        }
    }
}

fn version(text: &str) -> Result<semver::Version, BundleError> {
    semver::Version::parse(text)
        .map_err(|why| BundleError::Manifest(format!("{text:?} is no version: {why}")))
}

/// What orders updates.
fn age(version: &str, build: &str) -> Result<(semver::Version, jiff::Timestamp), BundleError> {
    let built = build.parse().map_err(|why| BundleError::Manifest(format!("build {build:?}: {why}")))?;
    Ok((self::version(version)?, built))
}
