//! Async work: futures on a tokio runtime that the generation owns. Needs the feature `async`.
//!
//! A callback waits for nothing. It starts a look-up in a database or a request to another server with
//! [`Context::reply_async`](crate::Context::reply_async), [`Context::join_async`](crate::Context::join_async),
//! [`ConnectContext::connect_async`](crate::ConnectContext::connect_async) or
//! [`Context::spawn_async`](crate::Context::spawn_async), and returns. The answer reaches the topic later, in whichever generation it
//! is then.
//!
//! ```
//! # use bennu_plugin::prelude::*;
//! # #[derive(Serialize, Deserialize)]
//! # struct Member;
//! # async fn ask_somebody(_: u32) -> Result<String, std::io::Error> { Ok(String::new()) }
//! # impl Channel for Member {
//! #     type Shared = ();
//! #     fn join(_: &mut (), _: Payload, _: &mut Context) -> Join<Self> { Join::accept(Self) }
//! fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload, cx: &mut Context) -> Handled {
//!     match event {
//!         "name" => {
//!             let user = payload.parse()?;
//!             cx.reply_async(async move {
//!                 let name = ask_somebody(user).await.map_err(|_| Refusal::reason("nobody answers"))?;
//!                 Ok(Reply::ok_with(json!({ "name": name })))
//!             })
//!         }
//!         _ => Ok(Reply::unhandled()),
//!     }
//! }
//! # }
//! ```
//!
//! # The runtime
//!
//! The first future starts the runtime. [`Limits`] sets its number of threads; they have the names of the plugin and the
//! generation. Timers and sockets work on it (`tokio::time`, `reqwest`, `sqlx`) if the plugin's own `tokio` has the features for
//! them. Open a pool of connections in [`Plugin::init`](crate::Plugin::init), with [`block_on`].
//!
//! # When the code is replaced
//!
//! After the last topic has moved to new code, futures go on for the host's `retire_ms`: an answer or a message still reaches its
//! topic. Then the kit drops the futures and ends the runtime, and the host answers their promises with the error
//! `{"reason":"reloaded"}`. A future that computes without waiting, or blocking work that does not end within a second, keeps
//! the library in memory.
//!
//! # Panics
//!
//! A panic ends its future; the log says where. The reply is then the error `{"reason":"crashed"}`; a join is refused with
//! `{"reason":"join crashed"}`, a connect with status 500 (after a panic in the connect handler itself, the host answers 403).

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::log::Place;
use crate::payload::{Body, Payload};
use crate::remote::{Later, Remote};

/// How long the threads of the runtime have to end in any case.
const LEAST: Duration = Duration::from_millis(100);

/// Limits on the async work of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads that run futures; at least 1. Default 2.
    pub threads: usize,
    /// Threads for `tokio::task::spawn_blocking`, and so for files and name look-ups; at least 1. If all are busy, such work waits.
    /// Default 16.
    pub blocking_threads: usize,
    /// Futures of callbacks that run at a time. At the limit a reply or a join is refused with `{"reason":"overloaded"}`, a connect
    /// with status 503, and [`Context::spawn_async`](crate::Context::spawn_async) returns false. Default 10,000.
    pub tasks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            threads: 2,
            blocking_threads: 16,
            tasks: 10_000,
        }
    }
}

/// Sets the limits of this generation. Call it in [`Plugin::init`](crate::Plugin::init), before [`block_on`].
///
/// # Panics
///
/// Outside of `init`.
pub fn set_limits(limits: Limits) {
    Tasks::of_init().0.state().limits = limits;
}

/// Runs a future on the generation's runtime and waits for its output. Call it in [`Plugin::init`](crate::Plugin::init), which may
/// take as long as the host's `deadline_ms`; no other callback may wait.
///
/// # Panics
///
/// Outside of `init`, and if the system cannot start the threads.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let handle = Tasks::of_init().0.handle().expect("cannot start the async runtime");
    handle.block_on(future)
}

tokio::task_local! {
    static PLACE: Place;
}

/// What the future on this thread is about.
pub(crate) fn place() -> Option<Place> {
    PLACE.try_with(Clone::clone).ok()
}

/// A promise that a future keeps. If the future panics, the answer is an error; if it is dropped with its generation, the host
/// answers.
pub(crate) struct Owed {
    remote: Remote,
    later: Option<Later>,
    crashed: &'static str,
    reason: &'static str,
}

impl Owed {
    pub(crate) fn new(remote: Remote, later: Later, crashed: &'static str, reason: &'static str) -> Self {
        let later = Some(later);
        Self {
            remote,
            later,
            crashed,
            reason,
        }
    }

    pub(crate) fn keep(mut self, status: &str, body: &Body) {
        if let Some(later) = self.later.take() {
            self.remote.complete(later, status, body.lend(Payload::json_text("{}")));
        }
    }

    pub(crate) fn forget(mut self) {
        self.later = None;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(later) = self.later.take().filter(|_| std::thread::panicking()) {
            self.remote
                .complete(later, self.crashed, json!({ "reason": self.reason }));
        }
    }
}

thread_local! {
    /// The tasks of the generation whose `init` runs on this thread.
    static OF_INIT: RefCell<Option<Tasks>> = const { RefCell::new(None) };
}

/// The async work of a generation. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// The number of futures that run.
    running: Arc<AtomicUsize>,
    /// Those of them that the end waits for.
    last: Arc<Last>,
    /// The number of threads of the runtime.
    threads: Arc<AtomicUsize>,
}

/// The futures that a [`closing`](crate::Channel::closing) has started.
#[derive(Default)]
struct Last {
    running: Mutex<usize>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    limits: Limits,
    /// `None` until a future needs it.
    runtime: Option<Runtime>,
    ended: bool,
}

impl Tasks {
    /// Runs `init`, which may use these tasks.
    pub(crate) fn during_init<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                OF_INIT.take();
            }
        }
        OF_INIT.set(Some(self.clone()));
        let _reset = Reset;
        work()
    }

    fn of_init() -> Self {
        let tasks = OF_INIT.with_borrow(Clone::clone);
        tasks.expect("`set_limits` and `block_on` work only in the plugin's `init`, on its thread")
    }

    /// Runs `work` inside the runtime, if there is one: for dropping what was made on it.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        let handle = self.0.state().runtime.as_ref().map(|runtime| runtime.handle().clone());
        let _inside = handle.as_ref().map(Handle::enter);
        work()
    }

    /// Waits for what [`closing`](crate::Channel::closing) has started, then drops all futures, and ends the threads. Returns whether they ended in time.
    pub(crate) fn end(&self, deadline: Duration) -> bool {
        let start = Instant::now();
        self.0.last.wait(deadline);
        let deadline = deadline.saturating_sub(start.elapsed()).max(LEAST);
        let mut state = self.0.state();
        state.ended = true;
        let Some(runtime) = state.runtime.take() else {
            return true;
        };
        drop(state);
        runtime.shutdown_timeout(deadline);
        self.0.threads.load(Ordering::Acquire) == 0
    }

    /// The same for a future that the end waits for.
    pub(crate) fn last_room(&self) -> Option<Room> {
        let mut room = self.room()?;
        room.last = Some(LastSlot::new(&self.0.last));
        Some(room)
    }

    /// The right to run one more future, if the limit allows it.
    pub(crate) fn room(&self) -> Option<Room> {
        let most = self.0.state().limits.tasks;
        let running = Arc::clone(&self.0.running);
        let before = running.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(running);
        let handle = self.0.handle();
        let handle = handle.inspect_err(|error| tracing::error!(%error, "cannot start the async runtime"));
        Some(Room {
            slot,
            last: None,
            handle: handle.ok()?,
        })
        .filter(|_| before < most)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime, started if there is none.
    fn handle(&self) -> io::Result<Handle> {
        let mut state = self.state();
        if state.ended {
            return Err(io::Error::other("the generation has ended"));
        }
        if state.runtime.is_none() {
            state.runtime = Some(self.runtime(state.limits)?);
        }
        match &state.runtime {
            Some(runtime) => Ok(runtime.handle().clone()),
            None => unreachable!("just started"),
        }
    }

    fn runtime(&self, limits: Limits) -> io::Result<Runtime> {
        let (started, ended) = (Arc::clone(&self.threads), Arc::clone(&self.threads));
        Builder::new_multi_thread()
            .worker_threads(limits.threads.max(1))
            .max_blocking_threads(limits.blocking_threads.max(1))
            .thread_name(name_of_threads())
            .on_thread_start(move || _ = started.fetch_add(1, Ordering::AcqRel))
            .on_thread_stop(move || _ = ended.fetch_sub(1, Ordering::AcqRel))
            .enable_all()
            .build()
    }
}

/// The name of the calling shard with `async` in place of its number: `room.3.async`. The host tells by it to which generation a
/// thread belongs.
fn name_of_threads() -> String {
    let own = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
    let whose = own.trim_end().rsplit_once('.').map_or("", |(whose, _)| whose);
    format!("{whose}.async")
}

/// The right to run one future.
pub(crate) struct Room {
    slot: Slot,
    last: Option<LastSlot>,
    handle: Handle,
}

impl Room {
    pub(crate) fn spawn(self, place: Place, work: impl Future<Output = ()> + Send + 'static) {
        let Self { slot, last, handle } = self;
        let work = async move {
            work.await;
            drop((slot, last));
        };
        drop(handle.spawn(PLACE.scope(place, work)));
    }
}

/// Counts a future.
struct Slot(Arc<AtomicUsize>);

/// Counts a future that the end waits for.
struct LastSlot(Arc<Last>);

impl LastSlot {
    fn new(last: &Arc<Last>) -> Self {
        *last.running() += 1;
        Self(Arc::clone(last))
    }
}

impl Drop for LastSlot {
    fn drop(&mut self) {
        *self.0.running() -= 1;
        self.0.done.notify_all();
    }
}

impl Last {
    fn running(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, most: Duration) {
        drop(
            self.done
                .wait_timeout_while(self.running(), most, |running| *running > 0),
        );
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
