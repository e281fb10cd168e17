//! Files of earlier releases, with which some histories begin: what a start has to make of them.

use std::fs;
use std::path::Path;

use redb::Database;
use uuid::Uuid;

use super::disk::Disk;
use super::effects::Values;
use super::found::Found;
use super::setup::SetUp;
use super::world::{Item, Logged, Shelf, World, put};
use crate::store::SCHEMA;
use crate::store::codec::{self, Stored};

/// The file with which the history of a seed begins, and what is in it. Each schema has its turn among seeds that
/// follow each other; every second history begins with no file.
pub(super) fn first_file(seed: u64) -> Option<(Vec<u8>, World)> {
    let turns = u64::from(SCHEMA) * 2;
    (seed % 2 == 1).then(|| fixture(1 + seed % turns / 2))
}

fn fixture(schema: u64) -> (Vec<u8>, World) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let packed = fs::read(fixtures.join(format!("schema-{schema}.redb.zst"))).unwrap();
    let image = zstd::decode_all(packed.as_slice()).unwrap();
    let db = Database::builder().create_with_backend(Disk::plain(image.clone())).unwrap();
    let found = Found::read_any(&db).unwrap();
    (image, world(&found))
}

/// The tables as this release reads them.
fn world(found: &Found) -> World {
    let mut setup = SetUp {
        apps: shelf(&found.apps),
        domains: shelf(&found.domains),
        scripts: shelf(&found.scripts),
        routes: shelf(&found.routes),
        keys: shelf(&found.keys),
        users: shelf(&found.users),
        ..SetUp::default()
    };
    for (key, bytes) in &found.versions {
        setup.versions.insert(*key, Item::new(codec::decode(bytes).unwrap()));
    }
    let log: Vec<_> = found.records().iter().map(|(_, bytes)| Logged::of(bytes).into()).collect();
    World {
        setup,
        outbox: shelf(&found.outbox),
        claimed: found.claimed.clone(),
        letters: shelf(&found.letters),
        log,
        values: Values::of(found),
        ..World::default()
    }
}

fn shelf<T: Stored>(table: &std::collections::BTreeMap<u128, Vec<u8>>) -> Shelf<T> {
    let mut shelf = Shelf::new();
    for (id, bytes) in table {
        put(&mut shelf, Uuid::from_u128(*id), codec::decode(bytes).unwrap());
    }
    shelf
}
