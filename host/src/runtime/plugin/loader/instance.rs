//! A plugin at work: its own value, and what it keeps on each shard.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::panic::resume_unwind;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bennu_plugin::abi::{self, Bytes, ModuleRef};

use super::calls::{Batch, CALLS, Calls, Event};
use super::host_calls::{HOST, HostCalls, Link};
use super::text::{Text, said};
use super::{Library, crash};
use crate::runtime::plugin::watchdog::{Abandoned, Pulse};

/// A plugin's own value, made by its `init`. Clones are the same one.
///
/// If it is dropped without a successful [`Instance::shutdown`], its library stays mapped for ever: threads of the plugin may still
/// run in it.
#[derive(Clone)]
pub(crate) struct Instance(Arc<Inner>);

struct Inner {
    plugin: PluginPtr,
    link: &'static Link,
    life: Mutex<Life>,
    library: ManuallyDrop<Arc<Library>>,
}

/// How many shards are open, and whether `shutdown` was called.
#[derive(Default)]
struct Life {
    shards: usize,
    down: bool,
    clean: bool,
}

/// Why a plugin was not shut down cleanly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShutdownError {
    /// Nothing was done: close these shards first.
    #[error("{0} shards are still open")]
    ShardsOpen(usize),
    /// The plugin could not drop its value, or threads of it still run. Its library stays mapped.
    #[error("the plugin could not stop everything that it had started")]
    Unclean,
}

/// The pointer that `init` wrote.
struct PluginPtr(*mut ());

// SAFETY: the contract gives the plugin's value to all shards at once (`open` on each), so it is `Sync`, and shuts it
// down on shard 0 whichever thread of the host holds the number; the host itself never looks behind it.
unsafe impl Send for PluginPtr {}
// SAFETY: as above.
unsafe impl Sync for PluginPtr {}

impl Instance {
    pub(super) fn init(library: Arc<Library>, host: Arc<dyn HostCalls>, settings: &str) -> Result<Self, String> {
        let link = Link::new(host);
        let (mut plugin, mut error) = (ptr::null_mut(), Text::default());
        // SAFETY: all that is lent outlives the call; the link is never freed.
        let failed = crash::during("init", || unsafe {
            let settings = Bytes::lend(settings.as_bytes());
            (library.module.init())(HOST, link.cx(), settings, &raw mut plugin, error.writer())
        });
        if failed != 0 {
            link.cut();
            return Err(said(&error.into_string()).into_owned());
        }
        let (plugin, library) = (PluginPtr(plugin), ManuallyDrop::new(library));
        Ok(Self(Arc::new(Inner {
            plugin,
            link,
            life: Mutex::default(),
            library,
        })))
    }

    /// Makes what shard `index` needs. Call it on the shard's own thread, whose `pulse` tells when it handles events.
    ///
    /// # Errors
    ///
    /// With the plugin's message, or if it is shut down already.
    pub(crate) fn open_shard(&self, index: u32, pulse: Arc<Pulse>) -> Result<ShardInstance, String> {
        let mut life = self.0.life();
        if life.down {
            return Err("the plugin is shut down".to_owned());
        }
        life.shards += 1;
        drop(life);
        let (mut shard, mut error) = (ptr::null_mut(), Text::default());
        // SAFETY: `plugin` is from `init` and not shut down before the shard, counted above, is closed.
        let failed = crash::during("open", || unsafe {
            (self.0.module().open())(self.0.plugin.0, index, &raw mut shard, error.writer())
        });
        if failed != 0 {
            self.0.life().shards -= 1;
            return Err(said(&error.into_string()).into_owned());
        }
        Ok(ShardInstance {
            shard,
            events: Vec::new(),
            scratch: Vec::new(),
            pulse,
            instance: self.clone(),
            closed: false,
            here_only: PhantomData,
        })
    }

    /// Drops what `init` made and waits for the threads that the plugin started. Call it on the thread of shard 0. A second call does
    /// nothing.
    ///
    /// # Errors
    ///
    /// If shards are open (then nothing was done), or the plugin did not finish within `deadline`.
    pub(crate) fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        let mut life = self.0.life();
        if life.shards > 0 {
            return Err(ShutdownError::ShardsOpen(life.shards));
        }
        if !mem::replace(&mut life.down, true) {
            drop(life);
            let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
            // SAFETY: `plugin` is from `init`, no shard is open and none opens any more.
            let call = || unsafe { (self.0.module().shutdown())(self.0.plugin.0, deadline_ms) };
            let failed = crash::during("shutdown", call);
            self.0.link.cut();
            life = self.0.life();
            life.clean = failed == 0;
        }
        if life.clean {
            Ok(())
        } else {
            Err(ShutdownError::Unclean)
        }
    }

    /// The library that this runs in.
    #[must_use]
    #[cfg(test)]
    pub(super) fn library(&self) -> &Arc<Library> {
        &self.0.library
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("library", &self.0.library.path)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn module(&self) -> ModuleRef {
        self.library.module
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.cut();
        if !self.life().clean {
            tracing::warn!(library = %self.library.path.display(), "library stays in memory: its plugin was not shut down");
            return;
        }
        // SAFETY: dropped once, here, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.library) };
    }
}

/// The plugin's part of one shard: its topics and members. Stays on the thread that opened it.
pub(crate) struct ShardInstance {
    shard: *mut (),
    /// The batch as the plugin reads it. Empty between calls, kept to be reused.
    events: Vec<abi::Event>,
    scratch: Vec<u8>,
    pulse: Arc<Pulse>,
    instance: Instance,
    closed: bool,
    here_only: PhantomData<*mut ()>,
}

impl ShardInstance {
    /// Hands over `events` in order and tells `calls` of each that is done. Returns how many are done: fewer than were given only if
    /// [`Calls::done`] answered [`Go::Back`](super::Go::Back), or the plugin broke the contract.
    ///
    /// # Errors
    ///
    /// If the shard was abandoned meanwhile: the host has refused what the events did since then, and answered in their place.
    ///
    /// # Panics
    ///
    /// If `calls` panics.
    pub(crate) fn handle(&mut self, events: &[Event<'_>], calls: &mut dyn Calls) -> Result<usize, Abandoned> {
        self.events.clear();
        self.events.extend(events.iter().map(Event::lend));
        let mut batch = Batch::new(calls, &self.pulse, events.len(), mem::take(&mut self.scratch));
        let inside = crash::handling(&self.events, batch.at());
        self.pulse.enter();
        // SAFETY: `shard` is from `open` on this thread and not closed; the events and the batch outlive the call, and
        // neither is touched here before it returns.
        unsafe {
            let (events, cx) = (self.events.as_ptr(), (&raw mut batch).cast());
            (self.instance.0.module().handle())(self.shard, events, self.events.len(), CALLS, cx);
        }
        drop(inside);
        let (handled, scratch, panic) = batch.end();
        self.scratch = scratch;
        self.pulse.leave()?;
        self.events.clear();
        match panic {
            Some(panic) => resume_unwind(panic),
            None => Ok(handled),
        }
    }

    /// Drops all topics and members of the shard. Returns false if a destructor of the plugin panicked.
    #[must_use]
    pub(crate) fn close(mut self) -> bool {
        self.close_once()
    }

    fn close_once(&mut self) -> bool {
        if mem::replace(&mut self.closed, true) {
            return true;
        }
        // SAFETY: `shard` is from `open` on this thread; this is the last use of it.
        let failed = crash::during("drop", || unsafe { (self.instance.0.module().close())(self.shard) });
        self.instance.0.life().shards -= 1;
        failed == 0
    }
}

impl Drop for ShardInstance {
    fn drop(&mut self) {
        self.close_once();
    }
}

impl fmt::Debug for ShardInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardInstance")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}
