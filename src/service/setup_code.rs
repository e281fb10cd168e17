//! The setup code, by which whoever has the device in hand makes its first user: the systemd credential `setup-code`,
//! else `setup-code` in the data directory, which is made while there is no user. The code itself is never logged.
//!
//! What has no screen for it is told by a file: `device/set-up` in the data directory is there once there is a user.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use zeroize::Zeroizing;

use crate::http::SetupCode;
use crate::store::Catalog;
use crate::store::backup::sync_directory;

/// The file in the data directory, and the credential (systemd.exec(5), LoadCredential=).
const NAME: &str = "setup-code";
/// Below the data directory: there is a user.
const SET_UP: &str = "device/set-up";
/// Letters and digits that nobody takes for another: 32 of them, so that each has five bits.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// What is in the data directory about the setup.
pub(super) struct SetupFiles {
    data_dir: PathBuf,
    is_set_up: AtomicBool,
}

impl SetupFiles {
    pub(super) fn new(data_dir: &Path) -> SetupFiles {
        SetupFiles { data_dir: data_dir.to_owned(), is_set_up: AtomicBool::new(false) }
    }

    /// Called with each new set-up of the store: once there is a user, the code goes. A file that cannot be changed
    /// keeps nobody from going on.
    pub(super) fn look(&self, catalog: &Catalog) {
        if catalog.users.is_empty() || self.is_set_up.swap(true, Relaxed) {
            return;
        }
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the setup code could not be removed from the data directory");
        }
    }

    fn end(&self) -> io::Result<()> {
        let mark = self.data_dir.join(SET_UP);
        if !mark.exists() {
            let directory = mark.parent().unwrap_or(&self.data_dir);
            fs::create_dir_all(directory)?;
            fs::write(&mark, "")?;
            // It is no secret, whatever the umask says.
            fs::set_permissions(&mark, PermissionsExt::from_mode(0o644))?;
            sync_directory(directory)?;
        }
        remove(&self.data_dir.join(NAME))
    }

    /// The code of a device that has no user; `None` if it has one, or none can be had.
    pub(super) fn code(&self, catalog: &Catalog) -> Option<SetupCode> {
        self.look(catalog);
        if !catalog.users.is_empty() {
            return None;
        }
        let path = self.data_dir.join(NAME);
        let code = self.begin(&path).inspect_err(|error| {
            tracing::error!(%error, "there is no setup code: {} cannot be made; make users with an api key", path.display());
        });
        code.ok()
    }

    fn begin(&self, path: &Path) -> io::Result<SetupCode> {
        // A backup from before the setup may have been restored.
        remove(&self.data_dir.join(SET_UP))?;
        for (path, is_ours) in [(credential(), false), (Some(path.to_owned()), true)] {
            let Some(path) = path else { continue };
            match fs::read_to_string(&path).map(Zeroizing::new) {
                Ok(text) => match SetupCode::new(&text) {
                    Some(code) => return Ok(code),
                    // A power cut may have left it empty.
                    None if is_ours => {}
                    None => tracing::error!(
                        "{} is no setup code: it must have 8 to 64 letters and digits",
                        path.display()
                    ),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(%error, "{} cannot be read", path.display()),
            }
        }
        let text = make()?;
        write(path, &text)?;
        tracing::info!("there is no user yet: the setup code is in {}", path.display());
        SetupCode::new(&text).ok_or_else(|| io::Error::other("the code is none"))
    }
}

fn credential() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(NAME))
}

/// Forty random bits, as two groups that a person can type.
fn make() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0u8; 8]);
    getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(byte % 32)]);
    let (first, last) = bytes.split_at(4);
    let mut text = Zeroizing::new(String::with_capacity(9));
    text.extend(first.iter().map(letter).chain(['-']).chain(last.iter().map(letter)));
    Ok(text)
}

/// Writes a file that only its owner may read.
fn write(path: &Path, text: &str) -> io::Result<()> {
    remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_typed_without_doubt() {
        let codes: Vec<_> = (0..200).map(|_| make().unwrap()).collect();
        for code in &codes {
            assert_eq!((code.len(), code.find('-')), (9, Some(4)), "{}", code.as_str());
            assert!(!code.contains(['0', 'O', '1', 'I']) && SetupCode::new(code).is_some());
        }
        assert!(codes.iter().any(|code| *code != codes[0]));
    }
}
