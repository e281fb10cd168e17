//! Making a bundle, for whoever builds images. The same slot, facts and key give the same bytes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tar::{Builder, Header};
use zstd::stream::write::Encoder;

use super::read::{BLOCK_BYTES, MANIFEST, SIGNATURE, SLOT, hex};
use super::{BundleError, Manifest, keys};
use crate::device::Image;

/// Slow to pack and quick to unpack; needs 8 MiB to be unpacked.
const LEVEL: i32 = 19;
const PART_BYTES: usize = 1024 * 1024;

/// Why a bundle was not made.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Unmade {
    what: String,
    why: String,
}

fn unmade(what: &Path) -> impl Fn(io::Error) -> Unmade {
    let what = what.display().to_string();
    move |why| Unmade { what: what.clone(), why: why.to_string() }
}

/// What to make a bundle of.
#[derive(Debug)]
pub struct Recipe {
    /// The file system of the slot.
    pub slot: PathBuf,
    /// What image it is: the `image.json` in it.
    pub image: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The schema that it keeps its data in.
    pub schema: u32,
    /// The oldest version that it may follow.
    pub min_from: Option<String>,
    /// How hard to pack.
    pub level: Option<i32>,
    /// The bundle.
    pub out: PathBuf,
}

impl Recipe {
    /// Makes it. The file is there as a whole or not at all.
    ///
    /// # Errors
    /// What is wrong with the recipe, or with a file.
    pub fn make(&self) -> Result<Manifest, BundleError> {
        let wrong = |what: &Path, why: String| Unmade { what: what.display().to_string(), why };
        let image = Image::of(&self.image).map_err(|why| wrong(&self.image, why.to_string()))?;
        let key = keys::private_key(&self.key).map_err(|why| wrong(&self.key, why))?;
        let mut slot = File::open(&self.slot).map_err(unmade(&self.slot))?;
        let slot_bytes = slot.metadata().map_err(unmade(&self.slot))?.len();
        if slot_bytes == 0 || !slot_bytes.is_multiple_of(BLOCK_BYTES) || slot_bytes > image.slot_bytes {
            let why =
                format!("{slot_bytes} bytes are no multiple of {BLOCK_BYTES} up to {}", image.slot_bytes);
            return Err(wrong(&self.slot, why).into());
        }
        let partial = |end: &str| self.out.with_added_extension(end);
        let (packed_path, partial_path) = (partial("slot"), partial("partial"));
        let packed = File::options().read(true).write(true).create(true).truncate(true).open(&packed_path);
        let mut packed = packed.map_err(unmade(&packed_path))?;
        // It is only needed while it is open.
        fs::remove_file(&packed_path).map_err(unmade(&packed_path))?;
        let sha256 = self.pack(&mut slot, slot_bytes, &packed).map_err(unmade(&self.slot))?;
        let compressed_bytes = packed.seek(SeekFrom::End(0)).map_err(unmade(&packed_path))?;
        let manifest = Manifest {
            compatible: image.compatible,
            version: image.version,
            build: image.build,
            min_from: self.min_from.clone(),
            slot_bytes,
            sha256,
            compressed_bytes,
            schema: self.schema,
        };
        let mut facts =
            serde_json::to_vec_pretty(&manifest).map_err(|why| wrong(&self.out, why.to_string()))?;
        facts.push(b'\n');
        // What a device would refuse is not made.
        super::read::parse(&facts)?;
        let signature = key.sign(&facts);
        let written = File::create(&partial_path).and_then(|file| {
            let mut archive = Builder::new(file);
            archive.append(&header(MANIFEST, facts.len())?, facts.as_slice())?;
            archive.append(&header(SIGNATURE, signature.as_ref().len())?, signature.as_ref())?;
            packed.rewind()?;
            archive.append(&header(SLOT, compressed_bytes)?, &mut packed)?;
            archive.into_inner()?.sync_all()?;
            fs::rename(&partial_path, &self.out)
        });
        if written.is_err() {
            // It may not have been made.
            let _ = fs::remove_file(&partial_path);
        }
        written.map_err(unmade(&self.out))?;
        Ok(manifest)
    }

    /// Packs the slot and gives its hash.
    fn pack(&self, slot: &mut File, bytes: u64, packed: &File) -> io::Result<String> {
        let mut encoder = Encoder::new(packed, self.level.unwrap_or(LEVEL))?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(bytes))?;
        let (mut hash, mut part) = (Sha256::new(), vec![0; PART_BYTES]);
        loop {
            let count = slot.read(&mut part)?;
            if count == 0 {
                break;
            }
            hash.update(&part[..count]);
            encoder.write_all(&part[..count])?;
        }
        encoder.finish()?;
        Ok(hex(&hash.finalize()))
    }
}

/// Nobody's file of no time, so that nothing of the machine that made it shows.
fn header(name: &str, bytes: impl TryInto<u64>) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes.try_into().map_err(|_| io::ErrorKind::FileTooLarge)?);
    header.set_mode(0o644);
    header.set_cksum();
    Ok(header)
}
