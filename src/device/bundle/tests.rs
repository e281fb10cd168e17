//! Bundles: made, read, and refused, each kind of bad one in its own words.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::device::testing::{Folder, Signer, slot};
use crate::device::{Image, Place};

const BUILD: &str = "2026-11-27T00:00:00Z";

fn image(version: &str, build: &str) -> Value {
    json!({ "compatible": "picloud-test", "version": version, "build": build, "slot_bytes": 1 << 20 })
}

/// A device that runs 1.2.0 and trusts these keys.
fn device(folder: &Folder, keys: &[&Signer]) -> Place {
    folder.file("usr/lib/picloud/image.json", image("1.2.0", BUILD).to_string().as_bytes());
    for (number, key) in keys.iter().enumerate() {
        folder.file(&format!("usr/lib/picloud/update-keys/{number}.pem"), key.public_pem().as_bytes());
    }
    folder.file("usr/lib/picloud/update-keys/README", b"no key");
    folder.place()
}

fn keys(place: &Place) -> Result<Keys, BundleError> {
    Keys::of(&place.path("usr/lib/picloud/update-keys"))
}

fn recipe(folder: &Folder, key: &Signer, version: &str) -> Recipe {
    Recipe {
        slot: folder.file("slot.ext4", &slot(40)),
        image: folder.file("new.json", image(version, BUILD).to_string().as_bytes()),
        key: folder.file("key.pem", key.private_pem().as_bytes()),
        schema: 4,
        min_from: None,
        level: Some(3),
        out: folder.path().join("new.update"),
    }
}

/// Reads a bundle as a device that has schema 4.
fn read_on(place: &Place, bundle: &[u8], force: bool) -> (Result<Manifest, BundleError>, Vec<u8>) {
    let image = Image::here(place).unwrap();
    let mut written = Vec::new();
    let read = read(bundle, &keys(place).unwrap(), |update| image.accept(update, force, 4), &mut written);
    (read, written)
}

/// An archive of these parts.
fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in parts {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(u64::try_from(bytes.len()).unwrap());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The facts of a bundle of `slot(40)`, with some of them changed, and its three parts as bytes.
fn parts(key: &Signer, changes: &Value) -> [Vec<u8>; 3] {
    let system = slot(40);
    let packed = zstd::encode_all(system.as_slice(), 3).unwrap();
    let hash: String = Sha256::digest(&system).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut facts = json!({
        "compatible": "picloud-test", "version": "1.3.0", "build": BUILD, "slot_bytes": system.len(),
        "sha256": hash, "compressed_bytes": packed.len(), "schema": 4, "something_new": true,
    });
    for (name, value) in changes.as_object().unwrap() {
        facts[name] = value.clone();
    }
    let facts = facts.to_string().into_bytes();
    let signature = key.pair().sign(&facts).as_ref().to_vec();
    [facts, signature, packed]
}

fn whole(parts: &[Vec<u8>; 3]) -> Vec<u8> {
    archive(&[("manifest.json", &parts[0]), ("manifest.sig", &parts[1]), ("slot.ext4.zst", &parts[2])])
}

/// What a device of 1.2.0 says to a bundle.
#[track_caller]
fn refused(place: &Place, bundle: &[u8], says: &str) {
    let (read, written) = read_on(place, bundle, false);
    let why = read.expect_err(says).to_string();
    assert!(why.contains(says), "{why:?} does not say {says:?}");
    assert!(written.len() <= 40 * 4096, "more was written than a slot has");
}

#[test]
fn what_is_made_is_read_and_the_same_recipe_gives_the_same_bytes() {
    let (folder, key) = (Folder::new(), Signer::new());
    let place = device(&folder, &[&key]);
    let made = recipe(&folder, &key, "1.3.0").make().unwrap();
    let bundle = fs::read(folder.path().join("new.update")).unwrap();
    assert_eq!((made.slot_bytes, made.schema, made.version.as_str()), (40 * 4096, 4, "1.3.0"));
    let (read, written) = read_on(&place, &bundle, false);
    assert_eq!(read.unwrap(), made);
    assert!(written == slot(40));
    recipe(&folder, &key, "1.3.0").make().unwrap();
    assert!(fs::read(folder.path().join("new.update")).unwrap() == bundle);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("new.update.")), "{left:?}");
}

#[test]
fn any_of_the_keys_may_have_signed() {
    let (folder, now, next, other) = (Folder::new(), Signer::new(), Signer::new(), Signer::new());
    let place = device(&folder, &[&now, &next]);
    for key in [&now, &next] {
        read_on(&place, &whole(&parts(key, &json!({}))), false).0.unwrap();
    }
    refused(&place, &whole(&parts(&other, &json!({}))), "not signed by any of the 2 keys");
}

#[test]
fn a_device_without_sound_keys_takes_nothing() {
    let folder = Folder::new();
    let place = device(&folder, &[]);
    assert!(keys(&place).unwrap_err().to_string().contains("holds no *.pem"));
    folder.file("usr/lib/picloud/update-keys/a.pem", Signer::new().private_pem().as_bytes());
    assert!(keys(&place).unwrap_err().to_string().contains("a.pem holds no Ed25519 public key"));
    assert!(keys(&Folder::new().place()).is_err());
}

#[test]
fn each_kind_of_bad_bundle_has_its_own_answer() {
    let (folder, key) = (Folder::new(), Signer::new());
    let place = device(&folder, &[&key]);
    let good = parts(&key, &json!({}));
    let [facts, signature, system] = &good;
    let (m, s, z) = ("manifest.json", "manifest.sig", "slot.ext4.zst");
    let changed = |part: usize, at: usize| {
        let mut parts = good.clone();
        parts[part][at] ^= 1;
        whole(&parts)
    };
    let with = |changes: Value| whole(&parts(&key, &changes));
    let more = [whole(&good), b"more".to_vec()].concat();
    let zeros = [whole(&good), vec![0; 1 << 20]].concat();
    let twice = archive(&[(m, facts), (s, signature), (z, system), ("more", b"x")]);
    let two_frames = [system.as_slice(), &zstd::encode_all(&b"more"[..], 1).unwrap()].concat();
    let longer = [system.as_slice(), b"more"].concat();
    for (bundle, says) in [
        (Vec::new(), "no tar archive"),
        (b"PK\x03\x04 a zip file".repeat(100), "no tar archive"),
        (vec![0; 4096], "no tar archive"),
        (archive(&[("other", b"x")]), "no tar archive that begins with manifest.json"),
        (archive(&[(z, system), (m, facts), (s, signature)]), "begins with manifest.json"),
        (archive(&[(m, facts)]), "not signed: manifest.sig does not follow"),
        (archive(&[(m, facts), (z, system)]), "not signed: manifest.sig does not follow"),
        (
            archive(&[(m, facts), (s, &signature[1..]), (z, system)]),
            "manifest.sig of the update has 63 bytes",
        ),
        (archive(&[(m, &vec![b' '; 65537]), (s, signature)]), "manifest.json of the update has 65537 bytes"),
        (archive(&[(m, b""), (s, signature)]), "manifest.json of the update has 0 bytes"),
        (changed(0, 5), "not signed by any of the 1 keys"),
        (changed(1, 5), "not signed by any of the 1 keys"),
        (archive(&[(m, facts), (s, signature)]), "cut off in slot.ext4.zst"),
        (
            archive(&[(m, facts), (s, signature), ("slot.zip", system)]),
            "has \"slot.zip\" where slot.ext4.zst",
        ),
        (with(json!({ "compatible": "toaster" })), "for toaster, and this device is picloud-test"),
        (with(json!({ "version": "1.1.9" })), "1.1.9 (2026-11-27T00:00:00Z), which is older than 1.2.0"),
        (with(json!({ "version": "1.2.0" })), "is what runs already"),
        (with(json!({ "version": "1.2.0", "build": "2026-11-26T00:00:00Z" })), "older than 1.2.0"),
        (with(json!({ "version": "1.2.0-rc.1" })), "older than 1.2.0"),
        (with(json!({ "min_from": "1.2.1" })), "install 1.2.1 first"),
        (with(json!({ "schema": 3 })), "schema 3, and here they have 4"),
        (
            with(json!({ "slot_bytes": 2 << 20 })),
            "a system of 2097152 bytes, and a slot of this device has room for 1048576",
        ),
        (with(json!({ "slot_bytes": 4097 })), "no multiple of 4096"),
        (with(json!({ "version": "new" })), "\"new\" is no version"),
        (with(json!({ "build": "today" })), "build \"today\""),
        (with(json!({ "sha256": "x" })), "not 64 hexadecimal digits"),
        (with(json!({ "schema": "four" })), "does not understand"),
        (with(json!({ "compressed_bytes": 5 })), "slot.ext4.zst of the update has"),
        (with(json!({ "slot_bytes": 39 * 4096 })), "must have 159744 unpacked"),
        (with(json!({ "slot_bytes": 41 * 4096 })), "must have 167936 unpacked"),
        (with(json!({ "sha256": "0".repeat(64) })), "SHA-256 is not the one that was signed"),
        (changed(2, system.len() / 2), "damaged"),
        (changed(2, 0), "damaged"),
        (more, "goes on after its end"),
        (zeros, "goes on after its end"),
        (twice, "goes on after its end"),
    ] {
        refused(&place, &bundle, says);
    }
    for packed in [two_frames, longer] {
        let mut parts = parts(&key, &json!({ "compressed_bytes": packed.len() }));
        parts[2] = packed;
        let why = read_on(&place, &whole(&parts), false).0.unwrap_err().to_string();
        assert!(why.contains("slot.ext4.zst"), "{why}");
    }
}

#[test]
fn force_goes_back_but_not_to_what_cannot_be() {
    let (folder, key) = (Folder::new(), Signer::new());
    let place = device(&folder, &[&key]);
    for (changes, may) in [
        (json!({ "version": "1.1.0" }), true),
        (json!({ "version": "1.2.0" }), true),
        (json!({ "version": "1.1.0", "schema": 3 }), false),
        (json!({ "compatible": "toaster" }), false),
        (json!({ "min_from": "2.0.0" }), false),
    ] {
        let (read, _) = read_on(&place, &whole(&parts(&key, &changes)), true);
        assert_eq!(read.is_ok(), may, "{changes}");
    }
}

#[test]
fn a_frame_that_needs_much_memory_is_refused() {
    let (folder, key) = (Folder::new(), Signer::new());
    let place = device(&folder, &[&key]);
    let mut parts = parts(&key, &json!({}));
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &slot(40)).unwrap();
    parts[2] = encoder.finish().unwrap();
    let mut facts: Value = serde_json::from_slice(&parts[0]).unwrap();
    facts["compressed_bytes"] = parts[2].len().into();
    parts[0] = facts.to_string().into_bytes();
    parts[1] = key.pair().sign(&parts[0]).as_ref().to_vec();
    refused(&place, &whole(&parts), "memory");
}

#[test]
fn a_recipe_that_no_device_would_take_is_not_cooked() {
    let (folder, key) = (Folder::new(), Signer::new());
    let good = || recipe(&folder, &key, "1.3.0");
    let odd = folder.file("odd", &[1; 5000]);
    let large = folder.file("large", &vec![0; 2 << 20]);
    let nothing = folder.path().join("nothing");
    for (recipe, says) in [
        (Recipe { slot: odd, ..good() }, "5000 bytes are no multiple of 4096"),
        (Recipe { slot: large, ..good() }, "no multiple of 4096 up to 1048576"),
        (Recipe { slot: nothing.clone(), ..good() }, "nothing"),
        (
            Recipe { key: folder.file("public.pem", key.public_pem().as_bytes()), ..good() },
            "no private key in PEM",
        ),
        (Recipe { min_from: Some("old".into()), ..good() }, "\"old\" is no version"),
        (Recipe { image: folder.file("bad.json", b"{}"), ..good() }, "bad.json"),
    ] {
        let why = recipe.make().unwrap_err().to_string();
        assert!(why.contains(says), "{why:?} does not say {says:?}");
        assert!(!folder.path().join("new.update").exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Wherever it is cut off, it is refused; behind a cut in its last zeros it has nothing to lose.
    #[test]
    fn a_bundle_that_is_cut_off_is_refused(share: prop::sample::Index) {
        let (folder, key) = (Folder::new(), Signer::new());
        let place = device(&folder, &[&key]);
        let parts = parts(&key, &json!({}));
        let bundle = whole(&parts);
        let whole_parts = bundle.len() - 1024;
        let cut = share.index(whole_parts + 512);
        let (read, _) = read_on(&place, &bundle[..cut], false);
        prop_assert!(read.is_err(), "cut at {}", cut);
    }

    /// No byte of it can be changed unnoticed, but in headers and padding, which carry nothing.
    #[test]
    fn what_is_read_well_is_what_was_signed(at: prop::sample::Index, bit in 0..8_u32) {
        let (folder, key) = (Folder::new(), Signer::new());
        let place = device(&folder, &[&key]);
        let mut bundle = whole(&parts(&key, &json!({})));
        let at = at.index(bundle.len());
        bundle[at] ^= 1 << bit;
        let (read, written) = read_on(&place, &bundle, false);
        prop_assert!(read.is_err() || written == slot(40));
    }
}
