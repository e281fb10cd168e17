//! The key that secrets are sealed with: the systemd credential `device-key`, else `device.key` in the data directory,
//! which the first start makes. It is never written over: what was sealed with it opens with nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Error;
use crate::store::backup::sync_directory;
use crate::store::{self, DEVICE_KEY_BYTES, Sealer};

/// The file in the data directory.
const FILE: &str = "device.key";
/// The credential (systemd.exec(5), LoadCredential=).
const CREDENTIAL: &str = "device-key";

type Key = Zeroizing<[u8; DEVICE_KEY_BYTES]>;

/// The device's sealer. `data_dir` is locked by this process. A key is only made if none is there and no secret was
/// sealed with one that is gone, which `has_secrets` tells.
pub(super) fn sealer(
    data_dir: &Path,
    has_secrets: impl FnOnce() -> Result<bool, store::Error>,
) -> Result<Sealer, Error> {
    if let Some(path) = credential()
        && let Some(key) = read(&path)?
    {
        return Ok(Sealer::new(key));
    }
    let path = path(data_dir);
    if let Some(key) = read(&path)? {
        warn_if_open(&path);
        return Ok(Sealer::new(key));
    }
    if has_secrets()? {
        let path = path.display();
        return Err(Error::DeviceKey(format!(
            "{path} is missing, and the store holds secrets that were sealed with it: put it back; if it is lost, make another with `head -c {DEVICE_KEY_BYTES} /dev/urandom > {path} && chmod 600 {path}`, start again, and set the secrets again"
        )));
    }
    let key = make(data_dir, &path)
        .map_err(|error| Error::DeviceKey(format!("{} cannot be made: {error}", path.display())))?;
    tracing::info!("the key that secrets are sealed with is in {}; backups do not hold it", path.display());
    Ok(Sealer::new(key))
}

/// The file of a data directory, whether or not it is there.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

fn credential() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL))
}

/// The key in a file; `None` if there is no file.
fn read(path: &Path) -> Result<Option<Key>, Error> {
    let failed = |why: String| Error::DeviceKey(format!("{} {why}", path.display()));
    let mut bytes = Zeroizing::new(Vec::with_capacity(DEVICE_KEY_BYTES + 1));
    let read = File::open(path).and_then(|file| {
        // One more than a key has, to see that it is too long, and not all of a disk.
        let most = u64::try_from(DEVICE_KEY_BYTES + 1).unwrap_or(u64::MAX);
        file.take(most).read_to_end(&mut bytes)
    });
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("cannot be read: {error}"))),
        Ok(_) => {}
    }
    let key = <[u8; DEVICE_KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| {
        let more = if bytes.len() > DEVICE_KEY_BYTES { "more" } else { "fewer" };
        failed(format!(
            "is no key: it has {more} than {DEVICE_KEY_BYTES} bytes; put the file back that PiCloud had made"
        ))
    })?;
    Ok(Some(Zeroizing::new(key)))
}

fn warn_if_open(path: &Path) {
    let open = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0);
    if open {
        tracing::warn!("{} can be read by others: run chmod 600 on it", path.display());
    }
}

/// Makes a key and its file, which is there as a whole or not at all, also after a power cut.
fn make(data_dir: &Path, path: &Path) -> io::Result<Key> {
    let mut key = Zeroizing::new([0; DEVICE_KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(io::Error::other)?;
    let partial = data_dir.join("device.key.partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(&*key)?;
    file.sync_all()?;
    // The directory is locked and had none: nothing is written over.
    fs::rename(&partial, path)?;
    sync_directory(data_dir)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a data directory with this `device.key`: a sealer, or the error.
    fn check(file: Option<&[u8]>, has_secrets: bool) -> Result<Sealer, String> {
        let dir = std::env::temp_dir().join(format!("picloud-seal-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        if let Some(bytes) = file {
            fs::write(dir.join(FILE), bytes).unwrap();
        }
        let made = sealer(&dir, || Ok(has_secrets)).map_err(|error| error.to_string());
        if let Ok(sealer) = &made {
            let again = super::sealer(&dir, || Ok(true)).unwrap();
            let sealed =
                sealer.seal(uuid::Uuid::nil(), &"a".parse().unwrap(), &"b".to_owned().try_into().unwrap());
            assert!(again.sealed(&sealed.unwrap()), "the same key is found again");
            assert!(!dir.join("device.key.partial").exists());
        }
        if let Some(bytes) = file {
            assert_eq!(fs::read(dir.join(FILE)).unwrap(), bytes, "it is never written over");
        } else if made.is_ok() {
            assert_eq!(fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::remove_dir_all(&dir).unwrap();
        made
    }

    #[test]
    fn a_key_is_made_once_and_never_in_the_place_of_another() {
        assert!(check(None, false).is_ok());
        assert!(check(Some(&[7; 32]), true).is_ok());
        assert!(check(Some(&[7; 32]), false).is_ok());
        for (file, has_secrets, why) in [
            (None, true, "is missing"),
            (Some(&[][..]), false, "fewer than 32 bytes"),
            (Some(&[7; 31]), true, "fewer than 32 bytes"),
            (Some(&[7; 33]), false, "more than 32 bytes"),
        ] {
            let said = check(file, has_secrets).unwrap_err();
            assert!(said.contains(why) && said.contains(FILE), "{said}");
        }
    }
}
