//! The shelf of secrets: sealed values by app and name.
//!
//! Nothing here can open one: who seals and who opens hold the device's key, and this room's files never do.

use redb::{ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::changes::{Changed, Changes, found};
use super::codec;
use super::read::Snapshot;
use super::tables::SECRETS;
use super::{ChangeError, Error};
use crate::model::{Secret, SecretName, UnixMs};

/// Secrets of one app.
const SECRETS_MAX: usize = 1_000;

/// Where a secret of an app is.
pub(crate) fn key(app: Uuid, name: &SecretName) -> Vec<u8> {
    [app.as_bytes(), name.as_str().as_bytes()].concat()
}

/// The app and the name of a key; `None` if it is none.
pub(crate) fn parse_key(key: &[u8]) -> Option<(Uuid, SecretName)> {
    let (app, name) = key.split_first_chunk::<16>()?;
    Some((Uuid::from_bytes(*app), std::str::from_utf8(name).ok()?.parse().ok()?))
}

/// Shows each secret of an app, by name.
fn each(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    app: Uuid,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    for entry in table.range::<&[u8]>(app.as_bytes().as_slice()..)? {
        let (key, bytes) = entry?;
        if !key.value().starts_with(app.as_bytes()) {
            break;
        }
        visit(key.value(), bytes.value())?;
    }
    Ok(())
}

impl Changes<'_> {
    /// Stores a sealed value under this name, in the place of an older one if there is one. Says whether there was
    /// none.
    pub fn put_secret(
        &mut self,
        app: Uuid,
        name: &SecretName,
        sealed: Vec<u8>,
        now: UnixMs,
    ) -> Changed<(Secret, bool)> {
        self.check_storage()?;
        found(&self.catalog().apps, "app", app)?;
        let mut table = self.txn.open_table(SECRETS)?;
        let key = key(app, name);
        let old =
            table.get(key.as_slice())?.map(|bytes| codec::decode::<Secret>(bytes.value())).transpose()?;
        if old.is_none() {
            let mut count = 0;
            each(&table, app, |_, _| {
                count += 1;
                Ok(())
            })?;
            if count >= SECRETS_MAX {
                let why = format!("the app has {count} secrets, as many as it may; remove one first");
                return Err(ChangeError::Conflict(why));
            }
        }
        let created_at = old.as_ref().map_or(now, |old| old.created_at);
        let secret = Secret { sealed, created_at, updated_at: now };
        let bytes = codec::encode(&secret);
        table.insert(key.as_slice(), bytes.as_slice())?;
        self.kept_bytes.set(self.kept_bytes.get() + u64::try_from(bytes.len()).unwrap_or(0));
        Ok((secret, old.is_none()))
    }

    /// Removes a secret.
    pub fn delete_secret(&mut self, app: Uuid, name: &SecretName) -> Changed<()> {
        match self.txn.open_table(SECRETS)?.remove(key(app, name).as_slice())? {
            Some(_) => Ok(()),
            None => Err(ChangeError::NotFound { what: "secret", id: name.to_string() }),
        }
    }
}

/// Removes all secrets of an app.
pub(super) fn delete_all(txn: &WriteTransaction, app: Uuid) -> Result<(), Error> {
    let mut table = txn.open_table(SECRETS)?;
    let mut keys = Vec::new();
    each(&table, app, |key, _| {
        keys.push(key.to_vec());
        Ok(())
    })?;
    for key in keys {
        table.remove(key.as_slice())?;
    }
    Ok(())
}

impl Snapshot {
    /// A secret of an app, sealed.
    pub fn secret(&self, app: Uuid, name: &SecretName) -> Result<Option<Secret>, Error> {
        let table = self.tables().open_table(SECRETS)?;
        table.get(key(app, name).as_slice())?.map(|bytes| codec::decode(bytes.value())).transpose()
    }

    /// All secrets of an app, sealed, by name.
    pub fn secrets(&self, app: Uuid) -> Result<Vec<(SecretName, Secret)>, Error> {
        let mut all = Vec::new();
        each(&self.tables().open_table(SECRETS)?, app, |key, bytes| {
            let damaged = || Error::Damaged { what: "secret", why: "its name cannot be read".into() };
            let (_, name) = parse_key(key).ok_or_else(damaged)?;
            all.push((name, codec::decode(bytes)?));
            Ok(())
        })?;
        Ok(all)
    }

    /// Whether any app has a secret.
    pub fn has_secrets(&self) -> Result<bool, Error> {
        Ok(self.tables().open_table(SECRETS)?.first()?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let (app, name) = (Uuid::from_u128(7), "a.b".parse().unwrap());
        assert_eq!(parse_key(&key(app, &name)), Some((app, name)));
        for bad in [&b""[..], &[0; 15], &[0; 16], &[255; 20]] {
            assert_eq!(parse_key(bad), None, "{bad:?}");
        }
    }
}
