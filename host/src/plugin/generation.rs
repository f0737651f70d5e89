//! One load of a plugin: its library, its shard threads, and how they start and end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bennu_plugin::abi::{Token, error};
use bytes::Bytes;

use super::health::Health;
use super::loader::{HostCalls, Instance, Library, LoadError, ShardInstance};
use super::manifest::Manifest;
use super::mapping::Mapping;
use super::shard::{self, Env, ShardQueue};
use super::stage::{ContentHash, StagedFile};
use crate::channel::{Home, Input, Refused};
use crate::config;
use crate::id::MemberId;
use crate::message::Payload;

/// How long a plugin's own `shutdown` may take, as it is told.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// One load of a plugin.
#[derive(Debug)]
pub struct Generation {
    /// Counts the loads of this plugin, from 1.
    pub number: u64,
    /// What the library says of itself.
    pub manifest: Manifest,
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// How it fares.
    pub health: Arc<Health>,
    shards: Vec<Arc<ShardQueue>>,
    residents: Arc<AtomicUsize>,
    /// The staged copy, while it is loaded.
    library: PathBuf,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    threads: Vec<JoinHandle<()>>,
    /// Shard 0 hands the library back when it ends: it is closed on a thread that never ran the plugin's code.
    library: mpsc::Receiver<Arc<Library>>,
    mapping: Mapping,
}

/// Why a generation did not start, or did not go.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The library could not be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The plugin's `init` failed.
    #[error("the plugin did not start: {0}")]
    Init(String),
    /// The system gave no thread.
    #[error("a shard thread could not be started")]
    Thread(#[source] std::io::Error),
    /// A shard ended before it was ready.
    #[error("a shard ended while starting")]
    Ended,
}

impl Generation {
    /// Opens the library on a new thread, which becomes shard 0, and starts the others.
    ///
    /// # Errors
    ///
    /// If the library does not open or the plugin does not start; all threads have ended then.
    pub fn start(
        number: u64,
        manifest: Manifest,
        staged: StagedFile,
        config: &config::Plugin,
        env: &Env,
    ) -> Result<Self, GenerationError> {
        let residents = Arc::new(AtomicUsize::new(0));
        let intercepts: Arc<HashSet<String>> = Arc::new(manifest.intercepts.iter().cloned().collect());
        let new_queue = || Arc::new(ShardQueue::new(number, Arc::clone(&intercepts), Arc::clone(&residents)));
        let shards: Vec<_> = (0..config.shards.get()).map(|_| new_queue()).collect();

        let (hash, library_file) = (staged.hash(), staged.path().to_owned());
        let (library_back, library) = mpsc::channel();
        let mut starting = Starting {
            threads: Vec::new(),
            env: env.clone(),
            generation: number,
        };
        let instance = starting.first(&shards[0], staged, config.settings.to_string(), library_back)?;
        let mapping = instance.library().mapping();
        for (index, queue) in shards.iter().enumerate().skip(1) {
            if let Err(error) = starting.next(index, queue, &instance) {
                drop(instance);
                let running = Running {
                    threads: starting.threads,
                    library,
                    mapping,
                };
                running.stop(&shards);
                return Err(error);
            }
        }
        let running = Running {
            threads: starting.threads,
            library,
            mapping,
        };
        Ok(Self {
            number,
            manifest,
            hash,
            health: Arc::clone(&env.health),
            shards,
            residents,
            library: library_file,
            running: Mutex::new(Some(running)),
        })
    }

    /// The shard for something that hashes to `hash`.
    #[must_use]
    pub fn shard(&self, hash: u64) -> Home {
        // The length of a vector fits u64, and the remainder fits its index.
        Arc::clone(&self.shards[(hash % self.shards.len() as u64) as usize])
    }

    /// How many topics have their home here.
    #[must_use]
    pub fn residents(&self) -> usize {
        self.residents.load(Ordering::Acquire)
    }

    /// The file that it was loaded from: a private copy, there while the generation is.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// How many shards it has.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Ends all shards, closes the library and looks whether it is gone. Blocks until they have ended.
    pub fn retire(&self) -> Retired {
        let running = self.running.lock().expect("no holder panics").take();
        let Some(running) = running else {
            return Retired::Unmapped;
        };
        running.stop(&self.shards)
    }
}

impl Running {
    /// Ends all threads, shard 0 last, as it is the one that calls `shutdown`; then closes the library.
    fn stop(self, shards: &[Arc<ShardQueue>]) -> Retired {
        for queue in shards.iter().skip(1) {
            queue.stop();
        }
        let mut threads = self.threads.into_iter();
        let first = threads.next();
        threads.for_each(|thread| drop(thread.join()));
        shards[0].stop();
        first.map(JoinHandle::join);
        drop(self.library.recv());
        match self.mapping.is_executable() {
            Ok(false) => Retired::Unmapped,
            Ok(true) | Err(_) => Retired::Mapped,
        }
    }
}

/// What is left of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// Nothing executable.
    Unmapped,
    /// The library is still in memory: something of it is in use.
    Mapped,
}

struct Starting {
    threads: Vec<JoinHandle<()>>,
    env: Env,
    generation: u64,
}

impl Starting {
    fn thread(&mut self, index: usize, body: impl FnOnce() + Send + 'static) -> Result<(), GenerationError> {
        let name = format!("{}.{}.{index}", self.env.slot.name, self.generation);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(GenerationError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    fn first(
        &mut self,
        queue: &Arc<ShardQueue>,
        staged: StagedFile,
        settings: String,
        library_back: mpsc::Sender<Arc<Library>>,
    ) -> Result<Instance, GenerationError> {
        let (ready, started) = mpsc::channel();
        let (queue, env) = (Arc::clone(queue), self.env.clone());
        self.thread(0, move || {
            // Mapped here: constructors of the library are plugin code, too.
            let library = match Library::load(staged) {
                Ok(library) => library,
                Err(error) => return drop(ready.send(Err(GenerationError::Load(error)))),
            };
            let host = Arc::new(Bridge { env: env.clone() });
            let started = Arc::clone(&library)
                .init(host, &settings)
                .and_then(|instance| Ok((instance.open_shard(0)?, instance)));
            match started {
                Ok((shard, instance)) => {
                    let _ = ready.send(Ok(instance.clone()));
                    end_shard(shard::run(&queue, shard, &env), &env);
                    if let Err(error) = instance.shutdown(SHUTDOWN_DEADLINE) {
                        tracing::warn!(plugin = env.slot.name, %error, "the plugin did not shut down well");
                    }
                }
                Err(why) => drop(ready.send(Err(GenerationError::Init(why)))),
            }
            let _ = library_back.send(library);
        })?;
        let instance = started.recv().map_err(|_| GenerationError::Ended)?;
        if instance.is_err() {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
        instance
    }

    fn next(&mut self, index: usize, queue: &Arc<ShardQueue>, instance: &Instance) -> Result<(), GenerationError> {
        let (ready, started) = mpsc::channel();
        let (queue, env, instance) = (Arc::clone(queue), self.env.clone(), instance.clone());
        self.thread(index, move || {
            // A configuration has far fewer shards than u32 counts.
            let opened = instance.open_shard(index as u32);
            drop(instance);
            match opened {
                Ok(shard) => {
                    let _ = ready.send(Ok(()));
                    end_shard(shard::run(&queue, shard, &env), &env);
                }
                Err(why) => drop(ready.send(Err(GenerationError::Init(why)))),
            }
        })?;
        started.recv().map_err(|_| GenerationError::Ended)?
    }
}

fn end_shard(shard: ShardInstance, env: &Env) {
    if !shard.close() {
        env.panicked("", "drop", "a destructor panicked while the plugin was closed");
    }
}

/// What a plugin may call from any of its threads.
#[derive(Debug)]
struct Bridge {
    env: Env,
}

impl HostCalls for Bridge {
    fn complete(&self, token: Token, binary: bool, status: &str, payload: &[u8]) -> i64 {
        let payload = match checked(binary, payload) {
            Ok(payload) => payload,
            Err(code) => return code,
        };
        if token.topic == 0 {
            let known = self.env.hub.connects.complete(token.serial, payload.bytes().clone());
            return if known { 0 } else { error::GONE };
        }
        let Some(topic) = self.env.slot.find_number(token.topic) else {
            return error::GONE;
        };
        let input = Input::Complete {
            serial: token.serial,
            status: status.into(),
            payload,
        };
        answer(topic.push(input))
    }

    fn send(&self, topic: u64, member: u64, binary: bool, name: &str, payload: &[u8]) -> i64 {
        let payload = match checked(binary, payload) {
            Ok(payload) => payload,
            Err(code) => return code,
        };
        let Some(topic) = self.env.slot.find_number(topic) else {
            return error::GONE;
        };
        let member = MemberId::from_number(member);
        answer(topic.push(Input::Info {
            member,
            name: name.into(),
            payload,
            timer: None,
        }))
    }

    fn log(&self, level: u32, target: &str, message: &str) {
        let plugin = &*self.env.slot.name;
        match level {
            1 => tracing::error!(plugin, target, "{message}"),
            2 => tracing::warn!(plugin, target, "{message}"),
            3 => tracing::info!(plugin, target, "{message}"),
            4 => tracing::debug!(plugin, target, "{message}"),
            _ => tracing::trace!(plugin, target, "{message}"),
        }
    }
}

fn checked(binary: bool, payload: &[u8]) -> Result<Payload, i64> {
    if binary {
        Ok(Payload::Binary(Bytes::copy_from_slice(payload)))
    } else {
        super::effects::json(payload).map(Payload::Json)
    }
}

/// What a plugin is told of what it sent to a topic.
fn answer(pushed: Result<(), Refused>) -> i64 {
    match pushed {
        Ok(()) => 0,
        Err(Refused::Overloaded) => error::LIMIT,
        Err(Refused::Closed) => error::GONE,
    }
}
