//! Closes a library, after a look at who still points into it.
//!
//! 1. Nothing else of the host holds it.
//! 2. Nobody runs in it or would be called there: threads, signal handlers, timers (`references.rs`).
//! 3. Its destructors run on a thread of their own, which may take as long as a callback.
//! 4. The system unmaps it, and [`mapping`](super::super::mapping) tells whether it has.
//!
//! Where one of these fails the library stays mapped, for good: code that somebody may still run must not go.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::objects::Finalizer;
use super::{Library, code, crash, lock};
use crate::runtime::clock;
use crate::runtime::plugin::references::{self, References};

/// How long threads and references may take to go, once the shards of a library have ended.
const LAST_MOMENTS: Duration = Duration::from_millis(500);
/// Between two looks.
const TICK: Duration = Duration::from_millis(5);

/// Why a library is still mapped.
#[derive(Debug)]
pub(crate) enum Kept {
    /// The host itself holds it: its plugin was not shut down cleanly, or a thread of it is stuck.
    Held,
    /// Somebody points into it. It may be closed later.
    Referenced(Arc<Library>, References),
    /// A destructor of it does not return; its thread is left.
    Destructor,
    /// Another library has the system's loader.
    Loader(lock::User),
    /// It is closed, and the system has not unmapped it.
    Mapped,
}

impl Library {
    /// Closes the library. Call it on a thread that never ran code of it, after those that did have ended: thread-local
    /// destructors keep a library mapped. A destructor of it may take as long as `patience`.
    ///
    /// # Errors
    ///
    /// With the reason, if the library is still mapped.
    pub(crate) fn close(self: Arc<Self>, patience: Duration) -> Result<(), Kept> {
        if Arc::strong_count(&self) > 1 {
            return Err(Kept::Held);
        }
        let since = Instant::now();
        loop {
            let references = references::of(&self.born, self.owner);
            if references.is_empty() {
                break;
            }
            if since.elapsed() >= LAST_MOMENTS || !references.may_go() {
                return Err(Kept::Referenced(self, references));
            }
            std::thread::sleep(TICK);
        }
        match Arc::into_inner(self) {
            Some(library) => library.unmap(patience),
            None => Err(Kept::Held),
        }
    }

    /// Runs the library's destructors on this thread, and leaves it mapped: for a process that ends soon.
    pub(crate) fn finish(self: Arc<Self>) {
        let mut library = Arc::into_inner(self);
        let finalizers = library.as_mut().map(|library| std::mem::take(&mut library.finalizers));
        finalizers.into_iter().flatten().for_each(|finalizer| finalizer());
    }

    fn unmap(mut self, patience: Duration) -> Result<(), Kept> {
        let finalizers = std::mem::take(&mut self.finalizers);
        if !finalizers.is_empty() && !self.run(finalizers, patience) {
            return Err(Kept::Destructor);
        }
        let (mapping, path, owner) = (self.mapping(), self.path.clone(), self.owner);
        let using = lock::enter(&owner.plugin, "unloading a library", patience).map_err(Kept::Loader)?;
        if let Some(handle) = self.handle.take() {
            // Its result says nothing: whether the code is gone is seen below.
            let _ = handle.close();
        }
        // Threads that a crate of the plugin's had started, and that nobody joins, are at their ends now.
        let closed = Instant::now();
        while matches!(mapping.is_executable(), Ok(true)) && closed.elapsed() < LAST_MOMENTS {
            std::thread::sleep(TICK);
            super::unload_again(&path);
        }
        drop(using);
        match mapping.is_executable() {
            Ok(false) => {
                code::remove(owner);
                Ok(())
            }
            Ok(true) | Err(_) => Err(Kept::Mapped),
        }
    }

    /// Runs the library's destructors on a thread of their own. `false`: they do not return in time, and their thread is left.
    fn run(&self, finalizers: Vec<Finalizer>, patience: Duration) -> bool {
        let (plugin, hash) = (self.owner.plugin.clone(), self.hash.clone());
        let (done, ended) = mpsc::channel::<()>();
        let body = move || {
            // Dropped however this ends, and after all thread-locals that the destructors use are made.
            let _done = done;
            crash::attach(&plugin, &hash);
            crash::during("a destructor of the library", || {
                finalizers.into_iter().for_each(|finalizer| finalizer());
            });
        };
        let name = references::name_of_threads(&self.owner.plugin, self.owner.generation);
        let Ok(thread) = std::thread::Builder::new().name(format!("{name}d")).spawn(body) else {
            return false;
        };
        let in_time = clock::recv_timeout(&ended, patience) == Err(mpsc::RecvTimeoutError::Disconnected);
        // Its thread-locals may have destructors of the library's, which keep it mapped until they have run.
        if in_time {
            let _ = thread.join();
        }
        in_time
    }
}
