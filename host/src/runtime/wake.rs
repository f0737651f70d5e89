//! Wakes other threads, and delays a wake while there is more for them to do.
//!
//! Waking a sleeping thread takes a system call. On one core, the woken thread then runs in place of the one that woke it, which had
//! more to send. So an I/O thread wakes shards at the end of its turn, and a shard wakes I/O threads at the end of its batch: they
//! then handle everything at once. A thread that is awake needs no wake.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a batch with quick handlers delays a wake. A slower handler delays what the handlers before it in its batch have sent
/// by its own time.
const PATIENCE: Duration = Duration::from_micros(50);

/// A thread that sleeps while nothing waits for it.
pub(crate) trait Sleeper: fmt::Debug {
    /// Whether it is a shard, which a handler may wait for.
    const IS_SHARD: bool;

    /// Wakes it if it sleeps.
    fn wake(&self);
}

/// A sleeper of any type.
trait Wake {
    fn wake(&self);
}

impl<S: Sleeper> Wake for S {
    fn wake(&self) {
        Sleeper::wake(self);
    }
}

/// Which wakes a thread delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutOff {
    /// None: each sleeper is woken at once.
    Nothing,
    /// Wakes of I/O threads. Not of shards: a handler may wait for another shard, and would wait for ever.
    IoThreads,
    /// All.
    All,
}

struct Scope {
    puts_off: PutOff,
    sleepers: Vec<Arc<dyn Wake>>,
    since: Option<Instant>,
}

thread_local! {
    static SCOPE: RefCell<Scope> = const {
        RefCell::new(Scope { puts_off: PutOff::Nothing, sleepers: Vec::new(), since: None })
    };
}

/// Delays wakes until `body` is done.
pub(crate) fn together<R>(puts_off: PutOff, body: impl FnOnce() -> R) -> R {
    let before = SCOPE.with_borrow_mut(|scope| std::mem::replace(&mut scope.puts_off, puts_off));
    let done = body();
    SCOPE.with_borrow_mut(|scope| scope.puts_off = before);
    now();
    done
}

/// Wakes a sleeper: at once, or at the end of the [`together`] that this thread is in.
pub(crate) fn soon<S: Sleeper + 'static>(sleeper: &Arc<S>) {
    let noted = SCOPE.with_borrow_mut(|scope| {
        if scope.puts_off == PutOff::Nothing || (scope.puts_off == PutOff::IoThreads && S::IS_SHARD) {
            return false;
        }
        let known = |other: &Arc<dyn Wake>| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(sleeper));
        if !scope.sleepers.iter().any(known) {
            scope.sleepers.push(Arc::<S>::clone(sleeper));
            scope.since.get_or_insert_with(Instant::now);
        }
        true
    });
    if !noted {
        Sleeper::wake(&**sleeper);
    }
}

/// Wakes all sleepers whose wake this thread has delayed. To be called before the thread waits for anything.
pub(crate) fn now() {
    let mut sleepers = SCOPE.with_borrow_mut(|scope| {
        scope.since = None;
        std::mem::take(&mut scope.sleepers)
    });
    for sleeper in sleepers.drain(..) {
        sleeper.wake();
    }
    // Keeps the memory of the list.
    SCOPE.with_borrow_mut(|scope| scope.sleepers = sleepers);
}

/// Does the same if the delay has lasted for a while.
pub(crate) fn when_due() {
    let due = SCOPE.with_borrow(|scope| scope.since.is_some_and(|since| since.elapsed() >= PATIENCE));
    if due {
        now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Sleeper for Counting {
        const IS_SHARD: bool = true;

        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Counting {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn without_a_scope_everyone_is_woken_at_once() {
        let sleeper = Arc::new(Counting::default());
        soon(&sleeper);
        assert_eq!(sleeper.woken(), 1);
    }

    #[test]
    fn in_a_scope_each_is_woken_once_at_its_end() {
        let (one, two) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
        together(PutOff::All, || {
            for sleeper in [&one, &two, &one] {
                soon(sleeper);
            }
            assert_eq!((one.woken(), two.woken()), (0, 0));
        });
        assert_eq!((one.woken(), two.woken()), (1, 1));
    }

    #[test]
    fn before_a_thread_waits_it_wakes_the_others() {
        let sleeper = Arc::new(Counting::default());
        together(PutOff::All, || {
            soon(&sleeper);
            now();
            assert_eq!(sleeper.woken(), 1);
        });
        assert_eq!(sleeper.woken(), 1);
    }

    #[test]
    fn what_is_not_put_off_is_woken_at_once() {
        let sleeper = Arc::new(Counting::default());
        together(PutOff::IoThreads, || {
            soon(&sleeper);
            assert_eq!(sleeper.woken(), 1);
        });
    }
}
