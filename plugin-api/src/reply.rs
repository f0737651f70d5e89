//! The answers of callbacks: [`Reply`], [`Refusal`] and [`Join`]; and why a channel ends.

use std::borrow::Cow;

use serde::Serialize;

use crate::abi::reason;
use crate::payload::{Body, IntoPayload};

/// What `handle_in` returns. `Err` answers with the status `error`, so `payload.parse()?` answers a bad payload.
pub type Handled = Result<Reply, Refusal>;

/// What `join` returns, made with [`JoinExt`]. `Err` refuses the join.
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

    /// No reply, or a later one: return this after [`Context::later`](crate::Context::later).
    #[must_use]
    pub fn none() -> Self {
        Self {
            status: "ok".into(),
            body: None,
        }
    }

    /// Status `error`, `{"reason":"unhandled event"}`: for an event that the plugin does not know. The channel goes on.
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

    /// `{"reason":"invalid payload","field":"…","message":"…"}`, as [`Payload::parse`](crate::Payload::parse) answers for a field
    /// that is missing or wrong.
    #[must_use]
    pub fn field(field: &str, message: &str) -> Self {
        Self::new(Invalid {
            reason: "invalid payload",
            field,
            message,
        })
    }

    /// The body of [`Reply::unhandled`].
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

/// An accepted join, or the promise to decide later: see [`JoinExt`].
#[derive(Debug)]
pub struct Joined<M>(pub(crate) Entry<M>);

#[derive(Debug)]
pub(crate) enum Entry<M> {
    Now(M, Body),
    Later,
}

/// The answers to a join, as functions of [`Join`]: for example `Join::accept(member)`.
pub trait JoinExt<M>: Sized {
    /// Lets the client in. Its reply is `{}`.
    fn accept(member: M) -> Self;
    /// Lets the client in. Its reply is `payload`.
    fn reply(member: M, payload: impl IntoPayload) -> Self;
    /// Refuses the client with `payload`.
    fn refuse(payload: impl IntoPayload) -> Self;
    /// Answers later. Call [`Context::later`](crate::Context::later) first; when the promise is
    /// [kept](crate::Remote::complete), the host calls `join_answer`.
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
    /// Something went wrong. The client sees `phx_error` and rejoins.
    Other(String),
}

/// Why a channel ends: for `terminate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason<'a> {
    /// The client left.
    Left,
    /// The connection is gone.
    Closed,
    /// A [`disconnect`](crate::Context::disconnect) closed the connection.
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
    /// A callback stopped the channel with [`Stop::Other`] and this text, or the host gives a reason that this version of the crate
    /// does not know.
    Other(&'a str),
    /// A callback of this member panicked with this message.
    Panicked(&'a str),
    /// The topic's route leads to another plugin now, or the plugin was replaced without its state.
    Rerouted,
    /// The channel exceeded a limit of the host.
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
