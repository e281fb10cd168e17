//! Certificates that the operator brought: uploaded ones, kept here, and files elsewhere, which are watched.
//!
//! A file that becomes bad changes nothing: what was read from it before is served on, and its error is shown.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Error;
use super::authority::Clock;
use super::certificate::{Facts, Pair, Unfit, hex};
use super::files;
use super::foundry::{Foundry, Served};

/// Uploaded certificates.
const UPLOADS_MAX: usize = 200;
/// What a directory may call its two files: as certbot does, and as Kubernetes.
const IN_DIRECTORY: [(&str, &str); 2] = [("fullchain.pem", "privkey.pem"), ("tls.crt", "tls.key")];

/// All of them.
pub(super) struct Own {
    directory: PathBuf,
    outside: Vec<PathBuf>,
    table: ArcSwap<Table>,
    /// Who changes the table.
    desk: Mutex<()>,
}

#[derive(Default)]
struct Table {
    items: Vec<Arc<Item>>,
    exact: HashMap<String, Arc<Served>>,
    wildcard: HashMap<String, Arc<Served>>,
}

/// One of them.
#[derive(Clone)]
pub(super) struct Item {
    /// Names it in the management API.
    pub(super) id: String,
    /// Where it is, if not uploaded.
    pub(super) file: Option<PathBuf>,
    /// What is served of it.
    pub(super) served: Option<Arc<Served>>,
    /// Why what is there now is not served.
    pub(super) error: Option<String>,
    stamp: Stamp,
}

/// Tells whether files changed: inode, length and time of each.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

impl Own {
    /// Reads what is there.
    pub(super) fn open(
        directory: PathBuf,
        outside: Vec<PathBuf>,
        foundry: &Foundry,
        clock: Clock,
    ) -> Result<Own, Error> {
        files::make_directory(&directory)
            .map_err(|error| Error::Directory { path: directory.clone(), why: error.to_string() })?;
        let own = Own { directory, outside, table: ArcSwap::default(), desk: Mutex::default() };
        let mut items = Vec::new();
        for path in own.uploads() {
            let id = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            // Its time was looked at when it came; that it expired since does not take it away.
            items.push(Arc::new(read(id, std::slice::from_ref(&path), None, None, foundry)));
        }
        let outside = own.outside.iter().map(|path| Arc::new(Item::outside(path, None, foundry, clock)));
        items.extend(outside);
        for item in &items {
            if let Some(error) = &item.error {
                let path = item.file.clone().unwrap_or_else(|| own.path(&item.id));
                tracing::error!("the certificate in {} is not served: {error}", path.display());
            }
        }
        own.table.store(Arc::new(Table::of(items)));
        Ok(own)
    }

    fn uploads(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "pem"))
            .collect();
        paths.sort();
        paths
    }

    /// The certificate that covers a host, in lower case; of several the one that is valid longest.
    pub(super) fn find(&self, host: &str) -> Option<Arc<Served>> {
        let table = self.table.load();
        let parent = || host.find('.').and_then(|dot| table.wildcard.get(&host[dot..]));
        table.exact.get(host).or_else(parent).cloned()
    }

    /// All of them.
    pub(super) fn items(&self) -> Vec<Arc<Item>> {
        self.table.load().items.clone()
    }

    /// Takes an uploaded one in. Those for the same hosts that end earlier go.
    pub(super) fn add(
        &self,
        pem: &[u8],
        foundry: &Foundry,
        clock: Clock,
        is_welcome: impl FnOnce(&Facts) -> Result<(), String>,
    ) -> Result<Arc<Item>, NotAdded> {
        let pair = Pair::read(pem).map_err(NotAdded::Unfit)?;
        let facts = pair.check(clock.is_good.then_some(clock.now)).map_err(NotAdded::Unfit)?;
        is_welcome(&facts).map_err(NotAdded::Unwelcome)?;
        let served = Arc::new(foundry.serve(&pair).map_err(NotAdded::Unfit)?);
        let _desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut items = self.items();
        let replaced = |item: &Arc<Item>| {
            let older = item.served.as_ref().is_some_and(|old| {
                old.facts.not_after <= facts.not_after
                    && old.facts.names.iter().all(|name| facts.names.contains(name))
            });
            item.file.is_none() && older
        };
        let gone: Vec<Arc<Item>> = items.iter().filter(|item| replaced(item)).cloned().collect();
        let uploads = items.iter().filter(|item| item.file.is_none()).count();
        if uploads - gone.len() >= UPLOADS_MAX {
            return Err(NotAdded::Full);
        }
        let id = facts.fingerprint[..16].to_owned();
        let path = self.path(&id);
        files::write(&path, pem).map_err(|error| NotAdded::Card(format!("{}: {error}", path.display())))?;
        items.retain(|item| !gone.iter().any(|old| Arc::ptr_eq(old, item)));
        let item = Arc::new(Item { id, file: None, served: Some(served), error: None, stamp: Vec::new() });
        items.push(item.clone());
        self.table.store(Arc::new(Table::of(items)));
        for old in gone.iter().filter(|old| old.id != item.id) {
            // One that stays is served again after the next start, and is older than this one.
            if let Err(error) = files::remove(&self.path(&old.id)) {
                tracing::warn!(%error, id = old.id, "a certificate that was replaced could not be removed");
            }
        }
        Ok(item)
    }

    /// Removes an uploaded one.
    pub(super) fn remove(&self, id: &str) -> Result<(), NotRemoved> {
        let _desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut items = self.items();
        let at = items.iter().position(|item| item.id == id).ok_or(NotRemoved::Unknown)?;
        if let Some(file) = &items[at].file {
            return Err(NotRemoved::Outside(file.clone()));
        }
        let path = self.path(id);
        files::remove(&path).map_err(|error| NotRemoved::Card(format!("{}: {error}", path.display())))?;
        items.remove(at);
        self.table.store(Arc::new(Table::of(items)));
        Ok(())
    }

    /// Looks at the files elsewhere, and reads those that changed.
    pub(super) fn look(&self, foundry: &Foundry, clock: Clock) {
        let _desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut items = self.items();
        let mut changed = false;
        for item in &mut items {
            let Some(path) = item.file.clone() else { continue };
            // One that was bad may have become good without a change: its time has come, or the clock is right now.
            if stamp(&sources(&path)) == item.stamp && item.error.is_none() {
                continue;
            }
            let now = Item::outside(&path, item.served.clone(), foundry, clock);
            if now.error == item.error && now.stamp == item.stamp {
                continue;
            }
            match &now.error {
                None => tracing::info!("the certificate in {} was read anew", path.display()),
                Some(error) => {
                    tracing::error!("the certificate in {} is not served: {error}", path.display())
                }
            }
            *item = Arc::new(now);
            changed = true;
        }
        if changed {
            self.table.store(Arc::new(Table::of(items)));
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.pem"))
    }
}

/// Why an upload was not taken.
#[derive(Debug)]
pub(in crate::http) enum NotAdded {
    Unfit(Unfit),
    Unwelcome(String),
    Full,
    Card(String),
}

/// Why one was not removed.
#[derive(Debug)]
pub(in crate::http) enum NotRemoved {
    Unknown,
    Outside(PathBuf),
    Card(String),
}

impl Item {
    /// What is in a file elsewhere, or a directory; what was there before is served on if it is bad.
    fn outside(path: &Path, before: Option<Arc<Served>>, foundry: &Foundry, clock: Clock) -> Item {
        let sources = sources(path);
        let clock = clock.is_good.then_some(clock);
        let mut item = read(id_of(path), &sources, clock, Some(path), foundry);
        item.served = item.served.or(before);
        item
    }
}

/// An id that fits into a URL, and stays while the path does.
fn id_of(path: &Path) -> String {
    hex(&Sha256::digest(path.as_os_str().as_bytes())[..8])
}

/// The files that a path stands for.
fn sources(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let pairs = IN_DIRECTORY.map(|(chain, key)| [path.join(chain), path.join(key)]);
    let [first, second] = pairs;
    if !first[0].exists() && second[0].exists() { second.into() } else { first.into() }
}

fn read(
    id: String,
    sources: &[PathBuf],
    clock: Option<Clock>,
    file: Option<&Path>,
    foundry: &Foundry,
) -> Item {
    // Before the content: what changes in between is seen the next time.
    let stamp = stamp(sources);
    let served = load(sources, clock, foundry);
    let (served, error) = match served {
        Ok(served) => (Some(Arc::new(served)), None),
        Err(why) => (None, Some(why)),
    };
    Item { id, file: file.map(Path::to_owned), served, error, stamp }
}

fn load(sources: &[PathBuf], clock: Option<Clock>, foundry: &Foundry) -> Result<Served, String> {
    let mut text = Zeroizing::new(Vec::with_capacity(2 * files::FILE_BYTES_MAX + 2));
    for path in sources {
        let named = |why: String| format!("{}: {why}", path.display());
        let part = files::read(path).map_err(|error| named(error.to_string()))?;
        text.extend_from_slice(&part.ok_or_else(|| named("there is no such file".into()))?);
        text.push(b'\n');
    }
    let said = |unfit: Unfit| unfit.to_string();
    let pair = Pair::read(&text).map_err(said)?;
    pair.check(clock.map(|clock| clock.now)).map_err(said)?;
    foundry.serve(&pair).map_err(said)
}

fn stamp(sources: &[PathBuf]) -> Stamp {
    let one = |path: &PathBuf| {
        fs::metadata(path).ok().map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    };
    sources.iter().map(one).collect()
}

impl Table {
    fn of(items: Vec<Arc<Item>>) -> Table {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for served in items.iter().filter_map(|item| item.served.as_ref()) {
            for name in &served.facts.names {
                let (map, key) = match name.strip_prefix('*') {
                    Some(suffix) => (&mut wildcard, suffix),
                    None => (&mut exact, name.as_str()),
                };
                let longer = |old: &Arc<Served>| served.facts.not_after > old.facts.not_after;
                if map.get(key).is_none_or(longer) {
                    map.insert(key.to_owned(), served.clone());
                }
            }
        }
        Table { items, exact, wildcard }
    }
}
