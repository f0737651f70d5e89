//! Async answers, with the feature `async`.

use super::Context;
use crate::log::Place;
use crate::payload::IntoPayload;
use crate::remote::Remote;
use crate::reply::{Handled, Join, JoinExt, Refusal, Reply};
use crate::tasks::Owed;

impl<P> Context<P> {
    /// Replies to the current event when `answer` completes. Return this function's result from `handle_in`.
    ///
    /// The output of the future is the reply; with [`Reply::none`] the client gets none. The future runs on another thread, beside the
    /// callbacks of the topic, so it must own what it uses.
    ///
    /// # Errors
    ///
    /// With `{"reason":"overloaded"}` if too many futures run: see [`Limits::tasks`](crate::tasks::Limits::tasks).
    pub fn reply_async(&self, answer: impl Future<Output = Handled> + Send + 'static) -> Handled {
        let Some(room) = self.generation.tasks.room() else {
            return Err(Refusal::reason("overloaded"));
        };
        let owed = Owed::new(self.remote(), self.later(), "error", "crashed");
        room.spawn(self.place(), async move {
            let Reply { status, body } = answer.await.unwrap_or_else(Reply::from);
            match body {
                Some(body) => owed.keep(&status, &body),
                None => owed.forget(),
            }
        });
        Ok(Reply::none())
    }

    /// Answers the current join when `answer` completes. `Ok` goes to [`Channel::join_answer`](crate::Channel::join_answer), which
    /// decides with the topic's state at hand; `Err` refuses the join. Return this function's result from `join`.
    ///
    /// # Errors
    ///
    /// With `{"reason":"overloaded"}` if too many futures run: see [`Limits::tasks`](crate::tasks::Limits::tasks).
    pub fn join_async<M, T: IntoPayload>(
        &self,
        answer: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Join<M> {
        let Some(room) = self.generation.tasks.room() else {
            return Err(Refusal::reason("overloaded"));
        };
        let owed = Owed::new(self.remote(), self.later(), "error", "join crashed");
        room.spawn(self.place(), async move {
            match answer.await {
                Ok(answer) => owed.keep("ok", &answer.into_body()),
                Err(refusal) => owed.keep("error", &refusal.into_body()),
            }
        });
        Join::later()
    }

    /// Starts async work that is not an answer. It can send messages and keep promises with the [`Remote`]. Returns false, and logs
    /// a warning, if too many futures run: see [`Limits::tasks`](crate::tasks::Limits::tasks).
    pub fn spawn_async<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Remote) -> F) -> bool {
        let tasks = &self.generation.tasks;
        let room = if self.last_word {
            tasks.last_room()
        } else {
            tasks.room()
        };
        let Some(room) = room else {
            tracing::warn!("async work not started: too many futures run");
            return false;
        };
        room.spawn(self.place(), work(self.remote()));
        true
    }

    fn place(&self) -> Place {
        Place {
            topic: self.topic,
            member: self.member,
            socket: self.socket_id().map(Into::into),
        }
    }
}
