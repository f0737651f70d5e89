//! How other threads of a plugin reach the host: [`Remote`], and the promises that they keep, [`Later`].

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::glue::HostHandle;
use crate::log;
use crate::panics::catch;
use crate::payload::IntoPayload;

/// The promise to answer a join, an event or a connect later. [`Context::later`](crate::Context::later) makes it;
/// [`Remote::complete`] or [`Context::complete`](crate::Context::complete) keeps it. The host drops the answer if the client is
/// gone or the deadline is over.
///
/// A promise is plain data: kept in state, or in the payload of a message or a timer, it survives a reload, and the next
/// generation answers it. If only a thread holds it, that thread must keep it within `retire_ms`. When a generation ends, the host
/// answers its open promises with the error `{"reason":"reloaded"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Data", into = "Data")]
#[must_use = "a promise that is not kept leaves its client waiting"]
pub struct Later {
    pub(crate) topic: u64,
    pub(crate) serial: u64,
    /// The answer is a reply to the client; otherwise it goes back to the plugin.
    pub(crate) reply: bool,
}

/// A [`Later`] as serde writes it. [`Seen`] notes when one is written or read.
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

/// A promise that serde read or wrote during a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Read(u64),
    Written(u64),
}

thread_local! {
    /// Whether a shard handles an event on this thread. Other threads note nothing, so they have nothing to drop.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

impl Seen {
    fn note(seen: Self) {
        if LOOKING.get() {
            SEEN.with_borrow_mut(|all| all.push(seen));
        }
    }

    /// Runs `work`. Returns its result, and the promises that serde read or wrote meanwhile.
    pub(crate) fn during<T>(work: impl FnOnce() -> T) -> (T, Vec<Self>) {
        LOOKING.set(true);
        let done = work();
        LOOKING.set(false);
        (done, SEEN.take())
    }

    /// Runs `work` in the middle of that, and notes nothing of it.
    pub(crate) fn nothing_during<T>(work: impl FnOnce() -> T) -> T {
        let looking = LOOKING.replace(false);
        let done = work();
        LOOKING.set(looking);
        done
    }
}

/// A handle to the host for any thread: `Send`, `Sync`, cheap to clone. It belongs to the member or the topic in whose callback it
/// was made, and does nothing after its generation has shut down.
#[derive(Clone)]
pub struct Remote {
    pub(crate) host: Arc<HostHandle>,
    pub(crate) topic: u64,
    pub(crate) member: u64,
}

impl Remote {
    /// Keeps a promise. For an event, `status` and `payload` are the reply. For a join or a connect, `payload` goes to `join_answer`
    /// or `connect_answer`; but the status `error` refuses the join with `payload`, and the number of an HTTP status refuses the
    /// connect. Returns whether the host took the answer.
    pub fn complete(&self, later: Later, status: &str, payload: impl IntoPayload) -> bool {
        self.host.complete(&later, status, payload.lend(&mut Vec::new())) >= 0
    }

    /// Sends the message `name` to the member, or to the topic if this was made in a callback of the topic. It arrives in
    /// `handle_info` or `handle_topic_info`. Returns whether the host took it.
    pub fn send(&self, name: &str, payload: impl IntoPayload) -> bool {
        self.host
            .send(self.topic, self.member, name, payload.lend(&mut Vec::new()))
            >= 0
    }

    /// Sends the message `name` to the topic. It arrives in `handle_topic_info`. Returns whether the host took it.
    pub fn send_to_topic(&self, name: &str, payload: impl IntoPayload) -> bool {
        self.host.send(self.topic, 0, name, payload.lend(&mut Vec::new())) >= 0
    }
}

/// The threads that a plugin started with `spawn`. All of them must end before the host can unload the library.
#[derive(Default)]
pub(crate) struct Threads {
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts a thread. A panic ends that thread only, and is logged.
    pub(crate) fn spawn(&self, remote: Remote, work: impl FnOnce(Remote) + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A detached thread could still run this library's code while the host unloads it.
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

    /// Waits for all threads. Returns whether they ended in time.
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
            // The thread caught and logged its panic, but dropping what it holds may panic again.
            let _ = thread.join();
        }
        true
    }
}
