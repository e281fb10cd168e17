//! A backup as bytes: what is written, and a reader that takes any bytes.
//!
//! One file that `zstd -dc` understands: a zstd frame with the rows, then a skippable frame (RFC 8878 3.1.2) with
//! the manifest, found from the file's end. The payload is logical, rows and not pages: it is small, knows nothing
//! of the database's own format, and restoring it compacts. All numbers are little endian.
//!
//! ```text
//! payload   "picloud-backup 1\n"  schema:u32  table*  0:u8 tables:u32 rows:u64
//! table     1:u8 length:u16 name  row*
//! row       2:u8 length:u32 key  length:u32 value
//! skippable 0x184D2A50:u32 size:u32  manifest(JSON)  sha256(manifest)  length(manifest):u32  "PICLOUDB"
//! ```

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::BackupError;
use crate::model::UnixMs;

const MAGIC: &[u8] = b"picloud-backup 1\n";
const END: u8 = 0;
const TABLE: u8 = 1;
const ROW: u8 = 2;
/// The first of the sixteen magic numbers of skippable frames.
const SKIPPABLE: u32 = 0x184D_2A50;
const TRAILER: &[u8; 8] = b"PICLOUDB";
/// Bytes of the file's end after the manifest: its hash, its length, the trailer.
const TAIL_BYTES: u64 = 32 + 4 + 8;
/// The default of zstd(1): about as fast as a card writes.
const LEVEL: i32 = 3;
/// Level 3 needs 2 MiB; a frame that asks for more than 8 MiB is none of ours.
const WINDOW_LOG_MAX: u32 = 23;
const NAME_BYTES_MAX: u16 = 100;
const KEY_BYTES_MAX: u32 = 1024;
/// The largest value is a row with a body of 10 MiB.
const VALUE_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Nothing packs better than a block of 128 KiB of one byte, in four bytes (RFC 8878 3.1.1.2).
const RATIO_MAX: u64 = 128 * 1024 / 4;
const MANIFEST_BYTES_MAX: u32 = 64 * 1024;

/// What a backup says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Names it.
    pub id: Uuid,
    /// When it was begun, by the device's clock.
    pub created_at: UnixMs,
    /// The PiCloud that made it.
    pub version: String,
    /// The schema of its rows.
    pub schema: u32,
    /// Rows of each table.
    pub tables: BTreeMap<String, u64>,
    /// Bytes of the rows before compression.
    pub raw_bytes: u64,
    /// Bytes of the compressed rows.
    pub frame_bytes: u64,
    /// SHA-256 of the compressed rows, in hexadecimal.
    pub frame_sha256: String,
    /// Whether it carries the key that its secrets were sealed with: then every device can open them.
    #[serde(default)]
    pub secrets: bool,
}

/// Counts and hashes what goes through.
pub(super) struct Metered<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Metered<W> {
    pub(super) fn new(inner: W) -> Metered<W> {
        Metered { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// What was written into, the hash in hexadecimal, and the bytes.
    pub(super) fn finish(self) -> (W, String, u64) {
        (self.inner, hex(&self.hash.finalize()), self.bytes)
    }
}

impl<W: Write> Write for Metered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += u64::try_from(count).unwrap_or(u64::MAX);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a backup row by row. Holds a few MiB, however many rows there are.
pub(super) struct Packer<W: Write> {
    frame: zstd::Encoder<'static, Metered<W>>,
    schema: u32,
    raw_bytes: u64,
    tables: BTreeMap<String, u64>,
    table: Option<(String, u64)>,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(out: W, schema: u32) -> io::Result<Packer<W>> {
        let mut frame = zstd::Encoder::new(Metered::new(out), LEVEL)?;
        frame.include_checksum(true)?;
        let mut packer = Packer { frame, schema, raw_bytes: 0, tables: BTreeMap::new(), table: None };
        packer.put(MAGIC)?;
        packer.put(&schema.to_le_bytes())?;
        Ok(packer)
    }

    /// Begins a table; its rows follow in the order of their keys.
    pub(super) fn table(&mut self, name: &str) -> io::Result<()> {
        self.tables.extend(self.table.take());
        let length = u16::try_from(name.len()).ok().filter(|length| *length <= NAME_BYTES_MAX);
        self.put(&[TABLE])?;
        self.put(&length.ok_or_else(|| too_long("name of a table"))?.to_le_bytes())?;
        self.table = Some((name.to_owned(), 0));
        self.put(name.as_bytes())
    }

    /// Writes a row of the table that was begun last.
    pub(super) fn row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.put(&[ROW])?;
        self.sized(key, KEY_BYTES_MAX)?;
        self.sized(value, VALUE_BYTES_MAX)?;
        if let Some((_, rows)) = &mut self.table {
            *rows += 1;
        }
        Ok(())
    }

    /// Ends the backup; gives back what it was written into and what it says about itself.
    /// `secrets` says whether the device's key was among the rows.
    pub(super) fn finish(mut self, id: Uuid, created_at: UnixMs, secrets: bool) -> io::Result<(W, Manifest)> {
        self.tables.extend(self.table.take());
        let (tables, rows) = totals(&self.tables);
        self.put(&[END])?;
        self.put(&tables.to_le_bytes())?;
        self.put(&rows.to_le_bytes())?;
        let (mut out, frame_sha256, frame_bytes) = self.frame.finish()?.finish();
        let manifest = Manifest {
            id,
            created_at,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: self.schema,
            tables: self.tables,
            raw_bytes: self.raw_bytes,
            frame_bytes,
            frame_sha256,
            secrets,
        };
        out.write_all(&skippable(&manifest)?)?;
        Ok((out, manifest))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.frame.write_all(bytes)
    }

    fn sized(&mut self, bytes: &[u8], most: u32) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= most);
        self.put(&length.ok_or_else(|| too_long("row"))?.to_le_bytes())?;
        self.put(bytes)
    }
}

fn too_long(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a {what} is longer than a backup may hold"))
}

fn totals(tables: &BTreeMap<String, u64>) -> (u32, u64) {
    (u32::try_from(tables.len()).unwrap_or(u32::MAX), tables.values().sum())
}

/// The frame that zstd passes over.
fn skippable(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(manifest)?;
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let size = length.saturating_add(32 + 4 + 8);
    let hash = Sha256::digest(&text);
    let parts: [&[u8]; 6] =
        [&SKIPPABLE.to_le_bytes(), &size.to_le_bytes(), &text, &hash, &length.to_le_bytes(), TRAILER];
    Ok(parts.concat())
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A refusal of the file, or the error of reading it.
fn unsound(why: impl Into<String>) -> BackupError {
    BackupError::Unsound(why.into())
}

fn unread(error: &io::Error) -> BackupError {
    BackupError::Failed(format!("the backup cannot be read: {error}"))
}

/// Reads the manifest from the end of `file`, which must be a whole backup.
pub(super) fn manifest(file: &mut (impl Read + Seek)) -> Result<Manifest, BackupError> {
    let length = file.seek(SeekFrom::End(0)).map_err(|error| unread(&error))?;
    let cut = || unsound("the file does not end as a backup does: it is cut off, or no backup");
    let tail_at = length.checked_sub(TAIL_BYTES).ok_or_else(cut)?;
    let tail = read_at(file, tail_at, TAIL_BYTES)?;
    let (hash, rest) = tail.split_at_checked(32).ok_or_else(cut)?;
    let (size, trailer) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let size = u32::from_le_bytes(*size);
    if trailer != TRAILER || size > MANIFEST_BYTES_MAX {
        return Err(cut());
    }
    let begin = tail_at.checked_sub(u64::from(size) + 8).ok_or_else(cut)?;
    let frame = read_at(file, begin, u64::from(size) + 8)?;
    let (head, text) = frame.split_at_checked(8).ok_or_else(cut)?;
    let wanted = [SKIPPABLE.to_le_bytes(), (size + 32 + 4 + 8).to_le_bytes()].concat();
    if head != wanted || Sha256::digest(text).as_slice() != hash {
        return Err(unsound("the manifest at the end of the file is damaged"));
    }
    let manifest: Manifest = serde_json::from_slice(text)
        .map_err(|error| unsound(format!("the manifest cannot be understood: {error}")))?;
    if manifest.frame_bytes != begin {
        return Err(unsound(format!(
            "the manifest tells of {} bytes of rows, and the file has {begin}",
            manifest.frame_bytes
        )));
    }
    if manifest.raw_bytes > manifest.frame_bytes.saturating_mul(RATIO_MAX) {
        return Err(unsound("the manifest tells of more rows than so many bytes can hold"));
    }
    Ok(manifest)
}

fn read_at(file: &mut (impl Read + Seek), at: u64, count: u64) -> Result<Vec<u8>, BackupError> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at)).map_err(|error| unread(&error))?;
    file.by_ref().take(count).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
    Ok(bytes)
}

/// The SHA-256 of the next `count` bytes, in hexadecimal, and how many there were.
pub(super) fn hash(file: &mut impl Read, count: u64) -> Result<(String, u64), BackupError> {
    let mut meter = Metered::new(io::sink());
    io::copy(&mut file.take(count), &mut meter).map_err(|error| unread(&error))?;
    let (_, hash, bytes) = meter.finish();
    Ok((hash, bytes))
}

/// The SHA-256 of a whole file, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub(super) fn sha256(file: &mut (impl Read + Seek)) -> Result<String, BackupError> {
    file.rewind().map_err(|error| unread(&error))?;
    hash(file, u64::MAX).map(|(hash, _)| hash)
}

/// Shows each row of a backup to `visit`, as table, key and value, after its hash was checked. Whatever the bytes,
/// it neither panics nor holds more than one row; and all of what the manifest says holds when it returns it.
pub(super) fn unpack(
    file: &mut (impl Read + Seek),
    mut visit: impl FnMut(&str, &[u8], &[u8]) -> Result<(), BackupError>,
) -> Result<Manifest, BackupError> {
    let manifest = manifest(file)?;
    file.rewind().map_err(|error| unread(&error))?;
    let (found, _) = hash(file, manifest.frame_bytes)?;
    if found != manifest.frame_sha256 {
        return Err(unsound("the rows are damaged: their sha256 is not that of the manifest"));
    }
    file.rewind().map_err(|error| unread(&error))?;
    let frame = BufReader::new(file.take(manifest.frame_bytes));
    let mut frame = zstd::Decoder::with_buffer(frame).map_err(|error| unread(&error))?.single_frame();
    frame.window_log_max(WINDOW_LOG_MAX).map_err(|error| unread(&error))?;
    let mut payload = Payload { from: frame, left: manifest.raw_bytes, at: 0 };
    payload.check(&manifest, &mut visit)?;
    let mut rest = payload.from.finish();
    if !rest.fill_buf().map_err(|error| unread(&error))?.is_empty() {
        return Err(unsound("something follows the rows"));
    }
    Ok(manifest)
}

/// The payload, read within the bounds that the manifest sets.
struct Payload<R> {
    from: R,
    left: u64,
    at: u64,
}

impl<R: Read> Payload<R> {
    fn check(
        &mut self,
        manifest: &Manifest,
        visit: &mut impl FnMut(&str, &[u8], &[u8]) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        if self.bytes(u64::try_from(MAGIC.len()).unwrap_or(u64::MAX))? != MAGIC {
            return Err(unsound("the rows do not begin as those of a backup"));
        }
        if self.u32()? != manifest.schema {
            return Err(unsound("the schema of the rows is not that of the manifest"));
        }
        let mut tables = BTreeMap::new();
        let mut table: Option<(String, u64)> = None;
        let mut last = Vec::new();
        loop {
            match (self.bytes(1)?.first().copied(), &mut table) {
                (Some(END), _) => break,
                (Some(TABLE), _) => {
                    tables.extend(table.take());
                    let name = self.name()?;
                    if tables.contains_key(&name) {
                        return Err(unsound(format!("table {name} is there twice")));
                    }
                    last.clear();
                    table = Some((name, 0));
                }
                (Some(ROW), Some((name, rows))) => {
                    let key = self.sized(KEY_BYTES_MAX)?;
                    if *rows > 0 && key <= last {
                        return Err(unsound(format!("the keys of table {name} do not ascend")));
                    }
                    let value = self.sized(VALUE_BYTES_MAX)?;
                    visit(name, &key, &value)?;
                    *rows += 1;
                    last = key;
                }
                _ => return Err(self.odd("neither a row, a table nor the end")),
            }
        }
        tables.extend(table.take());
        self.check_end(&tables, manifest)
    }

    fn check_end(&mut self, tables: &BTreeMap<String, u64>, manifest: &Manifest) -> Result<(), BackupError> {
        let counted = totals(tables);
        if (self.u32()?, self.u64()?) != counted || *tables != manifest.tables {
            return Err(unsound("the tables do not have as many rows as the manifest says"));
        }
        if self.left > 0 || !matches!(self.from.read(&mut [0]), Ok(0)) {
            return Err(unsound("the rows are not as many bytes as the manifest says"));
        }
        Ok(())
    }

    fn name(&mut self) -> Result<String, BackupError> {
        let length = <[u8; 2]>::try_from(self.bytes(2)?).map(u16::from_le_bytes);
        let length = length.map_err(|_| self.odd("no name of a table"))?;
        let name = self.bytes(u64::from(length.min(NAME_BYTES_MAX)))?;
        String::from_utf8(name).map_err(|_| self.odd("no name of a table"))
    }

    fn sized(&mut self, most: u32) -> Result<Vec<u8>, BackupError> {
        match self.u32()? {
            length if length <= most => self.bytes(u64::from(length)),
            length => Err(self.odd(&format!("something of {length} bytes, more than it may have"))),
        }
    }

    fn u32(&mut self) -> Result<u32, BackupError> {
        let bytes = self.bytes(4)?;
        Ok(<[u8; 4]>::try_from(bytes).map(u32::from_le_bytes).unwrap_or_default())
    }

    fn u64(&mut self) -> Result<u64, BackupError> {
        let bytes = self.bytes(8)?;
        Ok(<[u8; 8]>::try_from(bytes).map(u64::from_le_bytes).unwrap_or_default())
    }

    /// Exactly so many bytes. Memory grows with what is there, not with what is claimed.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, BackupError> {
        if count > self.left {
            return Err(self.odd("the end of what the manifest tells of"));
        }
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(count).read_to_end(&mut bytes);
        read.map_err(|error| self.odd(&format!("bytes that zstd refuses ({error})")))?;
        if u64::try_from(bytes.len()) != Ok(count) {
            return Err(self.odd("the end of the rows, too early"));
        }
        (self.left, self.at) = (self.left - count, self.at + count);
        Ok(bytes)
    }

    fn odd(&self, what: &str) -> BackupError {
        unsound(format!("at byte {} of the rows there is {what}", self.at))
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
