//! Counts whom a broadcast reaches, and tells its sender.
//!
//! Each outlet counts its own part as it walks its subscribers. The last one completes the count. The sender is woken once for all
//! counts that an I/O thread has completed in a turn, and not for each.

use std::mem::take;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot};

use crate::runtime::wake::{self, Sleeper};

/// The count of one broadcast. It is complete when all outlets are through with the broadcast and drop it; if an outlet ends before,
/// then without its part.
#[derive(Debug)]
pub(crate) struct Reach {
    reached: AtomicUsize,
    intercepted: AtomicUsize,
    tell: Option<oneshot::Sender<Heard>>,
    complete: Arc<Reached>,
}

/// A count that is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// How many subscribers were reached.
    pub(crate) reached: usize,
    /// The members that a plugin decides about, at a topic's home on another node.
    pub(crate) intercepted: usize,
}

/// Counts that are complete, for one sender of broadcasts.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    untold: Mutex<Vec<(oneshot::Sender<Heard>, Heard)>>,
    some: Notify,
}

impl Reach {
    /// A count from 0, and who waits for it.
    #[must_use]
    pub(crate) fn new(complete: &Arc<Reached>) -> (Self, oneshot::Receiver<Heard>) {
        let (tell, told) = oneshot::channel();
        let reach = Self {
            reached: AtomicUsize::new(0),
            intercepted: AtomicUsize::new(0),
            tell: Some(tell),
            complete: Arc::clone(complete),
        };
        (reach, told)
    }

    /// It has reached so many more.
    pub(crate) fn add(&self, more: usize) {
        self.reached.fetch_add(more, Ordering::Relaxed);
    }

    /// So many have reached another node's part of it, and a plugin there decides about so many.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters has no other node")
    )]
    pub(crate) fn add_heard(&self, heard: Heard) {
        self.add(heard.reached);
        self.intercepted.fetch_add(heard.intercepted, Ordering::Relaxed);
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            let count = Heard {
                reached: *self.reached.get_mut(),
                intercepted: *self.intercepted.get_mut(),
            };
            let mut untold = self.complete.untold.lock().expect("no holder of the counts panics");
            untold.push((tell, count));
            drop(untold);
            wake::soon(&self.complete);
        }
    }
}

impl Reached {
    /// Tells those who wait for a count, for ever. To be run on their thread, which wakes them without a system call.
    pub(crate) async fn tell_all(&self) {
        loop {
            self.some.notified().await;
            let untold = take(&mut *self.untold.lock().expect("no holder of the counts panics"));
            for (tell, count) in untold {
                // Whoever waited may have given up.
                let _ = tell.send(count);
            }
        }
    }
}

impl Sleeper for Reached {
    const IS_SHARD: bool = false;

    fn wake(&self) {
        self.some.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_count_is_told_when_the_last_outlet_is_through() {
        let complete = Arc::new(Reached::default());
        let (reach, told) = Reach::new(&complete);
        let outlets = [Arc::new(reach)].map(|reach| (Arc::clone(&reach), reach));
        let [(one, other)] = outlets;
        one.add(2);
        drop(one);
        other.add(3);
        assert!(complete.untold.lock().expect("no panic").is_empty());
        drop(other);
        let count = tokio::select! {
            () = complete.tell_all() => panic!("it goes on for ever"),
            count = told => count,
        };
        assert_eq!(count.map(|heard| heard.reached), Ok(5));
    }

    #[tokio::test]
    async fn whoever_has_given_up_keeps_nobody_else_from_being_told() {
        let complete = Arc::new(Reached::default());
        let ((first, gone), (second, told)) = (Reach::new(&complete), Reach::new(&complete));
        drop((gone, first, second));
        let count = tokio::select! {
            () = complete.tell_all() => panic!("it goes on for ever"),
            count = told => count,
        };
        assert_eq!(count, Ok(Heard::default()));
    }
}
