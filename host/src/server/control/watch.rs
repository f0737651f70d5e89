//! Notices that the contents of a file, or of a folder of sources, have changed.
//!
//! It watches directories, never files: a build removes its file and makes another, and a watch on the old one would hear nothing
//! more. An event only says where to look; the contents decide. A slow poll finds changes on file systems that send no events. The
//! watcher also reports a file that was saved without a change. A removed file changes nothing, but one that stays away is reported
//! once. Never here: what to do about it.

mod subject;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

pub(crate) use self::subject::SourceSet;
use self::subject::{Print, Save, Subject};
use crate::config::ContentHash;
use crate::runtime::threads;

/// When to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatchTimes {
    /// How long it must be quiet after an event before the watcher looks.
    pub(crate) debounce: Duration,
    /// How long events may put that off, and how long whoever has written to a file may be silent before closing it.
    pub(crate) at_latest: Duration,
    /// How often it looks without any event.
    pub(crate) poll: Duration,
    /// How long a file may be gone before that is reported: replacing it takes a moment.
    pub(crate) absence: Duration,
}

impl Default for WatchTimes {
    /// 75 ms, 2 s, 2 s, 2 s.
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(75),
            at_latest: Duration::from_secs(2),
            poll: Duration::from_secs(2),
            absence: Duration::from_secs(2),
        }
    }
}

/// Something has happened to a watched file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// As given to [`Watcher::file`] or [`Watcher::sources`].
    pub(crate) name: String,
    /// The file, or the first of the folders.
    pub(crate) path: PathBuf,
    /// What has happened.
    pub(crate) what: What,
}

/// What has happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Its contents may have changed. Reported once for each change.
    Changed,
    /// It was written or replaced, with the same contents as before.
    Saved,
    /// It has been gone for a while, for this reason. Reported once, until it is back.
    Gone(String),
    /// It is back. If it has changed, that is reported next.
    Back,
}

/// Watches until it is dropped.
pub(crate) struct Watcher {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Watch(String, Subject),
    Took(String, ContentHash),
    Forget(String),
    Heard(notify::Result<Event>),
    Stop,
}

impl Watcher {
    /// Starts a thread that calls `on_news` for each change.
    ///
    /// # Errors
    ///
    /// If the system starts no thread. If it offers no events, that is logged, and the poll does everything.
    pub(crate) fn start(times: WatchTimes, on_news: impl FnMut(News) + Send + 'static) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let heard = commands.clone();
        let listener = notify::recommended_watcher(move |event| drop(heard.send(Command::Heard(event))));
        let listener = listener
            .inspect_err(|error| tracing::warn!(%error, "the system reports no file changes; Bennu looks for changes regularly instead"))
            .ok();
        let worker = Worker {
            times,
            inbox,
            listener,
            watched: HashMap::new(),
            entries: HashMap::new(),
            on_news,
        };
        let thread = threads::spawn("bennu-watch", move || worker.run())?;
        Ok(Self {
            commands,
            thread: Some(thread),
        })
    }

    /// Watches a file, which need not exist yet, from its present contents on. Replaces what had this name; if that was the same
    /// file, its last seen contents still count.
    pub(crate) fn file(&self, name: &str, path: &Path) {
        self.watch(name, Subject::file(path));
    }

    /// Says which contents were read from the file. Any others are a change, even if the watcher has seen them before.
    pub(crate) fn took(&self, name: &str, contents: ContentHash) {
        self.send(Command::Took(name.to_owned(), contents));
    }

    /// Watches sources, from what they were at `since`; for `None`, whatever is there is a change. Replaces what had this name.
    pub(crate) fn sources(&self, name: &str, set: SourceSet, since: Option<SystemTime>) {
        self.watch(name, Subject::sources(set, since));
    }

    /// Watches `name` no more.
    pub(crate) fn forget(&self, name: &str) {
        self.send(Command::Forget(name.to_owned()));
    }

    fn watch(&self, name: &str, subject: Subject) {
        self.send(Command::Watch(name.to_owned(), subject));
    }

    fn send(&self, command: Command) {
        // The thread ends only on `Stop`, or by a panic that was logged.
        let _ = self.commands.send(command);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

/// The watching thread.
struct Worker<F> {
    times: WatchTimes,
    inbox: Receiver<Command>,
    listener: Option<RecommendedWatcher>,
    /// The directories that have a listener, with their identity: a directory that was made again needs a new listener.
    watched: HashMap<PathBuf, (u64, u64)>,
    entries: HashMap<String, Entry>,
    on_news: F,
}

/// What has one name.
struct Entry {
    subject: Subject,
    seen: Print,
    /// When and to which file `seen` was saved; `None`: not known yet.
    saved: Option<Save>,
    /// What was heard of it since the last look.
    waiting: Option<Heard>,
    next_poll: Instant,
    /// Whether there are contents.
    absence: Absence,
}

/// Events that nobody has looked into yet.
#[derive(Clone, Copy, Debug)]
struct Heard {
    first: Instant,
    last: Instant,
    /// Somebody has written to a file, and has not closed it: what is there may be half of it.
    is_open: bool,
}

/// Whether a file that was there is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// It is not, or it never was there.
    None,
    /// Since then, perhaps only for a moment.
    Since(Instant),
    /// For so long that it was reported.
    Told,
}

impl<F: FnMut(News)> Worker<F> {
    fn run(mut self) {
        loop {
            match self.inbox.recv_timeout(self.until_due()) {
                Ok(Command::Watch(name, subject)) => self.watch(name, subject),
                Ok(Command::Took(name, contents)) => self.took(&name, contents),
                Ok(Command::Forget(name)) => {
                    self.entries.remove(&name);
                    self.listen();
                }
                Ok(Command::Heard(event)) => self.hear(event),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look();
        }
    }

    fn watch(&mut self, name: String, subject: Subject) {
        // Otherwise a change that has not been reported yet would count as what was there from the start.
        if self
            .entries
            .get(&name)
            .is_some_and(|known| known.subject.is_same_file(&subject))
        {
            return;
        }
        let now = Instant::now();
        let entry = Entry {
            seen: *subject.seen(),
            saved: subject.saved(),
            subject,
            // Looks once more soon: there was no listener yet while `subject` was made.
            waiting: Some(Heard::at(now)),
            next_poll: now + self.times.poll,
            absence: Absence::None,
        };
        self.entries.insert(name, entry);
        self.listen();
    }

    fn took(&mut self, name: &str, contents: ContentHash) {
        let now = Instant::now();
        if let Some(entry) = self.entries.get_mut(name)
            && entry.seen != Some(contents)
        {
            entry.seen = Some(contents);
            entry.saved = None;
            entry.waiting = entry.waiting.or(Some(Heard::at(now)));
        }
    }

    fn hear(&mut self, event: notify::Result<Event>) {
        let now = Instant::now();
        let event = match event {
            // The host's own reading is an access, too.
            Ok(event) if is_reading(event.kind) => return,
            Ok(event) => event,
            // After an overflow, for example, anything may have happened.
            Err(_) => Event::new(EventKind::Any),
        };
        for entry in self
            .entries
            .values_mut()
            .filter(|entry| entry.subject.concerns(&event.paths))
        {
            let heard = entry.waiting.get_or_insert(Heard::at(now));
            heard.last = now;
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => heard.is_open = true,
                EventKind::Access(_) => heard.is_open = false,
                _ => {}
            }
        }
    }

    /// Looks at everything that is due.
    fn look(&mut self) {
        let now = Instant::now();
        let (mut looked, mut news) = (false, Vec::new());
        for (name, entry) in &mut self.entries {
            if entry.due(&self.times) > now {
                continue;
            }
            looked = true;
            entry.waiting = None;
            entry.next_poll = now + self.times.poll;
            news.extend(entry.look(&self.times, now).into_iter().map(|what| News {
                name: name.clone(),
                path: entry.subject.path().to_owned(),
                what,
            }));
        }
        if looked {
            self.listen();
        }
        news.into_iter().for_each(&mut self.on_news);
    }

    fn until_due(&self) -> Duration {
        let due = self.entries.values().map(|entry| entry.due(&self.times)).min();
        due.map_or(self.times.poll, |due| due.saturating_duration_since(Instant::now()))
    }

    /// Has a listener on exactly the directories that the entries are in now.
    fn listen(&mut self) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        let wanted: HashMap<PathBuf, (u64, u64)> = self
            .entries
            .values()
            .flat_map(|entry| entry.subject.directories())
            .filter_map(|dir| Some((dir.clone(), subject::identity(&dir)?)))
            .collect();
        for dir in self
            .watched
            .keys()
            .filter(|dir| wanted.get(*dir) != self.watched.get(*dir))
        {
            // Fails where the directory is gone, and the watch with it.
            let _ = listener.unwatch(dir);
        }
        self.watched.retain(|dir, identity| wanted.get(dir) == Some(identity));
        let mut added = false;
        for (dir, identity) in wanted {
            if self.watched.contains_key(&dir) {
                continue;
            }
            match listener.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(dir, identity);
                    added = true;
                }
                Err(error) => {
                    tracing::debug!(dir = %dir.display(), %error, "directory not watched, polling only")
                }
            }
        }
        if added {
            // Nothing has reported what happened in a new directory before it had a listener.
            let now = Instant::now();
            for entry in self.entries.values_mut() {
                entry.waiting = entry.waiting.or(Some(Heard::at(now)));
            }
        }
    }
}

impl Heard {
    fn at(now: Instant) -> Self {
        Self {
            first: now,
            last: now,
            is_open: false,
        }
    }
}

impl Entry {
    fn due(&self, times: &WatchTimes) -> Instant {
        match (self.waiting, self.absence) {
            // No poll before that: it would see a file that is half written.
            (Some(heard), _) if heard.is_open => heard.last + times.at_latest,
            (Some(heard), _) => (heard.last + times.debounce).min(heard.first + times.at_latest),
            (None, Absence::Since(since)) => self.next_poll.min(since + times.absence),
            (None, _) => self.next_poll,
        }
    }

    /// Looks again, and keeps what it finds. A file that is gone counts as unchanged.
    fn look(&mut self, times: &WatchTimes, now: Instant) -> Vec<What> {
        let mut news = Vec::new();
        match self.subject.look() {
            Ok(found) => {
                let saved = self.subject.saved();
                let before = std::mem::replace(&mut self.saved, saved);
                if self.absence == Absence::Told {
                    news.push(What::Back);
                }
                if found != self.seen {
                    self.seen = found;
                    news.push(What::Changed);
                } else if self.absence != Absence::Told && before.is_some_and(|before| saved != Some(before)) {
                    news.push(What::Saved);
                }
                self.absence = Absence::None;
            }
            Err(why) => match self.absence {
                Absence::None if self.seen.is_some() => self.absence = Absence::Since(now),
                Absence::Since(since) if now >= since + times.absence => {
                    self.absence = Absence::Told;
                    news.push(What::Gone(why));
                }
                _ => {}
            },
        }
        news
    }
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests;
