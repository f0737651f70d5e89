//! A client's membership of a topic: [`Membership`].

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

/// One client's membership of one topic: the client's side of a [`Channel`](crate::Channel) value.
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

    /// The payload of the join's reply.
    #[must_use]
    pub fn join_reply(&self) -> Value {
        match &self.core.borrow().members[&self.number].answer {
            Some(Ok(reply)) => reply.value(),
            _ => Value::Null,
        }
    }

    /// Pushes an event. The plugin has handled it when this returns.
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

    /// Leaves the topic. The reply is `ok`, and the client gets `phx_close`.
    pub fn leave(&self) -> Pushed {
        let number = self.core.borrow_mut().leave(self.number);
        Pushed::new(&self.core, number, "phx_leave")
    }

    /// The client's connection.
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

    /// Whether the client is still joined.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.core.borrow().standing(self.number) == Standing::In
    }

    /// Asserts that the client gets this event, by a push or a broadcast, and waits for it. Returns the payload; a binary one as an
    /// array of its bytes.
    ///
    /// # Panics
    ///
    /// If it does not come. Shows what came instead.
    #[track_caller]
    pub fn assert_push(&self, event: &str, payload: impl Expect) -> Value {
        match self.wait_in_inbox(event, &payload) {
            Some(found) => found,
            None => panic!("{}", self.missing(event, &payload)),
        }
    }

    /// Asserts that the client has no such event, apart from those that assertions have taken.
    ///
    /// # Panics
    ///
    /// If it has one.
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

    /// Asserts a broadcast to the topic, whoever gets it, intercepted or not, and waits for it. Returns the payload.
    ///
    /// # Panics
    ///
    /// If it does not come. Shows the broadcasts that came instead.
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

    /// Asserts that the topic had no such broadcast, apart from those that assertions have taken.
    ///
    /// # Panics
    ///
    /// If it had one.
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

    /// Asserts that somebody is present on the topic under `key` with this meta, and waits for it. Ignores `phx_ref` and
    /// `phx_ref_prev`. Removes nothing.
    ///
    /// # Panics
    ///
    /// If nobody is. Shows who is.
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

    /// The topic's presence list.
    #[must_use]
    pub fn presences(&self) -> Presences {
        let mut core = self.core.borrow_mut();
        core.settle();
        let state = core.topics[&core.members[&self.number].topic].presence.state();
        serde_json::from_value(state).unwrap_or_default()
    }

    /// Asserts that the channel ended normally: its client got `phx_close` and does not rejoin.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn assert_close(&self) {
        self.assert_push("phx_close", any());
    }

    /// Asserts that the channel failed, by a panic or [`Stop::Other`](crate::Stop::Other): its client got `phx_error` and rejoins.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn assert_error(&self) {
        self.assert_push("phx_error", any());
    }

    /// The member's state, as the plugin writes it for a reload, read as a `T`.
    ///
    /// # Panics
    ///
    /// If it cannot be written, or read as a `T`. Says why.
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
