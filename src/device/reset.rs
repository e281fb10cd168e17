//! Factory resets: the daemon leaves a request, and root's helper a flag that the initrd of the next boot finds.

use std::io;

use super::{Error, Image, Place, files};

/// The request, below the daemon's directory for the device.
const REQUEST: &str = "factory-reset";
/// What the initrd looks for.
const FLAG: &str = ".factory-reset";

/// Asks for a reset, as the daemon. `directory` is its own for the device.
pub(super) fn request_reset(place: &Place, directory: &std::path::Path) -> Result<(), Error> {
    Image::here(place)?;
    files::make_directory(directory, 0o700)?;
    files::write(&directory.join(REQUEST), b"", 0o600)
}

/// What the device is called, which whoever resets it has to say.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `picloud device reset`: what was asked for happens at the next boot.
///
/// # Errors
/// If nobody asked, or the flag cannot be written.
pub fn reset(place: &Place) -> Result<(), Error> {
    Image::here(place)?;
    let request = place.daemon().join("device").join(REQUEST);
    files::open(&request).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => Error::Nothing("nobody asked for a factory reset".into()),
        _ => Error::io("read", &request, why),
    })?;
    files::write(&place.data().join(FLAG), b"", 0o600)?;
    files::remove_for_good(&request)
}
