//! Threads of the host that must not end while it serves.
//!
//! A server with a dead I/O thread, without timers or without its watchdog would go on for only some of its clients. So a thread
//! that panics or fails is noticed here: the log says so, `/ready` answers 503, and the server stops with an error.

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::thread::{self, JoinHandle};

use tokio::sync::watch;

/// A thread of the host that ended too early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread {thread} has ended: {why}")]
pub struct ThreadEnded {
    /// Its name.
    pub thread: String,
    /// What it panicked with, or its error.
    pub why: String,
}

/// The threads of the process.
static THREADS: LazyLock<Threads> = LazyLock::new(Threads::default);

/// Starts a thread of the host. Once `body` panics, the server stops.
///
/// # Errors
///
/// If the system gives no thread.
pub(crate) fn spawn(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    try_spawn(name, move || {
        body();
        Ok::<_, Infallible>(())
    })
}

/// Starts a thread of the host. Once `body` panics or fails, the server stops.
///
/// # Errors
///
/// If the system gives no thread.
pub(crate) fn try_spawn<E: Display>(
    name: impl Into<String>,
    body: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let name = name.into();
    let thread = thread::Builder::new().name(name.clone());
    thread.spawn(move || THREADS.run(&name, body))
}

/// Runs what a thread that was started elsewhere does for the host. Once `body` panics, the server stops.
pub(crate) fn guard(name: &str, body: impl FnOnce()) {
    THREADS.run(name, || {
        body();
        Ok::<_, Infallible>(())
    });
}

/// The thread that ended too early, if one did.
#[must_use]
pub(crate) fn ended() -> Option<ThreadEnded> {
    THREADS.ended.borrow().clone()
}

/// Waits until a thread ends too early.
pub(crate) async fn any_ended() -> ThreadEnded {
    THREADS.any_ended().await
}

#[derive(Debug)]
struct Threads {
    /// The first that ended. Others may end because of it.
    ended: watch::Sender<Option<ThreadEnded>>,
}

impl Default for Threads {
    fn default() -> Self {
        let ended = watch::Sender::new(None);
        Self { ended }
    }
}

impl Threads {
    fn run<E: Display>(&self, name: &str, body: impl FnOnce() -> Result<(), E>) {
        let why = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("it panicked: {}", said(&*panic)),
        };
        tracing::error!(thread = name, "a thread of the host has ended, the server stops: {why}");
        let thread = name.to_owned();
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(ThreadEnded { thread, why });
            is_first
        });
    }

    async fn any_ended(&self) -> ThreadEnded {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        { ended.ok().and_then(|ended| ended.clone()) }.expect("the sender is there, and waits for one")
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// Ends a thread on purpose, so that a test can show that the host notices. Not in release builds.
pub(crate) mod fault {
    /// Names a file. A thread whose name the file holds panics; behind the word `hang`, it does nothing more.
    #[cfg(debug_assertions)]
    const VARIABLE: &str = "BENNU_FAULT_THREAD";

    /// To be called whenever the thread `name` has something to do.
    #[cfg(debug_assertions)]
    pub(crate) fn point(name: &str) {
        static FILE: std::sync::LazyLock<Option<std::path::PathBuf>> =
            std::sync::LazyLock::new(|| std::env::var_os(VARIABLE).map(Into::into));
        let wanted = FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        let Some(wanted) = wanted else { return };
        while wanted.trim().strip_prefix("hang ") == Some(name) {
            std::thread::park();
        }
        assert!(wanted.trim() != name, "ended on purpose");
    }

    #[cfg(not(debug_assertions))]
    pub(crate) const fn point(_: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_panics_or_fails_is_told_with_its_reason() {
        for (body, why) in [
            (
                (|| panic!("oh {}", "no")) as fn() -> Result<(), &'static str>,
                "it panicked: oh no",
            ),
            (|| Err("no poll"), "no poll"),
        ] {
            let threads = Threads::default();
            threads.run("io.0", body);
            let ended = threads.any_ended().await;
            assert_eq!((&*ended.thread, &*ended.why), ("io.0", why));
        }
    }

    #[test]
    fn a_thread_that_is_done_is_none_that_ended_too_early_and_the_first_reason_stays() {
        let threads = Threads::default();
        threads.run("io.0", || Ok::<_, &str>(()));
        assert_eq!(*threads.ended.borrow(), None);
        threads.run("io.0", || Err("first"));
        threads.run("io.1", || Err("second"));
        let ended = threads.ended.borrow().clone().expect("one ended");
        assert_eq!((&*ended.thread, &*ended.why), ("io.0", "first"));
    }
}
