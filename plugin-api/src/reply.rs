//! What callbacks answer: [`Reply`] and [`Refusal`], [`Join`], and why a channel ends.

use std::borrow::Cow;

use serde::Serialize;

use crate::abi::reason;
use crate::payload::{Body, IntoPayload};

/// What `handle_in` returns. `Err` answers with the status `error`, so that `payload.parse()?` does the right thing.
pub type Handled = Result<Reply, Refusal>;

/// What `join` returns; made with [`JoinExt`]. `Err` refuses the join.
pub type Join<M> = Result<Joined<M>, Refusal>;

/// The answer to an event.
#[derive(Debug)]
pub struct Reply {
    pub(crate) status: Cow<'static, str>,
    /// `None`: no reply.
    pub(crate) body: Option<Body>,
}

impl Reply {
    /// Status `ok` and an empty object.
    #[must_use]
    pub fn ok() -> Self {
        Self {
            status: "ok".into(),
            body: Some(Body::EMPTY),
        }
    }

    /// Status `ok`.
    #[must_use]
    pub fn ok_with(payload: impl IntoPayload) -> Self {
        Self::status("ok", payload)
    }

    /// Status `error`.
    #[must_use]
    pub fn error(payload: impl IntoPayload) -> Self {
        Self::status("error", payload)
    }

    /// Any status.
    #[must_use]
    pub fn status(status: impl Into<Cow<'static, str>>, payload: impl IntoPayload) -> Self {
        Self {
            status: status.into(),
            body: Some(payload.into_body()),
        }
    }

    /// No reply, or not now: what is returned after [`Context::later`](crate::Context::later).
    #[must_use]
    pub fn none() -> Self {
        Self {
            status: "ok".into(),
            body: None,
        }
    }

    /// The plugin does not know this event: status `error`, `{"reason":"unhandled event"}`. The channel lives on.
    #[must_use]
    pub fn unhandled() -> Self {
        Refusal::unhandled().into()
    }
}

/// An answer with the status `error`, or the refusal of a join.
#[derive(Debug)]
pub struct Refusal {
    body: Body,
}

impl Refusal {
    /// Any payload.
    #[must_use]
    pub fn new(payload: impl IntoPayload) -> Self {
        Self {
            body: payload.into_body(),
        }
    }

    /// `{"reason":"…"}`.
    #[must_use]
    pub fn reason(reason: &str) -> Self {
        Self::new(Because { reason })
    }

    /// What [`Payload::parse`](crate::Payload::parse) answers for a field that is not as it must be:
    /// `{"reason":"invalid payload","field":"…","message":"…"}`.
    #[must_use]
    pub fn field(field: &str, message: &str) -> Self {
        Self::new(Invalid {
            reason: "invalid payload",
            field,
            message,
        })
    }

    /// As [`Reply::unhandled`].
    pub(crate) fn unhandled() -> Self {
        Self::reason("unhandled event")
    }

    pub(crate) fn into_body(self) -> Body {
        self.body
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self {
            status: "error".into(),
            body: Some(refusal.body),
        }
    }
}

#[derive(Serialize)]
struct Because<'a> {
    reason: &'a str,
}

#[derive(Serialize)]
struct Invalid<'a> {
    reason: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    field: &'a str,
    message: &'a str,
}

/// A join that is not refused: see [`JoinExt`].
#[derive(Debug)]
pub struct Joined<M>(pub(crate) Entry<M>);

#[derive(Debug)]
pub(crate) enum Entry<M> {
    Now(M, Body),
    Later,
}

/// The answers to a join, as functions of [`Join`]: `Join::accept(member)`.
pub trait JoinExt<M>: Sized {
    /// Lets the client in; it is answered `{}`.
    fn accept(member: M) -> Self;
    /// Lets the client in and answers with `payload`.
    fn reply(member: M, payload: impl IntoPayload) -> Self;
    /// Refuses.
    fn refuse(payload: impl IntoPayload) -> Self;
    /// The answer comes later. Call [`Context::later`](crate::Context::later) first and
    /// [`complete`](crate::Remote::complete) what it gives: `join_answer` is then called.
    fn later() -> Self;
}

impl<M> JoinExt<M> for Join<M> {
    fn accept(member: M) -> Self {
        Ok(Joined(Entry::Now(member, Body::EMPTY)))
    }

    fn reply(member: M, payload: impl IntoPayload) -> Self {
        Ok(Joined(Entry::Now(member, payload.into_body())))
    }

    fn refuse(payload: impl IntoPayload) -> Self {
        Err(Refusal::new(payload))
    }

    fn later() -> Self {
        Ok(Joined(Entry::Later))
    }
}

/// Why a callback ends its channel: for [`Context::stop`](crate::Context::stop).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Done. The client sees `phx_close` and does not rejoin.
    Normal,
    /// As [`Stop::Normal`], with another [`Reason`] for `terminate`.
    Shutdown,
    /// Something is wrong. The client sees `phx_error` and rejoins.
    Other(String),
}

/// Why a channel ended: for `terminate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason<'a> {
    /// The client left.
    Left,
    /// The connection is gone.
    Closed,
    /// The socket id was told to disconnect.
    Disconnected,
    /// The long-poll session expired.
    Inactive,
    /// The server is shutting down.
    Draining,
    /// The same client joined the topic again.
    DuplicateJoin,
    /// A callback stopped the channel with [`Stop::Normal`].
    Normal,
    /// A callback stopped the channel with [`Stop::Shutdown`].
    Shutdown,
    /// A callback stopped the channel with [`Stop::Other`] and this text, or the host has a reason that this version of
    /// the crate does not know.
    Other(&'a str),
    /// A callback of this member panicked; the text says how.
    Panicked(&'a str),
    /// The topic's route leads to another plugin, or the plugin was replaced without its state.
    Rerouted,
    /// The channel broke a bound of the host.
    Overloaded,
}

impl<'a> Reason<'a> {
    pub(crate) fn read(number: u64, text: &'a str) -> Self {
        match u32::try_from(number).unwrap_or(0) {
            reason::LEFT => Self::Left,
            reason::CLOSED => Self::Closed,
            reason::DISCONNECTED => Self::Disconnected,
            reason::INACTIVE => Self::Inactive,
            reason::DRAINING => Self::Draining,
            reason::DUPLICATE_JOIN => Self::DuplicateJoin,
            reason::NORMAL => Self::Normal,
            reason::SHUTDOWN => Self::Shutdown,
            reason::PANICKED => Self::Panicked(text),
            reason::REROUTED => Self::Rerouted,
            reason::OVERLOADED => Self::Overloaded,
            _ => Self::Other(text),
        }
    }
}
