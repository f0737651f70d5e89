//! Standard output and standard error of a server: a thread of its own writes each of them, from a bounded queue.
//!
//! Nobody who says something waits for whoever reads it. A stream that is slow, full or closed loses lines and nothing else. Bennu
//! counts those lines, and the log says how many they were once it is written again. Other commands, and a server before
//! [`start`], write directly.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use tracing_subscriber::fmt::MakeWriter;

use crate::runtime::threads::{self, fault};

/// The least number of a copy of a descriptor.
const FIRST_COPY: i32 = 3;
/// Bytes that are written at a time.
const BATCH: usize = 64 * 1024;
/// What a line in the queue takes besides its text.
const PER_LINE: usize = size_of::<Vec<u8>>();
/// How long the end of the process waits for the last lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Out,
    /// Standard error: the log.
    Log,
}

/// The queues of both streams, once they are started.
static QUEUES: [OnceLock<Arc<Queue>>; 2] = [OnceLock::new(), OnceLock::new()];
/// Descriptors of our own for both streams. A plugin may close 1 and 2, and then the next client's connection has that number.
static COPIES: [OnceLock<OwnedFd>; 2] = [OnceLock::new(), OnceLock::new()];

/// Starts the threads. `max_bytes` may wait for each stream. Returns the count of lines of the log that were dropped.
///
/// # Errors
///
/// If the system gives no thread, or no descriptor.
pub(super) fn start(max_bytes: usize) -> io::Result<Counter> {
    for stream in [Stream::Out, Stream::Log] {
        stream.keep_copy()?;
        let queue = Arc::clone(stream.queue().get_or_init(|| Arc::new(Queue::new(max_bytes))));
        threads::try_spawn(stream.name(), move || -> io::Result<()> {
            let _marks = MarksEnd(&queue);
            let mut writer = Writer::new(stream);
            loop {
                fault::point(stream.name());
                queue.write_batch(&mut writer);
            }
        })?;
    }
    let log = Stream::Log.queue().get();
    Ok(log.map(|queue| queue.dropped.clone()).unwrap_or_default())
}

/// Says something. `text` comes with its line ends.
pub(super) fn write(stream: Stream, text: &[u8]) {
    match stream.queue().get() {
        Some(queue) => queue.push(text),
        // Nobody to tell if this fails.
        None => drop(stream.write_all(text)),
    }
}

/// Waits until everything is written that was said so far; not for long if nobody takes it.
pub(super) fn finish() {
    for stream in [Stream::Out, Stream::Log] {
        let Some(queue) = stream.queue().get() else { continue };
        if queue.has_no_thread.load(Ordering::Acquire) {
            let queue = Arc::clone(queue);
            // For the last words: why the thread has ended is among them.
            thread::spawn(move || {
                let mut writer = Writer::new(stream);
                loop {
                    queue.write_batch(&mut writer);
                }
            });
        }
        queue.drain(PATIENCE);
    }
}

impl Stream {
    fn queue(self) -> &'static OnceLock<Arc<Queue>> {
        &QUEUES[self as usize]
    }

    /// The name of its thread.
    fn name(self) -> &'static str {
        match self {
            Self::Out => "output",
            Self::Log => "log",
        }
    }

    /// Makes a copy of its descriptor, which nobody else knows.
    fn keep_copy(self) -> io::Result<()> {
        let copy = match self {
            Self::Out => fcntl_dupfd_cloexec(io::stdout(), FIRST_COPY)?,
            Self::Log => fcntl_dupfd_cloexec(io::stderr(), FIRST_COPY)?,
        };
        COPIES[self as usize].get_or_init(|| copy);
        Ok(())
    }

    /// Writes past the locks and buffers of the standard library.
    fn write_all(self, bytes: &[u8]) -> Result<(), Stopped> {
        match (COPIES[self as usize].get(), self) {
            (Some(copy), _) => write_all(copy, bytes),
            (None, Self::Out) => write_all(&io::stdout(), bytes),
            (None, Self::Log) => write_all(&io::stderr(), bytes),
        }
    }
}

/// A stream has taken only so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stopped(usize);

/// Waits for a stream that does not block, as for one that does.
fn write_all(stream: &impl AsFd, bytes: &[u8]) -> Result<(), Stopped> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(stream, &bytes[written..]) {
            Ok(0) => return Err(Stopped(written)),
            Ok(more) => written += more,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let waits = poll(&mut [PollFd::new(stream, PollFlags::OUT)], None);
                if waits.is_err_and(|error| error != Errno::INTR) {
                    return Err(Stopped(written));
                }
            }
            Err(_) => return Err(Stopped(written)),
        }
    }
    Ok(())
}

/// Writes the events of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogWriter;

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for LogWriter {
    /// Called once for each event, with all of it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(Stream::Log, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What waits for one stream.
#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    max_bytes: usize,
    dropped: Counter,
    has_no_thread: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// What they take, and what is being written.
    bytes: usize,
    /// Somebody waits for a change.
    awaited: bool,
}

/// Lines that are written at a time.
#[derive(Debug, Default)]
struct Batch {
    text: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

impl Queue {
    fn new(max_bytes: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            max_bytes,
            dropped: Counter::default(),
            has_no_thread: AtomicBool::new(false),
        }
    }

    /// Adds a line, or drops it where there is no room.
    fn push(&self, text: &[u8]) {
        let takes = text.len() + PER_LINE;
        let mut waiting = self.waiting();
        if waiting.bytes + takes > self.max_bytes {
            self.dropped.inc();
            return;
        }
        waiting.bytes += takes;
        waiting.lines.push_back(text.to_vec());
        self.tell(waiting);
    }

    /// Waits for lines, and writes as many of them as go together.
    fn write_batch<W: FnMut(&[u8]) -> Result<(), Stopped>>(&self, writer: &mut Writer<W>) {
        let batch = self.take();
        self.dropped.inc_by(writer.write(&batch));
        let mut waiting = self.waiting();
        waiting.bytes -= batch.text.len() + batch.ends.len() * PER_LINE;
        self.tell(waiting);
        writer.say_dropped(self.dropped.get());
    }

    fn take(&self) -> Batch {
        let mut waiting = self.waiting();
        while waiting.lines.is_empty() {
            waiting = self.wait(waiting, Duration::MAX);
        }
        let mut batch = Batch::default();
        while batch.text.len() < BATCH
            && let Some(line) = waiting.lines.pop_front()
        {
            batch.text.extend(line);
            batch.ends.push(batch.text.len());
        }
        batch
    }

    /// Waits until nothing is left, but no longer than `patience`.
    fn drain(&self, patience: Duration) {
        let start = Instant::now();
        let mut waiting = self.waiting();
        while waiting.bytes > 0 && start.elapsed() < patience {
            waiting = self.wait(waiting, patience.saturating_sub(start.elapsed()));
        }
    }

    fn wait<'a>(&'a self, mut waiting: MutexGuard<'a, Waiting>, most: Duration) -> MutexGuard<'a, Waiting> {
        waiting.awaited = true;
        let waited = self.changed.wait_timeout(waiting, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes whoever waits for a change.
    fn tell(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let awaited = std::mem::take(&mut waiting.awaited);
        drop(waiting);
        if awaited {
            self.changed.notify_all();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing is half done where this could panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that the thread of a queue has ended.
struct MarksEnd<'a>(&'a Queue);

impl Drop for MarksEnd<'_> {
    fn drop(&mut self) {
        self.0.has_no_thread.store(true, Ordering::Release);
    }
}

/// One stream, and what became of the lines so far.
struct Writer<W> {
    stream: Stream,
    write: W,
    /// The last line was cut off.
    is_cut: bool,
    works: bool,
    /// How many dropped lines the log has told.
    told: u64,
}

impl Writer<fn(&[u8]) -> Result<(), Stopped>> {
    fn new(stream: Stream) -> Self {
        let write: fn(&[u8]) -> _ = match stream {
            Stream::Out => |bytes| Stream::Out.write_all(bytes),
            Stream::Log => |bytes| Stream::Log.write_all(bytes),
        };
        Self::to(stream, write)
    }
}

impl<W: FnMut(&[u8]) -> Result<(), Stopped>> Writer<W> {
    fn to(stream: Stream, write: W) -> Self {
        Self {
            stream,
            write,
            is_cut: false,
            works: true,
            told: 0,
        }
    }

    /// Writes a batch. Returns how many of its lines were lost.
    fn write(&mut self, batch: &Batch) -> u64 {
        if self.is_cut {
            self.is_cut = (self.write)(b"\n").is_err();
        }
        let written = match (self.write)(&batch.text) {
            Ok(()) => batch.text.len(),
            Err(Stopped(written)) => {
                self.is_cut |= written > 0 && !batch.ends.contains(&written);
                written
            }
        };
        self.works = written == batch.text.len();
        let lost = batch.ends.iter().filter(|end| **end > written).count();
        lost as u64
    }

    /// Has the log say how many lines were dropped, once it is written again.
    fn say_dropped(&mut self, dropped: u64) {
        if self.works && dropped > self.told {
            let lines = dropped - self.told;
            self.told = dropped;
            match self.stream {
                Stream::Out => tracing::warn!(lines, "lines were dropped: standard output was slow, full or closed"),
                Stream::Log => tracing::warn!(
                    lines,
                    "lines of the log were dropped: standard error was slow, full or closed"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn batch(lines: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for line in lines {
            batch.text.extend(line.bytes());
            batch.ends.push(batch.text.len());
        }
        batch
    }

    #[test]
    fn who_says_something_does_not_wait_and_what_finds_no_room_is_counted() {
        let queue = Arc::new(Queue::new(10 * (PER_LINE + 10)));
        let (go_on, blocked) = mpsc::channel::<()>();
        let (says, said) = mpsc::channel();
        let writes = Arc::clone(&queue);
        let thread = thread::spawn(move || {
            let mut writer = Writer::to(Stream::Log, |bytes: &[u8]| {
                blocked.recv().map_err(|_| Stopped(0))?;
                says.send(bytes.to_vec()).map_err(|_| Stopped(0))
            });
            let mut lines = 0;
            while lines < 10 {
                let before = writes.waiting().lines.len();
                writes.write_batch(&mut writer);
                lines += before.max(1);
            }
        });
        // The reader takes nothing yet.
        (0..100).for_each(|_| queue.push(b"ten bytes\n"));
        assert_eq!(queue.dropped.get(), 90);
        queue.drain(Duration::from_millis(1));
        assert!(queue.waiting().bytes > 0, "nobody waits for ever");
        drop(go_on);
        queue.drain(Duration::from_secs(5));
        assert_eq!(queue.waiting().bytes, 0);
        assert_eq!(
            (said.try_iter().count(), queue.dropped.get()),
            (0, 100),
            "a closed stream loses lines"
        );
        drop((thread, said));
    }

    #[test]
    fn lines_that_are_not_written_whole_are_lost_and_the_next_one_begins_anew() {
        let mut written = Vec::new();
        let mut room = 7;
        let mut writer = Writer::to(Stream::Log, |bytes: &[u8]| {
            let fits = bytes.len().min(room);
            written.extend_from_slice(&bytes[..fits]);
            room = room.saturating_sub(fits);
            if fits == bytes.len() {
                return Ok(());
            }
            room = 100;
            Err(Stopped(fits))
        });
        assert_eq!(writer.write(&batch(&["one\n", "two\n", "three\n"])), 2);
        assert!(!writer.works);
        assert_eq!(writer.write(&batch(&["four\n"])), 0);
        assert!(writer.works);
        assert_eq!(String::from_utf8_lossy(&written), "one\ntwo\nfour\n");
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for_and_one_without_a_reader_is_an_end() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("set");
        let bytes = vec![b'x'; 1 << 20];
        let reads = thread::spawn(move || {
            let mut all = vec![0; 1 << 20];
            io::Read::read_exact(&mut reader, &mut all).map(|()| all.len())
        });
        assert_eq!(write_all(&writer, &bytes), Ok(()));
        assert_eq!(reads.join().expect("no panic").expect("read"), bytes.len());
        assert_eq!(write_all(&writer, &bytes), Err(Stopped(0)), "the reader is gone");
    }
}
