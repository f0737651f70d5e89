//! Answers by futures, with the feature `async`.

use super::Context;
use crate::log::Place;
use crate::payload::IntoPayload;
use crate::remote::Remote;
use crate::reply::{Handled, Join, JoinExt, Refusal, Reply};
use crate::tasks::Owed;

impl<P> Context<P> {
    /// Replies to the event at hand when `answer` is there. Return what this returns, from `handle_in`.
    ///
    /// What the future gives is the reply; [`Reply::none`] leaves the client without one. It runs beside the callbacks of the
    /// topic, on another thread, and so takes with it what it needs.
    ///
    /// # Errors
    ///
    /// With `{"reason":"overloaded"}`, if too many futures are under way: see [`Limits::tasks`].
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

    /// Answers the join at hand when `answer` is there: `Ok` is handed to [`Channel::join_answer`](crate::Channel::join_answer),
    /// which has the topic's state to decide with; `Err` refuses it. Return what this returns, from `join`.
    ///
    /// # Errors
    ///
    /// With `{"reason":"overloaded"}`, if too many futures are under way: see [`Limits::tasks`].
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

    /// Starts async work that answers nothing by itself; it can send messages, and keep promises, by the [`Remote`]. Returns
    /// whether it was started: not if too many futures are under way (see [`Limits::tasks`]), which is a warning in the log.
    pub fn spawn_async<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Remote) -> F) -> bool {
        let Some(room) = self.generation.tasks.room() else {
            tracing::warn!("async work is not started: too much is under way");
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
