//! Async answers, with the feature `async`.

use super::{ConnectContext, Connected, Connection, Denial};
use crate::log::Place;
use crate::payload::{Body, IntoPayload};
use crate::remote::Remote;
use crate::tasks::Owed;

impl<P> ConnectContext<P> {
    /// Answers the current connect when `answer` completes. `Ok` goes to
    /// [`Connect::connect_answer`](crate::Connect::connect_answer); `Err` refuses the client. Return this function's result from
    /// `connect`.
    ///
    /// # Errors
    ///
    /// With status 503 if too many futures run: see [`Limits::tasks`](crate::tasks::Limits::tasks).
    pub fn connect_async<T: IntoPayload>(
        &self,
        answer: impl Future<Output = Result<T, Denial>> + Send + 'static,
    ) -> Connected {
        let Some(room) = self.inner.generation.tasks.room() else {
            return Err(Denial::status(503));
        };
        let owed = Owed::new(self.remote(), self.later(), "500", "crashed");
        room.spawn(Place::default(), async move {
            match answer.await {
                Ok(answer) => owed.keep("", &answer.into_body()),
                Err(Denial { status, body }) => owed.keep(&status.to_string(), &body.unwrap_or(Body::EMPTY)),
            }
        });
        Ok(Connection::later())
    }

    /// Starts async work, as [`Context::spawn_async`](crate::Context::spawn_async) does.
    pub fn spawn_async<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Remote) -> F) -> bool {
        self.inner.spawn_async(work)
    }
}
