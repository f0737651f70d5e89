//! What stays in memory of a generation that has ended, and why.

use std::time::{Duration, Instant};

use super::mapping::Mapping;

/// How long the system may go on listing a thread that has ended.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// What is in memory of a generation that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    mapping: Mapping,
    /// Why, in a few words: threads, which have the names of their shards unless the plugin gave them others; what holds the
    /// library open; or, where it is closed, what the system waits for.
    pub(crate) cause: String,
}

impl Left {
    /// Finds out what is left of generation `number` of `plugin`, whose library `held` references keep open.
    #[must_use]
    pub(crate) fn of(plugin: &str, number: u64, mapping: Mapping, held: usize) -> Self {
        let threads = threads_that_stay(&name_of_threads(plugin, number));
        let cause = if !threads.is_empty() {
            format!("threads: {}", threads.join(", "))
        } else if held > 0 {
            format!("references: {held}, as the plugin did not shut down well")
        } else {
            "thread-locals: the library is closed, but destructors of it wait on threads of other code".to_owned()
        };
        Self { mapping, cause }
    }

    /// Whether it is still there.
    #[must_use]
    pub(crate) fn is_there(&self) -> bool {
        self.mapping.is_executable().unwrap_or(true)
    }
}

/// What the names of a generation's threads begin with. The system keeps 15 bytes of a name: that of a long plugin is cut, not
/// the numbers, which threads that the plugin starts inherit.
pub(super) fn name_of_threads(plugin: &str, generation: u64) -> String {
    const MOST: usize = 15;
    const INDEX: usize = 2;
    let number = format!(".{generation}.");
    let cut = plugin.floor_char_boundary(MOST.saturating_sub(number.len() + INDEX));
    format!("{}{number}", &plugin[..cut])
}

/// The same, but for those that are at their end: whoever joins a thread goes on a moment before the system forgets it.
fn threads_that_stay(beginning: &str) -> Vec<String> {
    let since = Instant::now();
    loop {
        let threads = threads_called(beginning);
        if threads.is_empty() || since.elapsed() >= LAST_MOMENT {
            return threads;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The threads of this process whose names begin so.
fn threads_called(beginning: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    // One may end just now.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let names = names.map(|name| name.trim_end().to_owned());
    names.filter(|name| name.starts_with(beginning)).collect()
}
