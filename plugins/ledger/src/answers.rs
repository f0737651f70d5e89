//! Later replies: by a timer, or in some builds from the plugin's own async runtime.

use bennu_plugin::prelude::*;

use crate::Book;
use crate::state::{Member, Owed};

/// What later replies need in each generation. Its threads end with the generation.
pub(crate) struct Answers {
    #[cfg(feature = "runtime")]
    runtime: tokio::runtime::Runtime,
}

impl Answers {
    #[cfg(not(feature = "runtime"))]
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Self {})
    }

    #[cfg(feature = "runtime")]
    pub(crate) fn new() -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("ledger-runtime")
            .enable_time()
            .build();
        runtime
            .map(|runtime| Self { runtime })
            .map_err(|error| error.to_string())
    }

    /// Answers the last `put` of `member` after `delay`.
    pub(crate) fn later(&self, member: &mut Member, delay: Duration, answer: Value, cx: &Context<Book>) {
        let (number, later) = (member.last, cx.later());
        #[cfg(feature = "runtime")]
        if number.is_multiple_of(2) {
            // This generation may be out of service by then.
            let remote = cx.remote();
            self.runtime.spawn(async move {
                tokio::time::sleep(delay).await;
                remote.complete(later, "ok", answer);
            });
            return;
        }
        // The promise is part of the state, and the host has the timer: the generation in service then answers.
        member.owe(Owed { number, later, answer });
        cx.send_after(delay, "pay", json!(number));
    }
}
