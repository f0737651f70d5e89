//! The deadline of a connection, which does not count a standstill of the process.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{self, Sleep};

use crate::runtime::clock;

/// Is over after so long of the time for which the process runs.
#[derive(Debug)]
pub(in crate::server::io) struct Deadline {
    /// When to look. There is no timer before the connection has to be waited for: most have sent their request by then.
    sleep: Option<Pin<Box<Sleep>>>,
    look: time::Instant,
    over: Instant,
}

impl Deadline {
    /// Begins now.
    pub(in crate::server::io) fn new(after: Duration) -> Self {
        Self {
            sleep: None,
            look: time::Instant::now() + after,
            over: clock::now() + after,
        }
    }

    /// Begins anew.
    pub(in crate::server::io) fn reset(&mut self, after: Duration) {
        self.over = clock::now() + after;
        self.sleep_for(after);
    }

    /// Whether it is over. What has come was read before this was asked.
    pub(in crate::server::io) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let look = self.look;
        while { self.sleep.get_or_insert_with(|| Box::pin(time::sleep_until(look))) }
            .as_mut()
            .poll(cx)
            .is_ready()
        {
            match clock::rest(self.over) {
                Some(rest) => self.sleep_for(rest),
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn sleep_for(&mut self, time: Duration) {
        self.look = time::Instant::now() + time;
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(self.look);
        }
    }
}
