//! Capsules in a folder of this machine, by fjall: a log that is synced, and sorted files that it merges in the background.
//!
//! The folder holds `format`, `process` (who has it) and `data`. After an error of the system the data is opened anew, because
//! nobody knows what of the last write has come to the disk.

use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use bytes::Bytes;
use bytestring::ByteString;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rustix::fs::{Access, access};

use super::reclaim::Reclaim;
use super::{Change, Done, Engine, Key, StoreError, Stored};

/// How keys and folders are laid out.
const FORMAT: u32 = 1;
/// Bytes of the log. What it holds is read at a start, so it bounds how long that takes.
const LOG_BYTES: u64 = 128 << 20;
const CACHE_BYTES: u64 = 32 << 20;
/// Bytes of each kind of entry in memory until they go into a file.
const MEMORY_BYTES: u64 = 16 << 20;
/// How many bytes are written until their size on the disk is looked at again.
const MEASURE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    max_bytes: u64,
    /// `None` after an error, until it is opened anew.
    data: RwLock<Option<Data>>,
    bytes: Arc<AtomicU64>,
    unmeasured: AtomicU64,
    reclaim: Reclaim,
}

/// What is open.
struct Data {
    database: Database,
    /// Capsules, by plugin and topic.
    topics: Keyspace,
    /// When to look at topics, by plugin and topic.
    looks: Keyspace,
    /// Capsules with state of a later version than that of their successors, by plugin, topic and version.
    aside: Keyspace,
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data").finish_non_exhaustive()
    }
}

/// Names of plugins have no zero byte.
fn key_of(plugin: &str, topic: &str) -> Vec<u8> {
    [plugin.as_bytes(), b"\0", topic.as_bytes()].concat()
}

fn encoded(key: &Key) -> Vec<u8> {
    key_of(&key.plugin, &key.topic)
}

/// The key, without the plugin's name.
fn topic_of<'a>(key: &'a [u8], plugin: &str) -> Option<&'a [u8]> {
    key.strip_prefix(plugin.as_bytes())?.strip_prefix(b"\0")
}

fn text(bytes: &[u8]) -> Option<ByteString> {
    Some(ByteString::from(str::from_utf8(bytes).ok()?))
}

/// Whether the folder has the format that is known. One that is new has none.
fn has_format(folder: &Path) -> Result<bool, StoreError> {
    match fs::read_to_string(folder.join("format")) {
        Ok(found) if found.trim().parse() == Ok(FORMAT) => Ok(true),
        Ok(found) => Err(StoreError::Newer {
            folder: folder.to_owned(),
            found: found.trim().to_owned(),
            known: FORMAT,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(StoreError::System {
            place: folder.display().to_string(),
            source,
        }),
    }
}

/// Finds out whether [`Disk::open`] could open the folder, as far as that is seen without a change to it.
pub(super) fn check(folder: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::System {
        place: folder.display().to_string(),
        source,
    };
    has_format(folder)?;
    let there = folder.ancestors().find(|path| path.exists());
    access(there.unwrap_or(folder), Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed(error.into()))?;
    match File::options().read(true).write(true).open(folder.join("data/lock")) {
        Ok(lock) => match lock.try_lock() {
            // It is given back at once.
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(said(folder, fjall::Error::Locked)),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

impl Disk {
    pub(super) fn open(folder: &Path, max_bytes: u64) -> Result<Self, StoreError> {
        let failed = |source| StoreError::System {
            place: folder.display().to_string(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        // What plugins keep is for the server alone.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        if !has_format(folder)? {
            fs::write(folder.join("format"), format!("{FORMAT}\n")).map_err(failed)?;
        }
        let data = Data::open(folder).map_err(|error| said(folder, error))?;
        fs::write(folder.join("process"), std::process::id().to_string()).map_err(failed)?;
        let bytes = data.database.disk_space().map_err(|error| said(folder, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            max_bytes,
            data: RwLock::new(Some(data)),
            bytes: Arc::new(AtomicU64::new(bytes)),
            unmeasured: AtomicU64::new(0),
            reclaim: Reclaim::default(),
        })
    }

    /// The open data. Opens it if it is not.
    fn with<T>(&self, work: impl FnOnce(&Data) -> Result<T, fjall::Error>) -> Result<T, StoreError> {
        let data = self.data.read().expect("no holder panics");
        let data = if data.is_some() { data } else { self.reopened(data)? };
        let Some(open) = &*data else {
            return Err(self.said(fjall::Error::Poisoned));
        };
        work(open).map_err(|error| self.said(error))
    }

    fn reopened<'a>(
        &'a self,
        data: RwLockReadGuard<'a, Option<Data>>,
    ) -> Result<RwLockReadGuard<'a, Option<Data>>, StoreError> {
        drop(data);
        let mut data = self.data.write().expect("no holder panics");
        if data.is_none() {
            *data = Some(Data::open(&self.folder).map_err(|error| self.said(error))?);
        }
        drop(data);
        Ok(self.data.read().expect("no holder panics"))
    }

    fn said(&self, error: fjall::Error) -> StoreError {
        said(&self.folder, error)
    }

    fn measure(&self, data: &Data, written: u64) {
        let unmeasured = self.unmeasured.fetch_add(written, Ordering::Relaxed) + written;
        self.bytes.fetch_add(written, Ordering::Relaxed);
        if unmeasured >= MEASURE_BYTES
            && let Ok(bytes) = data.database.disk_space()
        {
            self.unmeasured.store(0, Ordering::Relaxed);
            self.bytes.store(bytes, Ordering::Relaxed);
        }
    }
}

impl Data {
    fn open(folder: &Path) -> fjall::Result<Self> {
        let database = Database::builder(folder.join("data"))
            .cache_size(CACHE_BYTES)
            .max_journaling_size(LOG_BYTES)
            .worker_threads(2)
            .open()?;
        let keyspace = |name| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default().max_memtable_size(MEMORY_BYTES)
            })
        };
        let (topics, looks, aside) = (keyspace("topics")?, keyspace("looks")?, keyspace("aside")?);
        Ok(Self {
            database,
            topics,
            looks,
            aside,
        })
    }

    fn write(&self, changes: &[&Change]) -> fjall::Result<u64> {
        let mut written = 0;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for change in changes {
            let key = encoded(change.key());
            written += change.bytes() as u64;
            match change {
                Change::Put {
                    capsule,
                    look_unix_ms,
                    set_aside,
                    ..
                } => {
                    if let Some(version) = set_aside
                        && let Some(before) = self.topics.get(&key)?
                    {
                        let aside = [&key[..], &version.to_be_bytes()].concat();
                        batch.insert(&self.aside, aside, before);
                    }
                    batch.insert(&self.topics, key.as_slice(), &capsule[..]);
                    match look_unix_ms {
                        Some(at) => batch.insert(&self.looks, key, at.to_be_bytes()),
                        None => batch.remove(&self.looks, key),
                    }
                }
                Change::Remove { .. } => {
                    for aside in self.aside.prefix(&key) {
                        let (aside, _) = aside.into_inner()?;
                        // Not of a topic whose name begins with this one's.
                        if aside.len() == key.len() + size_of::<u32>() {
                            batch.remove(&self.aside, aside);
                        }
                    }
                    batch.remove(&self.topics, key.as_slice());
                    batch.remove(&self.looks, key);
                }
            }
        }
        batch.commit()?;
        Ok(written)
    }
}

impl Disk {
    /// Makes all of these changes with one sync, or none.
    fn make(&self, changes: &[&Change]) -> Result<(), StoreError> {
        let written = self.with(|data| {
            let written = data.write(changes)?;
            self.measure(data, written);
            if changes.iter().any(|change| matches!(change, Change::Remove { .. })) {
                self.reclaim.forgot();
            }
            Ok(())
        });
        if written.is_err() {
            // Opened anew the next time.
            drop(self.data.write().expect("no holder panics").take());
        }
        written
    }

    /// Why no topic can be stored, if it is as large as it may be. Then it begins to give the space of forgotten topics back.
    fn full(&self) -> Option<StoreError> {
        let (bytes, max_bytes) = (self.bytes(), self.max_bytes);
        (bytes >= max_bytes).then(|| {
            self.give_back();
            StoreError::Full {
                place: self.place(),
                bytes,
                max_bytes,
            }
        })
    }

    fn give_back(&self) {
        let begun = self.with(|data| {
            let keyspaces = [&data.topics, &data.looks, &data.aside].map(Clone::clone);
            self.reclaim.begin(&data.database, keyspaces, &self.bytes);
            Ok(())
        });
        // If it cannot be opened, every write says why.
        drop(begun);
    }
}

impl Engine for Disk {
    fn write(&self, changes: &[Change]) -> Vec<Done> {
        let puts = |change: &Change| matches!(change, Change::Put { .. });
        let full = changes.iter().any(puts).then(|| self.full()).flatten().map(Arc::new);
        // Beyond the bound, topics can still be forgotten.
        let fit = |change: &&Change| full.is_none() || !puts(change);
        let fitting: Vec<_> = changes.iter().filter(fit).collect();
        let made = match fitting.is_empty() {
            true => Ok(()),
            false => self.make(&fitting).map_err(Arc::new),
        };
        let done = |change: &Change| match &full {
            Some(full) if puts(change) => Err(Arc::clone(full)),
            _ => made.clone(),
        };
        changes.iter().map(done).collect()
    }

    fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let found = self.with(|data| data.topics.get(encoded(key)))?;
        Ok(found.map(|capsule| Bytes::copy_from_slice(&capsule)))
    }

    fn page(&self, plugin: &str, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<Stored>, StoreError> {
        let first = key_of(plugin, prefix);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(key_of(plugin, after)),
            _ => Bound::Included(first.clone()),
        };
        self.with(|data| {
            let mut page = Vec::new();
            for found in data.topics.range::<Vec<u8>, _>((from, Bound::Unbounded)).take(most) {
                let (key, capsule) = found.into_inner()?;
                let Some(topic) = topic_of(&key, plugin).filter(|_| key.starts_with(&first)) else {
                    break;
                };
                page.extend(text(topic).map(|topic| Stored {
                    topic,
                    capsule: Bytes::copy_from_slice(&capsule),
                    set_aside: None,
                }));
            }
            for found in data.aside.prefix(&first).take(most) {
                let (key, capsule) = found.into_inner()?;
                let parts = topic_of(&key, plugin).and_then(<[u8]>::split_last_chunk::<4>);
                page.extend(parts.and_then(|(topic, version)| {
                    Some(Stored {
                        topic: text(topic).filter(|topic| after.is_none_or(|after| &**topic > after))?,
                        capsule: Bytes::copy_from_slice(&capsule),
                        set_aside: Some(u32::from_be_bytes(*version)),
                    })
                }));
            }
            page.sort_by(|a, b| a.topic.cmp(&b.topic));
            page.truncate(most);
            Ok(page)
        })
    }

    fn looks(&self) -> Result<Vec<(u64, Key)>, StoreError> {
        self.with(|data| {
            let mut looks = Vec::new();
            for found in data.looks.iter() {
                let (key, at) = found.into_inner()?;
                let middle = key.iter().position(|byte| *byte == 0);
                let parts = middle.and_then(|at| Some((text(&key[..at])?, text(&key[at + 1..])?)));
                if let (Some((plugin, topic)), Ok(at)) = (parts, <[u8; 8]>::try_from(&at[..])) {
                    let plugin = (&*plugin).into();
                    looks.push((u64::from_be_bytes(at), Key { plugin, topic }));
                }
            }
            Ok(looks)
        })
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }
}

/// What an error of the engine means, for people.
fn said(folder: &Path, error: fjall::Error) -> StoreError {
    let (folder, place) = (folder.to_owned(), folder.display().to_string());
    match error {
        fjall::Error::Locked => {
            let process = fs::read_to_string(folder.join("process")).ok();
            StoreError::Locked { folder, process }
        }
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            StoreError::System { place, source }
        }
        // It was told to whoever wrote then, if anybody did: files are also merged in the background.
        fjall::Error::Poisoned => StoreError::System {
            place,
            source: io::Error::other("an earlier write failed, perhaps for want of space; they are opened anew"),
        },
        fjall::Error::InvalidVersion(found) => StoreError::Newer {
            folder,
            found: format!("{found:?}"),
            known: FORMAT,
        },
        other => StoreError::Damaged {
            place,
            why: other.to_string(),
        },
    }
}
