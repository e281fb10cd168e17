//! The format: what is packed comes back, and nothing else is taken for a backup.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

type Tables = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;

fn pack(tables: &Tables) -> Vec<u8> {
    let mut packer = Packer::new(Vec::new(), 1).unwrap();
    for (name, rows) in tables {
        packer.table(name).unwrap();
        rows.iter().for_each(|(key, value)| packer.row(key, value).unwrap());
    }
    packer.finish(Uuid::nil(), UnixMs(0), false).unwrap().0
}

fn read(bytes: &[u8]) -> Result<(Manifest, Tables), BackupError> {
    let mut tables = Tables::new();
    let manifest = unpack(&mut Cursor::new(bytes), |table, key, value| {
        if tables.last().is_none_or(|(name, _)| name != table) {
            tables.push((table.to_owned(), Vec::new()));
        }
        tables.last_mut().unwrap().1.push((key.to_vec(), value.to_vec()));
        Ok(())
    })?;
    Ok((manifest, tables))
}

/// A payload that no packer writes, in a file whose hashes are right.
fn forge(payload: &[u8], change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
    let frame = zstd::encode_all(payload, 1).unwrap();
    let mut manifest = Manifest {
        id: Uuid::nil(),
        created_at: UnixMs(0),
        version: String::new(),
        schema: 1,
        tables: BTreeMap::new(),
        raw_bytes: u64::try_from(payload.len()).unwrap(),
        frame_bytes: u64::try_from(frame.len()).unwrap(),
        frame_sha256: hex(&Sha256::digest(&frame)),
        secrets: false,
    };
    change(&mut manifest);
    [frame, skippable(&manifest).unwrap()].concat()
}

fn sample() -> Tables {
    let row = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
    let large = vec![7; 300_000];
    vec![
        ("a".into(), vec![row(b"", b""), row(b"k", b"v"), row(b"l", &large)]),
        ("b".into(), vec![row(&[0xFF; 16], b"x")]),
    ]
}

#[test]
fn a_backup_is_a_file_of_zstd() {
    let packed = pack(&sample());
    let payload = zstd::decode_all(packed.as_slice()).unwrap();
    assert!(payload.starts_with(MAGIC) && payload.len() > 300_000 && packed.len() < 2_000);
    let (manifest, tables) = read(&packed).unwrap();
    assert_eq!((manifest.raw_bytes, tables), (u64::try_from(payload.len()).unwrap(), sample()));
    assert_eq!(manifest.tables, BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 1)]));
}

#[test]
fn every_flipped_byte_and_every_cut_is_seen() {
    let mut tables = sample();
    tables[0].1.pop();
    let packed = pack(&tables);
    for at in 0..packed.len() {
        let mut flipped = packed.clone();
        flipped[at] ^= 0x10;
        assert!(matches!(read(&flipped), Err(BackupError::Unsound(_))), "byte {at}");
        assert!(matches!(read(&packed[..at]), Err(BackupError::Unsound(_))), "cut at {at}");
    }
    assert!(read(&[packed.as_slice(), b"x"].concat()).is_err());
    assert!(read(&packed).is_ok());
}

#[track_caller]
fn check(payload: &[&[u8]], says: &str) {
    let payload = [MAGIC, &1u32.to_le_bytes(), &payload.concat()].concat();
    match read(&forge(&payload, |_| {})) {
        Err(BackupError::Unsound(why)) => assert!(why.contains(says), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_payload_is_taken_only_as_it_is_written() {
    let end = [&[END][..], &[0; 12]].concat();
    assert!(read(&forge(&[MAGIC, &1u32.to_le_bytes(), &end].concat(), |_| {})).is_ok());
    check(&[], "there is the end of what the manifest tells of");
    check(&[&end, b"x"], "not as many bytes");
    check(&[&[END], &[1; 12]], "as many rows");
    check(&[&[9]], "neither a row");
    check(&[&[ROW, 0, 0, 0, 0, 0, 0, 0, 0]], "neither a row");
    check(&[&[TABLE, 1, 0, b'a', TABLE, 1, 0, b'a', TABLE, 1, 0, b'a']], "twice");
    check(&[&[TABLE, 1, 0, 0xFF]], "no name");
    check(&[&[TABLE, 1, 0, b'a', ROW, 0xFF, 0xFF, 0xFF, 0xFF]], "more than it may have");
    check(&[&[TABLE, 1, 0, b'a', ROW, 0, 0, 0, 0, 0, 0, 0, 1]], "end of what the manifest");
    let twice = [ROW, 1, 0, 0, 0, b'k', 0, 0, 0, 0];
    check(&[&[TABLE, 1, 0, b'a'], &twice, &twice], "do not ascend");
}

#[test]
fn a_manifest_must_fit_its_file() {
    let payload = [MAGIC, &1u32.to_le_bytes(), &[END], &[0; 12]].concat();
    let check = |change: fn(&mut Manifest), says: &str| match read(&forge(&payload, change)) {
        Err(BackupError::Unsound(why)) => assert!(why.contains(says), "{why}"),
        other => panic!("{other:?}"),
    };
    check(|manifest| manifest.schema = 2, "schema");
    check(|manifest| manifest.raw_bytes += 1, "not as many bytes");
    check(|manifest| manifest.raw_bytes -= 1, "at byte");
    check(|manifest| manifest.raw_bytes = u64::MAX, "more rows than");
    check(|manifest| manifest.frame_bytes -= 1, "bytes of rows");
    check(|manifest| manifest.frame_sha256 = hex(&[0; 32]), "sha256");
    check(|manifest| manifest.tables.extend([("a".to_owned(), 0)]), "as many rows");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn any_payload_with_right_hashes_is_read_without_panic(
        payload in prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..200), raw_bytes in any::<u64>(), honest in any::<bool>(),
    ) {
        let payload = [MAGIC, &1u32.to_le_bytes(), &payload].concat();
        let _ = read(&forge(&payload, |manifest| if !honest { manifest.raw_bytes = raw_bytes }));
    }

    #[test]
    fn any_frame_with_right_hashes_is_read_without_panic(frame in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        let frame = if magic { [&[0x28, 0xB5, 0x2F, 0xFD][..], &frame].concat() } else { frame };
        let mut manifest = manifest(&mut Cursor::new(forge(b"", |_| {}))).unwrap();
        (manifest.frame_bytes, manifest.frame_sha256, manifest.raw_bytes) =
            (u64::try_from(frame.len()).unwrap(), hex(&Sha256::digest(&frame)), u64::MAX);
        prop_assert!(read(&[frame, skippable(&manifest).unwrap()].concat()).is_err());
    }

    #[test]
    fn any_rows_come_back(rows in prop::collection::btree_map(
        prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..400), 1..40,
    )) {
        let tables = vec![("t".to_owned(), rows.into_iter().collect::<Vec<_>>())];
        prop_assert_eq!(read(&pack(&tables)).unwrap().1, tables);
    }
}
