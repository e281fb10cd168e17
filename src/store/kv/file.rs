//! The KV as it is in the file: its keys in bytes, and a snapshot that many reads share.

use std::ops::Bound;
use std::sync::Arc;

use redb::{Database, ReadOnlyTable, ReadableDatabase};
use uuid::Uuid;

use super::Entry;
use crate::model::{KvKey, KvPrefix, UnixMs};
use crate::store::tables::KV;
use crate::store::{Error, codec};

/// The key of the table: the app's id, then the key's text.
pub(crate) fn raw_key(app: Uuid, key: &str) -> Vec<u8> {
    [app.as_bytes().as_slice(), key.as_bytes()].concat()
}

/// The KV as of one commit. Held only until the next one, so that pages which commits free are used again.
pub(crate) struct Base {
    kv: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// A file that was compacted away is closed when nobody reads it any more.
    _db: Arc<Database>,
}

impl Base {
    pub(crate) fn open(db: Arc<Database>) -> Result<Base, Error> {
        Ok(Base { kv: db.begin_read()?.open_table(KV)?, _db: db })
    }

    /// The value of a key, expired or not.
    pub(crate) fn get(&self, app: Uuid, key: &KvKey) -> Result<Option<Entry>, Error> {
        self.kv
            .get(raw_key(app, key.as_str()).as_slice())?
            .map(|bytes| codec::decode(bytes.value()))
            .transpose()
    }

    /// Values whose keys begin with `prefix` and come after `after`, in order.
    pub(crate) fn range<'b>(
        &'b self,
        app: Uuid,
        prefix: &'b KvPrefix,
        after: Option<&KvKey>,
    ) -> Result<impl Iterator<Item = Result<(KvKey, Entry), Error>> + 'b, Error> {
        let from = beginning(prefix, after).map(|text| raw_key(app, text));
        let from = from.as_ref().map(Vec::as_slice);
        let all = self.kv.range::<&[u8]>((from, Bound::Unbounded))?;
        let entries = all.map(move |entry| {
            let (raw, bytes) = entry?;
            let Some(key) = raw.value().strip_prefix(app.as_bytes()) else { return Ok(None) };
            let key = key_of(key)?;
            if !prefix.takes(&key) {
                return Ok(None);
            }
            Ok(Some((key, codec::decode(bytes.value())?)))
        });
        Ok(entries.map_while(Result::transpose))
    }
}

/// Where a list begins: after a key, if that is not before all that begins with `prefix` anyway.
pub(super) fn beginning<'k>(prefix: &'k KvPrefix, after: Option<&'k KvKey>) -> Bound<&'k str> {
    match after.map(KvKey::as_str).filter(|after| *after >= prefix.as_str()) {
        Some(after) => Bound::Excluded(after),
        None => Bound::Included(prefix.as_str()),
    }
}

/// The key whose bytes these are.
pub(crate) fn key_of(bytes: &[u8]) -> Result<KvKey, Error> {
    let damaged = |why: String| Error::Damaged { what: "kv key", why };
    let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
    text.parse().map_err(|error| damaged(format!("it {error}")))
}

/// The key of the table of what expires: the instant, then the key of the value.
pub(super) fn expiry_key(at: UnixMs, raw: &[u8]) -> Vec<u8> {
    let millis = u64::try_from(at.0).unwrap_or(0);
    [millis.to_be_bytes().as_slice(), raw].concat()
}

/// Where a value stands among those that expire, if it does.
pub(crate) fn expiry_of(raw: &[u8], entry: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let entry: Entry = codec::decode(entry)?;
    Ok(entry.expires_at.map(|at| expiry_key(at, raw)))
}
