//! What a plugin's threads reach at any time: [`Outside`].
//!
//! A plugin runs on the thread of its test. What its other threads say waits here until the test looks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::body::Body;
use crate::abi::{Token, error};
use crate::refused_effect;

thread_local! {
    /// The test that runs on this thread.
    static CURRENT: RefCell<Weak<Outside>> = const { RefCell::new(Weak::new()) };
}

/// What a plugin said outside of any event, on whichever thread.
#[derive(Debug)]
#[allow(missing_docs, reason = "as `abi::Host` has them")]
pub enum Said {
    /// A promise was kept.
    Complete {
        topic: u64,
        serial: u64,
        status: String,
        body: Body,
    },
    /// A message was sent.
    Send {
        topic: u64,
        member: u64,
        name: String,
        body: Body,
    },
}

/// A line of the log.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Where in the plugin's code it comes from; empty for the kit's own lines.
    pub target: String,
    /// The topic that it is about, or 0.
    pub topic: u64,
    /// The member that it is about, or 0.
    pub member: u64,
    /// The level, the message and the fields.
    pub text: String,
}

/// What a plugin's threads may reach at any time.
pub struct Outside {
    said: Mutex<Vec<Said>>,
    news: Condvar,
    log: Mutex<Vec<Line>>,
    /// Promises that somebody waits for.
    awaited: Mutex<BTreeSet<u64>>,
    /// Whether the log wants lines of this level and target.
    wants: fn(u32, &str) -> bool,
}

impl Default for Outside {
    fn default() -> Self {
        Self::with_log(|_, _| true)
    }
}

impl Outside {
    /// From now on the test on this thread is the one that uses this.
    pub(super) fn enter(self: &Arc<Self>) {
        CURRENT.set(Arc::downgrade(self));
    }

    /// Whether the log wants lines of this level and target.
    pub(super) fn wants(&self, level: u32, target: &str) -> bool {
        (self.wants)(level, target)
    }

    /// With a log that wants these lines only.
    pub fn with_log(wants: fn(u32, &str) -> bool) -> Self {
        Self {
            said: Mutex::default(),
            news: Condvar::new(),
            log: Mutex::default(),
            awaited: Mutex::default(),
            wants,
        }
    }

    /// What was said since the last call.
    pub fn take(&self) -> Vec<Said> {
        std::mem::take(&mut *locked(&self.said))
    }

    /// Waits until there is something to take, `most` at the longest.
    pub fn wait(&self, most: Duration) {
        let waited = self
            .news
            .wait_timeout_while(locked(&self.said), most, |said| said.is_empty());
        drop(waited);
    }

    /// What is in the log.
    pub fn log(&self) -> Vec<Line> {
        locked(&self.log).clone()
    }

    /// Writes a line of the kit's own.
    pub(super) fn note(&self, text: String) {
        let line = Line {
            text,
            ..Line::default()
        };
        locked(&self.log).push(line);
    }

    /// Somebody waits for the answer to this promise.
    pub fn expect(&self, serial: u64) {
        locked(&self.awaited).insert(serial);
    }

    /// Nobody waits for it any more. Returns whether somebody did.
    pub fn forget(&self, serial: u64) -> bool {
        locked(&self.awaited).remove(&serial)
    }

    /// Whether somebody waits for it.
    pub(super) fn expects(&self, serial: u64) -> bool {
        locked(&self.awaited).contains(&serial)
    }

    /// Writes a line to the log of the test that runs on this thread. Code of this crate has one subscriber for all tests of the
    /// process: its lines may come by way of another test's host.
    pub(super) fn write(&self, line: Line) {
        match CURRENT.with_borrow(Weak::upgrade) {
            Some(current) => locked(&current.log).push(line),
            None => locked(&self.log).push(line),
        }
    }

    /// A thread keeps a promise. Returns 0 or one of [`error`].
    pub(super) fn complete(&self, token: Token, status: String, body: Body) -> i64 {
        if !body.is_valid() {
            return self.refuse("answer");
        }
        if !self.forget(token.serial) {
            self.note("warn an answer came too late, or a second time: nobody waits for it".to_owned());
            return error::GONE;
        }
        self.say(Said::Complete {
            topic: token.topic,
            serial: token.serial,
            status,
            body,
        })
    }

    /// A thread sends a message. Returns 0 or one of [`error`].
    pub(super) fn send(&self, topic: u64, member: u64, name: String, body: Body) -> i64 {
        if !body.is_valid() {
            return self.refuse("message");
        }
        if topic == 0 {
            return error::GONE;
        }
        self.say(Said::Send {
            topic,
            member,
            name,
            body,
        })
    }

    fn say(&self, said: Said) -> i64 {
        locked(&self.said).push(said);
        self.news.notify_all();
        0
    }

    fn refuse(&self, what: &str) -> i64 {
        let why = refused_effect::text(error::INVALID);
        self.note(format!("warn effect refused: {why} effect={what:?}"));
        error::INVALID
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
