//! Reading a bundle as it streams by: nothing of it is believed before its signature was checked.

use std::io::{self, BufReader, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};
use zstd::stream::read::Decoder;

use super::{BundleError, Keys};

/// The facts of an update; first in the archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// The signature of exactly the bytes of the facts; second.
pub(super) const SIGNATURE: &str = "manifest.sig";
/// The system, compressed; last.
pub(super) const SLOT: &str = "slot.ext4.zst";
/// Most bytes of the facts.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
const SIGNATURE_BYTES: u64 = 64;
/// A slot is written by blocks of its file system.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Zeros behind an archive: tar(1) fills its last record of 10 KiB, others more.
const END_BYTES_MAX: u64 = 64 * 1024;
/// Frames that need more memory than 2^24 bytes are refused: the smallest board has 512 MiB for everything.
const WINDOW_LOG_MAX: u32 = 24;
const PART_BYTES: usize = 256 * 1024;

/// What an update says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The kind of device that it is for.
    pub compatible: String,
    /// Its version (semver.org).
    pub version: String,
    /// When its image was built, RFC 3339: of two of one version the later is newer.
    pub build: String,
    /// The oldest version that it may follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_from: Option<String>,
    /// Bytes of the system as it is written.
    pub slot_bytes: u64,
    /// SHA-256 of the system as it is written, in hexadecimal.
    pub sha256: String,
    /// Bytes of the system in the archive.
    pub compressed_bytes: u64,
    /// The schema that it keeps its data in.
    pub schema: u32,
}

impl Manifest {
    /// The version and the build, for people.
    pub fn name(&self) -> String {
        format!("{} ({})", self.version, self.build)
    }
}

/// Reads a bundle from its first byte to its last. `accept` decides on the facts once they are known to be signed;
/// then the system goes into `slot`, unpacked and in order, and what went there is what was signed if this
/// returns well.
///
/// # Errors
/// What is wrong with it, or what `accept` says.
pub fn read(
    bundle: impl Read,
    keys: &Keys,
    accept: impl FnOnce(&Manifest) -> Result<(), BundleError>,
    slot: &mut dyn Write,
) -> Result<Manifest, BundleError> {
    let mut archive = Archive::new(BufReader::with_capacity(PART_BYTES, bundle));
    // Raw: the names are known and short, so there is nothing that could say how long a name is.
    let mut entries = archive.entries().map_err(BundleError::Read)?.raw(true);
    let mut facts = match entries.next() {
        Some(Ok(entry)) if is(&entry, MANIFEST) => entry,
        Some(Err(why)) if why.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(BundleError::Truncated(MANIFEST));
        }
        // The library's words for what is no header are an error of the kind `Other`.
        Some(Err(why)) if why.raw_os_error().is_some() => return Err(BundleError::Read(why)),
        _ => return Err(BundleError::NotATar),
    };
    let facts = whole(&mut facts, MANIFEST, 1..=MANIFEST_BYTES_MAX)?;
    let mut signature = match next(&mut entries, SIGNATURE)? {
        Some(entry) if is(&entry, SIGNATURE) => entry,
        _ => return Err(BundleError::Unsigned),
    };
    let signature = whole(&mut signature, SIGNATURE, SIGNATURE_BYTES..=SIGNATURE_BYTES)?;
    keys.check(&facts, &signature)?;
    let manifest = parse(&facts)?;
    accept(&manifest)?;
    match next(&mut entries, SLOT)? {
        Some(mut entry) if is(&entry, SLOT) => unpack(&mut entry, &manifest, slot)?,
        Some(entry) => return Err(BundleError::Order { wanted: SLOT, found: name(&entry) }),
        None => return Err(BundleError::Truncated(SLOT)),
    }
    if next(&mut entries, "its end")?.is_some() {
        return Err(BundleError::TrailingGarbage);
    }
    end(archive.into_inner())?;
    Ok(manifest)
}

/// The facts alone, from a file that was checked before.
pub(super) fn parse(facts: &[u8]) -> Result<Manifest, BundleError> {
    let bad = |why: String| BundleError::Manifest(why);
    let manifest: Manifest = serde_json::from_slice(facts).map_err(|why| bad(why.to_string()))?;
    for version in [Some(&manifest.version), manifest.min_from.as_ref()].into_iter().flatten() {
        semver::Version::parse(version).map_err(|why| bad(format!("{version:?} is no version: {why}")))?;
    }
    let build = &manifest.build;
    build.parse::<jiff::Timestamp>().map_err(|why| bad(format!("build {build:?}: {why}")))?;
    if manifest.sha256.len() != 64 || !manifest.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad("sha256 is not 64 hexadecimal digits".into()));
    }
    if manifest.slot_bytes == 0 || !manifest.slot_bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(bad(format!("slot_bytes {} is no multiple of {BLOCK_BYTES}", manifest.slot_bytes)));
    }
    Ok(manifest)
}

fn is<R: Read>(entry: &Entry<'_, R>, name: &str) -> bool {
    entry.header().entry_type() == EntryType::Regular && *entry.path_bytes() == *name.as_bytes()
}

fn name<R: Read>(entry: &Entry<'_, R>) -> String {
    String::from_utf8_lossy(&entry.path_bytes()).chars().take(100).collect()
}

/// The next part, which begins with a header of its own.
fn next<'a, R: Read>(
    entries: &mut tar::Entries<'a, R>,
    wanted: &'static str,
) -> Result<Option<Entry<'a, R>>, BundleError> {
    match entries.next() {
        None => Ok(None),
        Some(Ok(entry)) => Ok(Some(entry)),
        Some(Err(why)) if why.kind() == io::ErrorKind::UnexpectedEof => Err(BundleError::Truncated(wanted)),
        Some(Err(why)) if why.raw_os_error().is_some() => Err(BundleError::Read(why)),
        // The library's words for an end inside of a part, and inside of a header.
        Some(Err(why)) if why.to_string().contains("EOF") || why.to_string().contains("entire block") => {
            Err(BundleError::Truncated(wanted))
        }
        Some(Err(why)) => Err(BundleError::Order { wanted, found: why.to_string() }),
    }
}

/// A small part. Its size is looked at before any of it is read.
fn whole<R: Read>(
    entry: &mut Entry<'_, R>,
    part: &'static str,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<Vec<u8>, BundleError> {
    let bytes = entry.size();
    if !allowed.contains(&bytes) {
        let wanted = match allowed.start() == allowed.end() {
            true => format!("must have {}", allowed.end()),
            false => format!("may have {} to {}", allowed.start(), allowed.end()),
        };
        return Err(BundleError::Size { part, bytes, wanted });
    }
    let mut read = Vec::new();
    entry.read_to_end(&mut read).map_err(|why| unread(why, part))?;
    if u64::try_from(read.len()) == Ok(bytes) { Ok(read) } else { Err(BundleError::Truncated(part)) }
}

fn unread(why: io::Error, part: &'static str) -> BundleError {
    match why.kind() {
        io::ErrorKind::UnexpectedEof => BundleError::Truncated(part),
        _ if why.raw_os_error().is_some() => BundleError::Read(why),
        _ => BundleError::Damaged(why.to_string()),
    }
}

fn unpack<R: Read>(
    entry: &mut Entry<'_, R>,
    manifest: &Manifest,
    slot: &mut dyn Write,
) -> Result<(), BundleError> {
    let (bytes, wanted) = (entry.size(), manifest.compressed_bytes);
    if bytes != wanted {
        return Err(BundleError::Size { part: SLOT, bytes, wanted: format!("must have {wanted}") });
    }
    inflate(entry, manifest, slot)
}

fn inflate(packed: &mut dyn Read, manifest: &Manifest, slot: &mut dyn Write) -> Result<(), BundleError> {
    let mut decoder = Decoder::new(packed).map_err(BundleError::Read)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(BundleError::Read)?;
    let (mut hash, mut seen) = (Sha256::new(), 0_u64);
    let mut part = vec![0; PART_BYTES];
    loop {
        let count = decoder.read(&mut part).map_err(|why| unread(why, SLOT))?;
        seen += u64::try_from(count).unwrap_or(u64::MAX);
        if seen > manifest.slot_bytes || (count == 0 && seen < manifest.slot_bytes) {
            let wanted = format!("must have {} unpacked", manifest.slot_bytes);
            return Err(BundleError::Size { part: SLOT, bytes: seen, wanted });
        }
        if count == 0 {
            break;
        }
        hash.update(&part[..count]);
        slot.write_all(&part[..count]).map_err(BundleError::Write)?;
    }
    slot.flush().map_err(BundleError::Write)?;
    let found = hex(&hash.finalize());
    if found == manifest.sha256.to_ascii_lowercase() { Ok(()) } else { Err(BundleError::WrongHash) }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Behind the last part there are zeros and nothing else.
fn end(mut rest: impl Read) -> Result<(), BundleError> {
    let mut zeros = Vec::new();
    rest.by_ref().take(END_BYTES_MAX + 1).read_to_end(&mut zeros).map_err(BundleError::Read)?;
    let count = u64::try_from(zeros.len()).unwrap_or(u64::MAX);
    if count > END_BYTES_MAX || zeros.iter().any(|byte| *byte != 0) {
        return Err(BundleError::TrailingGarbage);
    }
    // The library has read the first of the two blocks of zeros that end an archive (POSIX.1, pax).
    if count < 512 { Err(BundleError::Truncated("its end")) } else { Ok(()) }
}
