//! What a client has of a topic: [`Membership`].

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::body::Body;
use super::client::Client;
use super::core::{Core, Standing, Topic};
use super::expect::{Expect, any};
use super::inbox::{listed, position};
use super::pushed::Pushed;
use crate::context::Presences;
use crate::payload::IntoPayload;

/// One client's membership of one topic: what the author's channel is on the other side.
pub struct Membership {
    pub(super) core: Rc<RefCell<Core>>,
    pub(super) number: u64,
}

impl Membership {
    pub(super) fn new(core: &Rc<RefCell<Core>>, number: u64) -> Self {
        let core = Rc::clone(core);
        Self { core, number }
    }

    /// The number by which [`Client::sent`] calls it.
    #[doc(hidden)]
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What the join was answered.
    #[must_use]
    pub fn join_reply(&self) -> Value {
        match &self.core.borrow().members[&self.number].answer {
            Some(Ok(reply)) => reply.value(),
            _ => Value::Null,
        }
    }

    /// Pushes an event. It is handled when this returns.
    pub fn push(&self, event: &str, payload: impl IntoPayload) -> Pushed {
        let number = self.core.borrow_mut().push(self.number, event, Body::of(&payload));
        Pushed::new(&self.core, number, event)
    }

    /// Sends a message to the member: it arrives in `handle_info`.
    pub fn send(&self, name: &str, payload: impl IntoPayload) {
        let mut core = self.core.borrow_mut();
        let topic = core.members[&self.number].topic;
        core.send(topic, self.number, name, Body::of(&payload));
    }

    /// Leaves the topic. The push is answered `ok`, and the client gets `phx_close`.
    pub fn leave(&self) -> Pushed {
        let number = self.core.borrow_mut().leave(self.number);
        Pushed::new(&self.core, number, "phx_leave")
    }

    /// The connection that it was joined over.
    #[must_use]
    pub fn client(&self) -> Client {
        Client {
            core: Rc::clone(&self.core),
            number: self.core.borrow().members[&self.number].client,
        }
    }

    /// Closes the connection, as [`Client::close`] does.
    pub fn close(&self) {
        self.client().close();
    }

    /// Whether it is joined still.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.core.borrow().standing(self.number) == Standing::In
    }

    /// Asserts that the client is sent this event, by a push or a broadcast: it cannot tell. Returns the payload, binary as
    /// an array of its bytes.
    ///
    /// # Panics
    ///
    /// If it is not, by now or while there is patience. Says what it got instead.
    #[track_caller]
    pub fn assert_push(&self, event: &str, payload: impl Expect) -> Value {
        match self.wait_in_inbox(event, &payload) {
            Some(found) => found,
            None => panic!("{}", self.missing(event, &payload)),
        }
    }

    /// Asserts that the client has not been sent such an event, or that an assertion has taken it.
    ///
    /// # Panics
    ///
    /// If it has.
    #[track_caller]
    pub fn refute_push(&self, event: &str, payload: impl Expect) {
        let mut core = self.core.borrow_mut();
        core.settle();
        if let Some(found) = position(&core.members[&self.number].inbox, event, &payload) {
            let found = core.members[&self.number].inbox[found].clone();
            drop(core);
            panic!("{self:?} was sent {found}, which is {} as `{event}`", payload.shown());
        }
    }

    /// Asserts that this was broadcast to the topic, whoever it reached, intercepted or not. Returns the payload.
    ///
    /// # Panics
    ///
    /// If it was not, by now or while there is patience. Says what was.
    #[track_caller]
    pub fn assert_broadcast(&self, event: &str, payload: impl Expect) -> Value {
        let topic = self.core.borrow().members[&self.number].topic;
        let found = self.core.borrow_mut().wait_until(|core| {
            let broadcasts = &mut core.topics.get_mut(&topic)?.broadcasts;
            let at = position(broadcasts, event, &payload)?;
            Some(broadcasts.remove(at).body.value())
        });
        let Some(found) = found else {
            let core = self.core.borrow();
            let Topic { name, broadcasts, .. } = &core.topics[&topic];
            let (expected, listed, logged) = (payload.shown(), listed(broadcasts), core.logged());
            panic!(
                "`{event}` {expected}\nwas not broadcast to `{name}`; what was, and no assertion has taken:{listed}{logged}"
            );
        };
        found
    }

    /// Asserts that no such thing was broadcast to the topic, or that an assertion has taken it.
    ///
    /// # Panics
    ///
    /// If it was.
    #[track_caller]
    pub fn refute_broadcast(&self, event: &str, payload: impl Expect) {
        let mut core = self.core.borrow_mut();
        core.settle();
        let topic = &core.topics[&core.members[&self.number].topic];
        if let Some(found) = position(&topic.broadcasts, event, &payload) {
            let text = format!("`{}` was sent {}", topic.name, topic.broadcasts[found]);
            drop(core);
            panic!("{text}");
        }
    }

    /// Asserts that somebody is present on the topic under `key` with such a meta, references apart. Takes nothing away.
    ///
    /// # Panics
    ///
    /// If nobody is, by now or while there is patience. Says who is.
    #[track_caller]
    pub fn assert_presence(&self, key: &str, meta: impl Expect) {
        let topic = self.core.borrow().members[&self.number].topic;
        let found = self.core.borrow_mut().wait_until(|core| {
            let metas = core.topics[&topic].presence.metas(key);
            metas.iter().any(|found| meta.takes(found)).then_some(())
        });
        if found.is_none() {
            let core = self.core.borrow();
            let state = core.topics[&topic].presence.state();
            panic!(
                "nobody is present as `{key}` {}; who is: {state}{}",
                meta.shown(),
                core.logged()
            );
        }
    }

    /// Asserts that nobody is present on the topic under `key`.
    ///
    /// # Panics
    ///
    /// If somebody is.
    #[track_caller]
    pub fn refute_presence(&self, key: &str) {
        let mut core = self.core.borrow_mut();
        core.settle();
        let found = core.topics[&core.members[&self.number].topic].presence.get(key);
        drop(core);
        if let Some(found) = found {
            panic!("somebody is present as `{key}`: {found}");
        }
    }

    /// Who is present on the topic.
    #[must_use]
    pub fn presences(&self) -> Presences {
        let mut core = self.core.borrow_mut();
        core.settle();
        let state = core.topics[&core.members[&self.number].topic].presence.state();
        serde_json::from_value(state).unwrap_or_default()
    }

    /// Asserts that the channel has ended normally: its client got `phx_close` and will not rejoin.
    ///
    /// # Panics
    ///
    /// If it has not.
    #[track_caller]
    pub fn assert_close(&self) {
        self.assert_push("phx_close", any());
    }

    /// Asserts that the channel has ended abnormally, by a panic or [`Stop::Other`](crate::Stop::Other): its client got
    /// `phx_error` and will rejoin.
    ///
    /// # Panics
    ///
    /// If it has not.
    #[track_caller]
    pub fn assert_error(&self) {
        self.assert_push("phx_error", any());
    }

    /// The state of the member, as the plugin writes it for a reload, read as any type that fits.
    ///
    /// # Panics
    ///
    /// If it has none, or that can't be written or read as a `T`. Says why.
    #[must_use]
    #[track_caller]
    pub fn state<T: DeserializeOwned>(&self) -> T {
        let mut core = self.core.borrow_mut();
        let topic = core.members[&self.number].topic;
        let state = core.state_of(topic, self.number);
        drop(core);
        match state {
            Ok(state) => state,
            Err(why) => panic!("the state of {self:?}: {why}"),
        }
    }

    fn wait_in_inbox(&self, event: &str, payload: &impl Expect) -> Option<Value> {
        self.core.borrow_mut().wait_until(|core| {
            let inbox = &mut core.members.get_mut(&self.number)?.inbox;
            let at = position(inbox, event, payload)?;
            Some(inbox.remove(at).body.value())
        })
    }

    fn missing(&self, event: &str, payload: &impl Expect) -> String {
        let core = self.core.borrow();
        let inbox = &core.members[&self.number].inbox;
        let (listed, logged, expected) = (listed(inbox), core.logged(), payload.shown());
        format!(
            "{self:?} was not sent `{event}` {expected}\nwhat it was sent, and no assertion has taken:{listed}{logged}"
        )
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(core) = self.core.try_borrow() else {
            return f.write_str("a member");
        };
        let member = &core.members[&self.number];
        write!(
            f,
            "client {} on `{}`",
            member.client + 1,
            core.topics[&member.topic].name
        )
    }
}
