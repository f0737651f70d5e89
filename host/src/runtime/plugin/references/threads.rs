//! Threads that run in a library, or return to it: by their names and by what lies on their stacks.
//!
//! A thread that is started takes the name of the one that starts it, and shards are called after their generation. A thread with
//! another name is known by its stack: somewhere on it lies an address of the code that runs there, at its top the function that it
//! was started with. A word that only looks like one keeps a library mapped that could go, and does no other harm.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use crate::runtime::plugin::loader::{Owner, owner_of, whose_code};

/// A thread's number and the time when it started: numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime::plugin) struct ThreadId {
    number: u32,
    started: u64,
}

/// As much of a stack is looked at. Frames that matter are within, and the thread's first function on all but the deepest.
const MOST_STACK: usize = 8 << 20;
/// How often a thread that computes is looked at before it is asked.
const LOOKS: usize = 5;
/// Threads of the kernel's own, which never run code of the process.
const OF_THE_KERNEL: &str = "iou-";
/// What the names of a generation's threads begin with. The system keeps 15 bytes of a name: that of a long plugin is cut, not
/// the numbers, which threads that the plugin starts inherit.
pub(in crate::runtime::plugin) fn name_of_threads(plugin: &str, generation: u64) -> String {
    const MOST: usize = 15;
    const INDEX: usize = 2;
    let number = format!(".{generation}.");
    let cut = plugin.floor_char_boundary(MOST.saturating_sub(number.len() + INDEX));
    format!("{}{number}", &plugin[..cut])
}

/// All threads of this process.
pub(super) fn all() -> Vec<ThreadId> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let number = task.file_name().to_str()?.parse().ok()?;
            // One may end just now.
            ThreadId::of(number)
        })
        .collect()
}

/// The names of this process's threads that begin so. Those at their end are waited for: the system goes on listing a thread for a
/// moment after whoever joined it has gone on.
pub(in crate::runtime::plugin) fn called(beginning: &str) -> Vec<String> {
    const LAST_MOMENT: Duration = Duration::from_millis(100);
    let since = Instant::now();
    loop {
        let names = all().into_iter().filter_map(|thread| thread.name());
        let found: Vec<_> = names.filter(|name| name.starts_with(beginning)).collect();
        if found.is_empty() || since.elapsed() >= LAST_MOMENT {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The names of the threads that came after `before` and run in the library of `owner`, or may do so.
pub(super) fn of(before: &[ThreadId], owner: &'static Owner) -> Vec<String> {
    let own = name_of_threads(&owner.plugin, owner.generation);
    let this = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let candidates = all()
        .into_iter()
        .filter(|thread| thread.number != this && !before.contains(thread));
    let maps = Maps::read();
    candidates
        .filter_map(|thread| {
            let name = thread.name()?;
            let stays =
                name.starts_with(&own) || !name.starts_with(OF_THE_KERNEL) && thread.may_run_in(owner, &name, &maps);
            // It may have ended meanwhile.
            (stays && ThreadId::of(thread.number) == Some(thread)).then_some(name)
        })
        .collect()
}

impl ThreadId {
    fn of(number: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/self/task/{number}/stat")).ok()?;
        // The second field is a name in parentheses, which may hold anything.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { number, started })
    }

    fn name(&self) -> Option<String> {
        let name = fs::read_to_string(format!("/proc/self/task/{}/comm", self.number)).ok()?;
        Some(name.trim_end().to_owned())
    }

    fn may_run_in(&self, owner: &'static Owner, name: &str, maps: &Maps) -> bool {
        for _ in 0..LOOKS {
            match self.place() {
                // It has ended.
                None => return false,
                Some(Place::Running) => std::thread::sleep(Duration::from_millis(1)),
                Some(Place::Waiting { stack, code }) => return is_on(owner, name, maps, stack, code),
            }
        }
        match whose_code(self.number) {
            Some(found) => found.is_some_and(|found| std::ptr::eq(found, owner)),
            None => !is_of_another(name, owner),
        }
    }

    fn place(&self) -> Option<Place> {
        let call = fs::read_to_string(format!("/proc/self/task/{}/syscall", self.number)).ok()?;
        let numbers: Vec<_> = call
            .split_whitespace()
            .map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).ok())
            .collect();
        match &numbers[..] {
            [.., Some(stack), Some(code)] if numbers.len() > 2 => Some(Place::Waiting {
                stack: *stack,
                code: *code,
            }),
            [] => None,
            _ => Some(Place::Running),
        }
    }
}

/// Whether a waiting thread runs in the library, or returns to it; also if nothing is there that is known.
///
/// A stack was often another thread's before, and old addresses are left between the frames. So the function that the
/// thread was started with decides first: a thread that another library started, or the host for another generation,
/// runs no code of this one.
fn is_on(owner: &'static Owner, name: &str, maps: &Maps, stack: u64, code: u64) -> bool {
    let Stack { frames, kept } = maps.stack(stack);
    let whose = |word: u64| maps.whose(word, owner);
    match kept.into_iter().map(whose).find(|found| *found != Found::Nothing) {
        Some(Found::Another) => return false,
        Some(Found::Program) if is_of_another(name, owner) => return false,
        _ => {}
    }
    let found = frames.into_iter().chain([code]).map(whose).max();
    matches!(found, Some(Found::Library | Found::Nothing))
}

/// Whether a name belongs to the threads of some other generation: `PLUGIN.NUMBER.` and more.
fn is_of_another(name: &str, owner: &Owner) -> bool {
    let own = name_of_threads(&owner.plugin, owner.generation);
    let mut parts = name.rsplitn(3, '.');
    let numbered = |part: Option<&str>| part.is_some_and(|part| part.parse::<u64>().is_ok());
    parts.next();
    !name.starts_with(&own) && numbered(parts.next()) && parts.next().is_some()
}

/// What a thread does.
enum Place {
    Running,
    /// It is in a system call: where its stack ends, and where it goes on.
    Waiting {
        stack: u64,
        code: u64,
    },
}

/// What a word on a stack points to, if it is an address at all; the one that says more is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// Nothing that says whose thread it is.
    Nothing,
    /// Code of this program: the host has started it.
    Program,
    /// Code of another library.
    Another,
    /// Code of the library.
    Library,
}

/// What is mapped where.
struct Maps {
    memory: Option<File>,
    /// Everything that can be read.
    readable: Vec<Range<u64>>,
    program: Vec<Range<u64>>,
}

impl Maps {
    fn read() -> Self {
        let text = fs::read("/proc/self/maps").unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let program = fs::read_link("/proc/self/exe").unwrap_or_default();
        let program = program.to_string_lossy();
        let mut maps = Self {
            memory: File::open("/proc/self/mem").ok(),
            readable: Vec::new(),
            program: Vec::new(),
        };
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let (Some(range), Some(flags)) = (fields.next().and_then(range), fields.next()) else {
                continue;
            };
            if flags.contains('x') && line.ends_with(&*program) {
                maps.program.push(range.clone());
            }
            if flags.starts_with('r') {
                maps.readable.push(range);
            }
        }
        maps
    }

    fn whose(&self, word: u64, owner: &'static Owner) -> Found {
        match owner_of(usize::try_from(word).unwrap_or_default()) {
            Some(found) if std::ptr::eq(found, owner) => Found::Library,
            Some(_) => Found::Another,
            None if self.program.iter().any(|code| code.contains(&word)) => Found::Program,
            None => Found::Nothing,
        }
    }

    /// What lies on a stack, from its end to its top.
    fn stack(&self, end: u64) -> Stack {
        let end = end & !7;
        let Some(mapped) = self.readable.iter().find(|range| range.contains(&end)) else {
            return Stack::default();
        };
        let len = (mapped.end - end).min(MOST_STACK as u64);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let memory = self.memory.as_ref();
        let read = memory
            .and_then(|memory| memory.read_at(&mut bytes, end).ok())
            .unwrap_or(0);
        let words = bytes[..read].chunks_exact(8);
        let words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        Stack::of(words.collect(), end)
    }
}

/// The words of a thread's stack.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stack {
    /// From its end to its top.
    frames: Vec<u64>,
    /// Above the top: what the C library keeps of the thread, with the function that it was started with.
    kept: Vec<u64>,
}

impl Stack {
    /// `words` begin at the address `start`. What the C library keeps begins with its own address, twice. Memory behind it may be
    /// anything; where it is not found, all words may be frames.
    fn of(mut words: Vec<u64>, start: u64) -> Self {
        /// How much the C library keeps of a thread, in words.
        const KEPT: usize = 288;
        let own = |at: &usize| words[*at] == start + 8 * *at as u64 && words.get(at + 2) == Some(&words[*at]);
        let Some(top) = (0..words.len()).find(own) else {
            return Self {
                frames: words,
                kept: Vec::new(),
            };
        };
        let mut kept = words.split_off(top);
        kept.truncate(KEPT);
        Self { frames: words, kept }
    }
}

fn range(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_plugins_name_is_cut_and_the_numbers_are_not() {
        assert_eq!(name_of_threads("room", 7), "room.7.");
        let name = name_of_threads("a_plugin_with_a_long_name", 1234);
        assert!(name.ends_with(".1234.") && name.len() <= 13, "{name}");
    }

    #[test]
    fn names_of_other_generations_are_known() {
        let owner = Owner::new("room", 2, "");
        for (name, expected) in [
            ("room.1.0", true),
            ("echo.2.1", true),
            ("room.2.0", false),
            ("worker", false),
        ] {
            assert_eq!(is_of_another(name, owner), expected, "{name}");
        }
    }

    #[test]
    fn the_top_of_a_stack_is_behind_the_threads_own_data() {
        let start = 0x1000;
        let mut words = vec![1, 2, 3, start + 8 * 3, 0, start + 8 * 3];
        words[3] = start + 8 * 3;
        words.extend([7; 400]);
        let stack = Stack::of(words.clone(), start);
        assert_eq!((&stack.frames[..], stack.kept.len()), (&words[..3], 288));
        assert_eq!(Stack::of(words[..3].to_vec(), start).frames, [1, 2, 3]);
    }

    #[test]
    fn a_thread_of_this_program_is_not_taken_for_a_librarys() {
        let owner = Owner::new("nobody", 1, "");
        let before = all();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (said, says) = std::sync::mpsc::channel();
        let body = move || {
            said.send(()).unwrap();
            let _ = ended.recv();
        };
        let thread = std::thread::Builder::new()
            .name("some name".into())
            .spawn(body)
            .unwrap();
        says.recv().unwrap();
        let new: Vec<_> = all().into_iter().filter(|thread| !before.contains(thread)).collect();
        assert!(!new.is_empty());
        assert!(!of(&before, owner).contains(&"some name".to_owned()));
        drop(end);
        thread.join().unwrap();
    }
}
