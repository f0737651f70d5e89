//! One load of a plugin: its library, its shard threads, and how they start and end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::abandon;
use super::backtrace::Panics;
use super::bridge::Bridge;
use super::elf::Facts;
use super::env::Env;
use super::health::Health;
use super::left::Left;
use super::loader::{self, Instance, Kept, Library, LoadError, LoadedFor, ShardInstance};
use super::manifest::Manifest;
use super::references::name_of_threads;
use super::sample::Untried;
use super::shard::{self, Shard, Work};
use super::stage::StagedFile;
use super::static_tls;
use super::watchdog::Abandoned;
use crate::config;
use crate::config::ContentHash;
use crate::runtime::channel::Owner;
use crate::runtime::clock;
use crate::runtime::threads;

/// The deadline that a plugin's own `shutdown` is told.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// One load of a plugin.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Counts the loads of this plugin, from 1.
    pub(crate) number: u64,
    /// What the library says of itself.
    pub(crate) manifest: Manifest,
    /// The hash of its bytes.
    pub(crate) hash: ContentHash,
    /// The settings that it was started with, as JSON.
    pub(super) settings: Arc<str>,
    /// Its panics and errors.
    pub(crate) health: Arc<Health>,
    /// Generations whose state it has not been tried on yet.
    pub(super) untried: Mutex<Untried>,
    /// The staged copy, while it is loaded.
    library: PathBuf,
    set: Arc<ShardSet>,
    /// What stayed in memory when it ended, if anything did.
    left: Mutex<Option<Left>>,
}

/// The shards of a generation. A shard that hangs is replaced by a new one in the same place.
#[derive(Debug)]
pub(super) struct ShardSet {
    pub(super) env: Env,
    number: u64,
    hash: ContentHash,
    intercepts: Arc<HashSet<String>>,
    residents: Arc<AtomicUsize>,
    shards: RwLock<Vec<Arc<Shard>>>,
    /// `None` once it is retired.
    running: Mutex<Option<Running>>,
}

/// A library at work.
#[derive(Debug)]
struct Running {
    instance: Instance,
    /// Closed on a thread that never ran the plugin's code.
    library: Arc<Library>,
    threads: Vec<ShardThread>,
}

#[derive(Debug)]
struct ShardThread {
    index: usize,
    shard: Arc<Shard>,
    thread: JoinHandle<()>,
}

/// Why a generation did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerationError {
    /// The library could not be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The plugin's `init` failed.
    #[error("the plugin did not start: {0}")]
    Init(String),
    /// The system started no thread.
    #[error("a thread of the plugin could not be started")]
    Thread(#[source] std::io::Error),
    /// A shard ended before it was ready.
    #[error("a thread of the plugin ended while it was starting")]
    Ended,
    /// The plugin's `init` does not return. Its thread is left.
    #[error("the plugin did not start within {} ms: its `init` does not return", .0.as_millis())]
    Hangs(Duration),
    /// The library's constructors do not return. Their thread is left, and nothing else can be loaded.
    #[error(
        "the library did not load within {} ms: one of its constructors does not return and blocks the dynamic loader; restart \
         the server before you load another plugin", .0.as_millis()
    )]
    LoadHangs(Duration),
}

impl Generation {
    /// Opens the library on a new thread, which becomes shard 0, and starts the others.
    ///
    /// # Errors
    ///
    /// If the library does not open or the plugin does not start. All threads have ended then, except one that hangs.
    pub(crate) fn start(
        number: u64,
        manifest: Manifest,
        staged: StagedFile,
        config: &config::Plugin,
        env: &Env,
    ) -> Result<Self, GenerationError> {
        let set = Arc::new(ShardSet {
            env: env.clone(),
            number,
            hash: staged.hash(),
            intercepts: Arc::new(manifest.intercepts.iter().cloned().collect()),
            residents: Arc::default(),
            shards: RwLock::default(),
            running: Mutex::default(),
        });
        static_tls::warn(&env.slot.name, staged.facts());
        let library = staged.path().to_owned();
        let mut running = set.first(staged, config)?;
        for index in 1..config.shards.get() {
            if let Err(error) = set.next(index, &mut running, config) {
                let (library, facts) = (running.library.path().to_owned(), running.library.facts());
                if let Err(why) = running.stop(config.deadline) {
                    set.say_left(&library, why, &facts);
                }
                return Err(error);
            }
        }
        let shards: Vec<_> = running.threads.iter().map(|thread| Arc::clone(&thread.shard)).collect();
        for shard in &shards {
            env.hub.watchdog.watch(Arc::downgrade(&set), Arc::clone(shard));
        }
        *set.shards.write().expect("no holder panics") = shards;
        *set.running.lock().expect("no holder panics") = Some(running);
        Ok(Self {
            number,
            manifest,
            hash: set.hash,
            health: Arc::clone(&env.health),
            settings: Arc::clone(&config.settings),
            untried: Mutex::default(),
            set,
            library,
            left: Mutex::default(),
        })
    }

    /// The shard for something that hashes to `hash`.
    #[must_use]
    pub(crate) fn shard(&self, hash: u64) -> Arc<Shard> {
        let shards = self.set.shards.read().expect("no holder panics");
        // The length of a vector fits u64, and the remainder fits its index.
        Arc::clone(&shards[(hash % shards.len() as u64) as usize])
    }

    /// The first shard from `turn` on that is not closed, for work that may run on any shard.
    #[must_use]
    pub(crate) fn living_shard(&self, turn: usize) -> Option<Arc<Shard>> {
        let shards = self.set.shards.read().expect("no holder panics");
        let from = turn % shards.len();
        let mut all = shards[from..].iter().chain(&shards[..from]);
        all.find(|shard| !shard.is_closed()).cloned()
    }

    /// The shard with this run queue, unless it was abandoned or belongs to another generation.
    #[must_use]
    pub(crate) fn shard_of(&self, owner: &Owner) -> Option<Arc<Shard>> {
        let shards = self.set.shards.read().expect("no holder panics");
        shards.iter().find(|shard| Arc::ptr_eq(&shard.queue, owner)).cloned()
    }

    /// How many topics it owns.
    #[must_use]
    pub(crate) fn residents(&self) -> usize {
        self.set.residents.load(Ordering::Acquire)
    }

    /// The file that it was loaded from: a private copy that stays as long as the generation.
    #[must_use]
    pub(crate) fn library(&self) -> &Path {
        &self.library
    }

    /// The generations whose state it has not been tried on yet.
    pub(super) fn untried(&self) -> MutexGuard<'_, Untried> {
        self.untried.lock().expect("no holder panics")
    }

    /// How many shards it has.
    #[must_use]
    pub(crate) fn shard_count(&self) -> usize {
        self.set.shards.read().expect("no holder panics").len()
    }

    /// Whether any of its shards still runs. A generation without one serves nothing.
    #[must_use]
    pub(crate) fn serves(&self) -> bool {
        !self.set.is_abandoned()
    }

    /// Ends all shards, closes the library and looks whether it is gone. Blocks until the shards have ended or are abandoned.
    pub(crate) fn retire(&self) -> Retired {
        let Some(running) = self.take_running() else {
            return Retired::Unmapped;
        };
        let slot = &self.set.env.slot;
        let facts = running.library.facts();
        match running.stop(slot.config().deadline) {
            Ok(()) => Retired::Unmapped,
            Err(kept) => {
                let stuck = match kept {
                    NotUnloaded::Stuck(threads) => threads,
                    NotUnloaded::Kept(Kept::Destructor) => {
                        slot.stats.hangs.inc();
                        1
                    }
                    NotUnloaded::Kept(_) => 0,
                };
                let left = Left::of(&slot.name, self.number, &self.library, kept, &facts);
                *self.left.lock().expect("no holder panics") = Some(left);
                if stuck > 0 {
                    Retired::Stuck(stuck)
                } else {
                    Retired::Mapped
                }
            }
        }
    }

    /// Ends all shards. The library stays mapped, as the process is about to end: unmapping it could only do harm.
    pub(crate) fn end(&self) {
        if let Some(running) = self.take_running() {
            running.end_threads();
        }
    }

    fn take_running(&self) -> Option<Running> {
        self.set.running.lock().expect("no holder panics").take()
    }

    /// What [`Generation::retire`] has left in memory.
    #[must_use]
    pub(crate) fn left(&self) -> Option<Left> {
        self.left.lock().expect("no holder panics").clone()
    }
}

/// Why a library was not unloaded.
pub(super) enum NotUnloaded {
    /// So many of its shards do not return.
    Stuck(usize),
    /// Something else keeps it mapped.
    Kept(Kept),
}

impl Running {
    /// Ends all threads, then closes the library. A destructor of the library may take as long as `patience`.
    fn stop(self, patience: Duration) -> Result<(), NotUnloaded> {
        let library = Arc::clone(&self.library);
        match self.end_threads() {
            0 => library.close(patience).map_err(NotUnloaded::Kept),
            stuck => Err(NotUnloaded::Stuck(stuck)),
        }
    }

    /// Ends all threads, shard 0 last, as it calls `shutdown`. Returns how many are stuck.
    fn end_threads(self) -> usize {
        let Self { instance, threads, .. } = self;
        drop(instance);
        let (first, others): (Vec<_>, Vec<_>) = threads.into_iter().partition(|thread| thread.index == 0);
        end(others) + end(first)
    }
}

/// Ends threads that have nothing left to do. Returns how many of them are stuck.
fn end(threads: Vec<ShardThread>) -> usize {
    threads.iter().for_each(|thread| thread.shard.stop());
    let mut stuck = 0;
    for ShardThread { shard, thread, .. } in threads {
        shard.wait();
        if shard.pulse.is_over() && !thread.is_finished() {
            stuck += 1;
        } else {
            let _ = thread.join();
        }
    }
    stuck
}

/// How a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    /// No code of the library is in memory.
    Unmapped,
    /// The library is still in memory, because something uses it.
    Mapped,
    /// The library is still in memory, because so many threads do not return from it.
    Stuck(usize),
}

impl ShardSet {
    /// Whether all shards are abandoned, and none could be put in their places.
    pub(super) fn is_abandoned(&self) -> bool {
        let shards = self.shards.read().expect("no holder panics");
        shards.iter().all(|shard| shard.is_closed())
    }

    fn new_shard(&self) -> Arc<Shard> {
        let (intercepts, residents) = (Arc::clone(&self.intercepts), Arc::clone(&self.residents));
        Arc::new(Shard::new(self.number, intercepts, residents))
    }

    fn thread(
        &self,
        index: usize,
        shard: &Arc<Shard>,
        body: impl FnOnce(&Arc<Shard>) + Send + 'static,
    ) -> Result<ShardThread, GenerationError> {
        let own = Arc::clone(shard);
        let (plugin, hash) = (self.env.slot.name.clone(), format!("{:#}", self.hash));
        let name = format!("{}{index}", name_of_threads(&self.env.slot.name, self.number));
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                own.pulse.attach();
                loader::crash::attach(&plugin, &hash);
                threads::guard(&name, || body(&own));
                own.end_thread();
            })
            .map_err(GenerationError::Thread)?;
        let shard = Arc::clone(shard);
        Ok(ShardThread { index, shard, thread })
    }

    /// Maps the library, makes the plugin's value and opens the first shard.
    fn first(&self, staged: StagedFile, config: &config::Plugin) -> Result<Running, GenerationError> {
        let (ready, started) = mpsc::channel();
        let (env, settings, shard) = (self.env.clone(), config.settings.to_string(), self.new_shard());
        let panics = Panics::of(&env.slot.name, self.number, staged.path());
        let (number, patience) = (self.number, config.deadline / 2);
        // Closed by whoever started the shard, on a thread that never ran the plugin's code.
        let (opened_library, libraries) = mpsc::channel();
        let first = self.thread(0, &shard, move |shard| {
            let of = LoadedFor {
                plugin: &env.slot.name,
                generation: number,
                patience,
            };
            // Mapped here, because constructors of the library are plugin code, too.
            let library = match Library::load(staged, of) {
                Ok(library) => library,
                Err(error) => return drop(ready.send(Err(GenerationError::Load(error)))),
            };
            // It is received unless `init` hangs; then the library stays mapped.
            let _ = opened_library.send(Arc::clone(&library));
            drop(opened_library);
            let host = Arc::new(Bridge {
                env: env.clone(),
                panics,
            });
            let opened = Arc::clone(&library)
                .init(host, &settings)
                .and_then(|instance| Ok((instance.open_shard(0, Arc::clone(&shard.pulse))?, instance)));
            match opened {
                Ok((opened, instance)) => {
                    let for_host = (instance.clone(), Arc::clone(&library));
                    if ready.send(Ok(for_host)).is_err() {
                        came_back(&env);
                        shard.stop();
                    }
                    serve(shard, opened, &env);
                    shut_down(shard, &instance, &env);
                }
                Err(why) => {
                    if ready.send(Err(GenerationError::Init(why))).is_err() {
                        came_back(&env);
                    }
                }
            }
        })?;
        match self.wait_for(&started, config) {
            Ok((instance, library)) => Ok(Running {
                instance,
                library,
                threads: vec![first],
            }),
            Err(GenerationError::Hangs(deadline)) if libraries.try_recv().is_err() => {
                Err(GenerationError::LoadHangs(deadline))
            }
            Err(error) => {
                if !matches!(error, GenerationError::Hangs(_)) {
                    let _ = first.thread.join();
                    if let Ok(library) = libraries.try_recv() {
                        self.close(library, config);
                    }
                }
                Err(error)
            }
        }
    }

    /// Closes the library of a generation that did not start.
    fn close(&self, library: Arc<Library>, config: &config::Plugin) {
        let (path, facts) = (library.path().to_owned(), library.facts());
        if let Err(kept) = library.close(config.deadline) {
            self.say_left(&path, NotUnloaded::Kept(kept), &facts);
        }
    }

    /// Says why the library of a generation that did not start stays.
    fn say_left(&self, library: &Path, why: NotUnloaded, facts: &Facts) {
        let slot = &self.env.slot;
        let left = Left::of(&slot.name, self.number, library, why, facts);
        slot.stats.leaked_generations.inc();
        tracing::warn!(
            plugin = slot.name,
            cause = left.cause,
            "the plugin did not start, and its library stays in memory"
        );
    }

    /// Opens one more shard.
    fn next(&self, index: usize, running: &mut Running, config: &config::Plugin) -> Result<(), GenerationError> {
        let (ready, started) = mpsc::channel();
        let (env, instance, shard) = (self.env.clone(), running.instance.clone(), self.new_shard());
        let thread = self.thread(index, &shard, move |shard| {
            // A configuration has far fewer shards than u32 counts.
            let opened = instance.open_shard(index as u32, Arc::clone(&shard.pulse));
            drop(instance);
            let (opened, said) = match opened {
                Ok(opened) => (Some(opened), Ok(())),
                Err(why) => (None, Err(GenerationError::Init(why))),
            };
            if ready.send(said).is_err() {
                came_back(&env);
                shard.stop();
            }
            opened.into_iter().for_each(|opened| serve(shard, opened, &env));
        })?;
        let opened = self.wait_for(&started, config);
        if !matches!(opened, Err(GenerationError::Hangs(_))) {
            running.threads.push(thread);
        }
        opened
    }

    /// Waits until a shard is open, at most as long as a handler may take.
    fn wait_for<T>(
        &self,
        started: &mpsc::Receiver<Result<T, GenerationError>>,
        config: &config::Plugin,
    ) -> Result<T, GenerationError> {
        match clock::recv_timeout(started, config.deadline) {
            Ok(started) => started,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(GenerationError::Ended),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let stats = &self.env.slot.stats;
                stats.hangs.inc();
                stats.stuck_threads.inc();
                stats.leaked_generations.inc();
                Err(GenerationError::Hangs(config.deadline))
            }
        }
    }

    /// Puts a new shard in the place of an abandoned one. `None` if the generation is retired, or too many threads are stuck;
    /// the place then stays closed.
    pub(super) fn replace(self: &Arc<Self>, old: &Arc<Shard>) -> Option<Arc<Shard>> {
        let mut running = self.running.lock().expect("no holder panics");
        let running = running.as_mut()?;
        let slot = &self.env.slot;
        let most = i64::try_from(slot.config().max_stuck_threads).unwrap_or(i64::MAX);
        if slot.stats.stuck_threads.get() > most {
            tracing::error!(
                plugin = slot.name,
                max_stuck_threads = most,
                "too many threads of the plugin are stuck: Bennu starts no replacement, and refuses joins to the topics of this one. \
                 Restart the server"
            );
            return None;
        }
        let index = running
            .threads
            .iter()
            .find(|thread| Arc::ptr_eq(&thread.shard, old))?
            .index;
        let (set, instance, shard) = (Arc::clone(self), running.instance.clone(), self.new_shard());
        let thread = self.thread(index, &shard, move |shard| set.reopen(index, shard, instance));
        let thread = thread
            .inspect_err(|error| tracing::error!(plugin = slot.name, %error, "cannot start a thread of the plugin"));
        running.threads.push(thread.ok()?);
        self.env.hub.watchdog.watch(Arc::downgrade(self), Arc::clone(&shard));
        self.shards.write().expect("no holder panics")[index] = Arc::clone(&shard);
        Some(shard)
    }

    /// The life of a shard that replaces another.
    fn reopen(self: Arc<Self>, index: usize, shard: &Arc<Shard>, instance: Instance) {
        let env = self.env.clone();
        // A configuration has far fewer shards than u32 counts.
        let open = || instance.open_shard(index as u32, Arc::clone(&shard.pulse));
        let opened = match in_plugin(shard, "open", open) {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                tracing::error!(plugin = env.slot.name, error, "cannot start a thread of the plugin");
                abandon::close(&self, shard, false);
                return;
            }
            Err(Abandoned) => return came_back(&env),
        };
        // The generation may be retired while the thread runs: it goes with the set.
        drop(self);
        serve(shard, opened, &env);
        if index == 0 {
            shut_down(shard, &instance, &env);
        }
    }
}

/// Calls the plugin for something other than an event.
fn in_plugin<T>(shard: &Arc<Shard>, what: &'static str, call: impl FnOnce() -> T) -> Result<T, Abandoned> {
    shard.begin(Work::Life(what));
    shard.pulse.enter();
    let result = call();
    shard.pulse.leave()?;
    shard.end();
    Ok(result)
}

/// Runs an open shard to its end.
fn serve(shard: &Arc<Shard>, opened: ShardInstance, env: &Env) {
    let opened = shard::run(shard, opened, env);
    let closed = in_plugin(shard, "drop", || opened.close());
    if closed == Ok(false) {
        env.panicked("", "drop", "a destructor panicked while the plugin was closed");
    }
    if closed.is_err() {
        came_back(env);
    }
}

/// Shuts the plugin down at the end of shard 0, unless another shard has taken its place.
fn shut_down(shard: &Arc<Shard>, instance: &Instance, env: &Env) {
    if shard.pulse.is_over() {
        return;
    }
    match in_plugin(shard, "shutdown", || {
        instance.shutdown(env.hub.patience(SHUTDOWN_DEADLINE))
    }) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(plugin = env.slot.name, %error, "the plugin did not shut down cleanly"),
        Err(Abandoned) => came_back(env),
    }
}

/// Notes that an abandoned thread has returned from the plugin, and ends.
fn came_back(env: &Env) {
    env.slot.stats.stuck_threads.dec();
    tracing::info!(plugin = env.slot.name, "an abandoned thread has returned and ended");
}
