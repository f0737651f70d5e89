//! What other threads of a plugin use to reach the host: [`Remote`], and the promises that they keep, [`Later`].

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::glue::HostHandle;
use crate::log;
use crate::panics::catch;
use crate::payload::IntoPayload;

/// The promise to answer a join, an event or a connect later. Plain data: it may be kept in state, and survives a
/// reload there. Made by [`Context::later`](crate::Context::later), kept by [`Remote::complete`] or
/// [`Context::complete`](crate::Context::complete). Where the client is gone, or the host's deadline is over, the answer
/// is dropped.
///
/// When a generation ends, what it has promised and can no longer answer is answered with the error `{"reason":"reloaded"}`.
/// A promise goes on where it has become data: in state that the next generation reads, or in the payload of a message or a
/// timer. One that only a thread holds is kept by that thread within `retire_ms`, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Data", into = "Data")]
#[must_use = "a promise that is not kept leaves its client waiting"]
pub struct Later {
    pub(crate) topic: u64,
    pub(crate) serial: u64,
    /// A reply goes to the client, any other answer back to the plugin.
    pub(crate) reply: bool,
}

/// A [`Later`] as it is written. Going to and fro is noticed: see [`Seen`].
#[derive(Serialize, Deserialize)]
struct Data {
    topic: u64,
    serial: u64,
    reply: bool,
}

impl From<Data> for Later {
    fn from(Data { topic, serial, reply }: Data) -> Self {
        Seen::note(Seen::Read(serial));
        Self { topic, serial, reply }
    }
}

impl From<Later> for Data {
    fn from(Later { topic, serial, reply }: Later) -> Self {
        Seen::note(Seen::Written(serial));
        Self { topic, serial, reply }
    }
}

/// A promise that was read from data, or written as such, while the host was not looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Read(u64),
    Written(u64),
}

thread_local! {
    /// Whether this is a shard's thread at work: on others nothing is noted, so that nothing is to be dropped there.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

impl Seen {
    fn note(seen: Self) {
        if LOOKING.get() {
            SEEN.with_borrow_mut(|all| all.push(seen));
        }
    }

    /// Does `work`; returns what it gives and the promises that went by meanwhile.
    pub(crate) fn during<T>(work: impl FnOnce() -> T) -> (T, Vec<Self>) {
        LOOKING.set(true);
        let done = work();
        LOOKING.set(false);
        (done, SEEN.take())
    }
}

/// Reaches the host from any thread: `Send`, `Sync`, cheap to clone. Belongs to the member, or the topic, in whose callback
/// it was made. Does nothing once its generation is shut down.
#[derive(Clone)]
pub struct Remote {
    pub(crate) host: Arc<HostHandle>,
    pub(crate) topic: u64,
    pub(crate) member: u64,
}

impl Remote {
    /// Keeps a promise. For an event, `status` and `payload` are the reply. For a join or a connect, `payload` is handed to
    /// `join_answer` or `connect_answer`, unless `status` has decided already: `error` refuses the join with `payload`, the
    /// number of an HTTP status refuses the connect. Returns whether the host took it.
    pub fn complete(&self, later: Later, status: &str, payload: impl IntoPayload) -> bool {
        self.host.complete(&later, status, payload.lend(&mut Vec::new())) >= 0
    }

    /// Sends the message `name` to the member that this was made for, or to the topic where it was made in a callback of the
    /// topic. Arrives in `handle_info` or `handle_topic_info`. Returns whether the host took it.
    pub fn send(&self, name: &str, payload: impl IntoPayload) -> bool {
        self.host
            .send(self.topic, self.member, name, payload.lend(&mut Vec::new()))
            >= 0
    }

    /// Sends the message `name` to the topic. Arrives in `handle_topic_info`. Returns whether the host took it.
    pub fn send_to_topic(&self, name: &str, payload: impl IntoPayload) -> bool {
        self.host.send(self.topic, 0, name, payload.lend(&mut Vec::new())) >= 0
    }
}

/// The threads that a plugin started with `spawn`. All of them must have ended before the library can go.
#[derive(Default)]
pub(crate) struct Threads {
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts one. A panic ends that thread only, and is logged.
    pub(crate) fn spawn(&self, remote: Remote, work: impl FnOnce(Remote) + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that is only detached may still be in this library while it is unloaded.
        for ended in running.extract_if(.., |thread| thread.is_finished()) {
            let _ = ended.join();
        }
        running.push(std::thread::spawn(move || {
            log::enter(remote.topic, remote.member);
            if let Err(panic) = catch(move || work(remote)) {
                tracing::error!(panic, "a spawned thread panicked");
            }
        }));
    }

    /// Waits for all of them. Returns whether they ended in time.
    pub(crate) fn join_all(&self, deadline: Duration) -> bool {
        let start = Instant::now();
        for thread in std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner)) {
            // The standard library cannot join with a deadline.
            while !thread.is_finished() {
                if start.elapsed() >= deadline {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // A panic was caught and logged inside; dropping what it holds may panic once more.
            let _ = thread.join();
        }
        true
    }
}
