//! The thread that writes: it makes all changes that have been queued meanwhile with one sync.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use super::{Change, Done, Inner, StoreError};
use crate::runtime::threads::fault;

/// Changes of one sync take at most so many bytes, unless a single one is larger.
const GROUP_BYTES: usize = 8 << 20;

/// Called once changes last, or cannot be made, with what became of each.
pub(super) type Then = Box<dyn FnOnce(Vec<Done>) + Send>;

/// The changes that wait.
#[derive(Default)]
pub(super) struct Writes {
    queue: Mutex<Queue>,
    added: Condvar,
    taken: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Vec<Change>, Then)>,
    bytes: usize,
    stopping: bool,
}

impl std::fmt::Debug for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writes").finish_non_exhaustive()
    }
}

impl Writes {
    pub(super) fn push(&self, changes: Vec<Change>, then: Then, most_bytes: usize) {
        let bytes: usize = changes.iter().map(Change::bytes).sum();
        let full = |queue: &mut Queue| !queue.waiting.is_empty() && queue.bytes + bytes > most_bytes;
        let waited = self.taken.wait_while(self.queue(), full);
        let mut queue = waited.expect("no holder of the queue panics");
        queue.bytes += bytes;
        queue.waiting.push_back((changes, then));
        drop(queue);
        self.added.notify_one();
    }

    /// The thread ends once nothing waits.
    pub(super) fn stop(&self) {
        self.queue().stopping = true;
        self.added.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of the queue panics")
    }

    /// Waits for changes, and takes as many as fit. `None` at the end.
    fn take(&self) -> Option<Vec<(Vec<Change>, Then)>> {
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.stopping;
        let waited = self.added.wait_while(self.queue(), idle);
        let mut queue = waited.expect("no holder of the queue panics");
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some((changes, _)) = queue.waiting.front() {
            let more: usize = changes.iter().map(Change::bytes).sum();
            if !group.is_empty() && bytes + more > GROUP_BYTES {
                break;
            }
            bytes += more;
            group.extend(queue.waiting.pop_front());
        }
        queue.bytes -= bytes;
        drop(queue);
        self.taken.notify_all();
        (!group.is_empty()).then_some(group)
    }
}

pub(super) fn run(inner: &Inner) {
    while let Some(group) = inner.writes.take() {
        fault::point("store.write");
        let (mut changes, mut thens) = (Vec::new(), Vec::new());
        for (own, then) in group {
            thens.push((own.len(), then));
            changes.extend(own);
        }
        let mut done = inner.make(changes).into_iter();
        for (count, then) in thens {
            then(done.by_ref().take(count).collect());
        }
    }
}

impl Inner {
    /// Makes changes, with one sync.
    fn make(&self, changes: Vec<Change>) -> Vec<Done> {
        if changes.is_empty() {
            return Vec::new();
        }
        let (start, stats) = (Instant::now(), &self.stats);
        let all = |done: Done| vec![done; changes.len()];
        let made = catch_unwind(AssertUnwindSafe(|| match broken::fault() {
            Some(outcome) => all(outcome.map_err(|source| {
                let place = self.engine.place();
                Arc::new(StoreError::System { place, source })
            })),
            None => self.engine.write(&changes),
        }));
        let made = made.unwrap_or_else(|_| all(Err(Arc::new(self.panicked()))));
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (mut writes, mut bytes) = (0, 0);
        let mut looks = self.looks();
        for (change, made) in changes.into_iter().zip(&made) {
            if made.is_err() {
                stats.failures.inc();
                continue;
            }
            writes += 1;
            bytes += change.bytes() as u64;
            match change {
                Change::Put { key, look_unix_ms, .. } => looks.set(key, look_unix_ms),
                Change::Remove { key, .. } => looks.set(key, None),
            }
        }
        drop(looks);
        if writes > 0 {
            stats.syncs.inc();
            stats.writes.inc_by(writes);
            stats.bytes.inc_by(bytes);
            stats.nanos.inc_by(nanos);
            self.reads.look_again();
        }
        made
    }
}

/// Breaks the store on purpose, so that a test can show what follows. Not in release builds.
mod broken {
    use std::io;

    /// Names a file. While it holds `hold`, writes wait, and a file beside it, with `.held`, says that one does; while it holds `full`, they fail as on a full disk; while it holds `lose`,
    /// nothing is written, and nobody is told.
    #[cfg(debug_assertions)]
    const VARIABLE: &str = "BENNU_FAULT_STORE";

    #[cfg(debug_assertions)]
    pub(super) fn fault() -> Option<io::Result<()>> {
        static FILE: std::sync::LazyLock<Option<std::path::PathBuf>> =
            std::sync::LazyLock::new(|| std::env::var_os(VARIABLE).map(Into::into));
        let wanted = || FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        while wanted().is_some_and(|wanted| wanted.trim() == "hold") {
            let held = FILE.as_ref().map(|file| file.with_extension("held"));
            let _ = held.map(|held| std::fs::write(held, ""));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        match wanted()?.trim() {
            "full" => Some(Err(io::ErrorKind::StorageFull.into())),
            "lose" => Some(Ok(())),
            _ => None,
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) const fn fault() -> Option<io::Result<()>> {
        None
    }
}
