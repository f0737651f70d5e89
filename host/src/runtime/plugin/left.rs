//! Says what stays in memory of a generation that has ended, and why.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::elf::Facts;
use super::generation::NotUnloaded;
use super::loader::{Kept, Library};
use super::mapping::Mapping;
use super::references;

/// How long a destructor may take when the library is closed later.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is in memory of a generation that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    mapping: Mapping,
    /// The reason in a few words, with what the plugin's author can do about it.
    pub(crate) cause: String,
    /// A library that is open only because somebody pointed into it, who may have gone.
    open: Arc<Mutex<Option<Arc<Library>>>>,
}

impl Left {
    /// Finds out what is left of generation `number` of `plugin`, which was loaded from `library`, and why.
    #[must_use]
    pub(super) fn of(plugin: &str, number: u64, library: &Path, why: NotUnloaded, facts: &Facts) -> Self {
        let mut open = None;
        let cause = match why {
            NotUnloaded::Stuck(_) => own_threads(plugin, number).unwrap_or_else(|| "threads that do not return".to_owned()),
            NotUnloaded::Kept(Kept::Held) => own_threads(plugin, number)
                .unwrap_or_else(|| "shutdown: the plugin did not shut down cleanly, so code of it may still run".to_owned()),
            NotUnloaded::Kept(Kept::Referenced(library, references)) => {
                open = references.may_go().then_some(library);
                references.to_string()
            }
            NotUnloaded::Kept(Kept::Destructor) => {
                "destructor: one of the library's destructors does not return (a function with the attribute `destructor`, or a static's)".to_owned()
            }
            NotUnloaded::Kept(Kept::Loader(user)) => user.to_string(),
            NotUnloaded::Kept(Kept::Mapped) => linked(facts).to_owned(),
        };
        Self {
            mapping: Mapping::of(library),
            cause,
            open: Arc::new(Mutex::new(open)),
        }
    }

    /// Whether it is still there. Closes the library if nobody points into it any more.
    #[must_use]
    pub(crate) fn is_there(&self) -> bool {
        let mut open = self.open.lock().expect("no holder panics");
        if let Some(library) = open.take()
            && let Err(Kept::Referenced(library, _)) = library.close(PATIENCE)
        {
            *open = Some(library);
        }
        self.mapping.is_executable().unwrap_or(true)
    }
}

/// The threads that carry the generation's name.
fn own_threads(plugin: &str, number: u64) -> Option<String> {
    let threads = references::threads_called(&references::name_of_threads(plugin, number));
    (!threads.is_empty()).then(|| format!("threads: {}", threads.join(", ")))
}

/// Why the system keeps a library that is closed.
fn linked(facts: &Facts) -> &'static str {
    if facts.nodelete {
        "linker: the library was linked with -z nodelete, so that the system never unloads it; link it without"
    } else if facts.has_unique_symbols {
        "linker: the library has C++ symbols that are unique in the process, so that the system never unloads it; compile it with \
         -fno-gnu-unique"
    } else {
        "thread-locals: the library is closed, but the system keeps it: thread-locals of it wait for other threads to end, or something \
         has opened it once more"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(facts: Facts, expected: &str) {
        let cause = linked(&facts);
        assert!(cause.starts_with(expected), "{cause}");
    }

    #[test]
    fn a_library_that_is_closed_is_put_down_to_how_it_was_linked() {
        let nodelete = Facts {
            nodelete: true,
            ..Facts::default()
        };
        let unique = Facts {
            has_unique_symbols: true,
            ..Facts::default()
        };
        check(nodelete, "linker: the library was linked with -z nodelete");
        check(unique, "linker: the library has C++ symbols");
        check(Facts::default(), "thread-locals: ");
    }
}
