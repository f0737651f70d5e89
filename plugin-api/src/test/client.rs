//! The clients of a test: [`Client`], and an open join, [`Joining`].

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::body::Body;
use super::core::{Core, Standing};
use super::expect::Expect;
use super::inbox::Sent;
use super::membership::Membership;
use crate::abi::reason;
use crate::payload::IntoPayload;

/// One client's connection. A clone is the same connection.
#[derive(Clone)]
pub struct Client {
    pub(super) core: Rc<RefCell<Core>>,
    pub(super) number: usize,
}

impl Client {
    /// Gives the connection a socket id, as a connect handler would.
    #[must_use]
    pub fn id(self, socket_id: &str) -> Self {
        self.core.borrow_mut().clients[self.number].socket_id = Some(socket_id.to_owned());
        self
    }

    /// Gives the connection assigns, as a connect handler would: a JSON object.
    #[must_use]
    pub fn assigns(self, assigns: Value) -> Self {
        self.core.borrow_mut().clients[self.number].assigns = Some(assigns);
        self
    }

    /// Gives the connection claims, as a token would: a JSON object.
    #[must_use]
    pub fn claims(self, claims: Value) -> Self {
        self.core.borrow_mut().clients[self.number].claims = Some(claims);
        self
    }

    /// Replaces the claims, as a new token of the connected client does: all its memberships see the new ones from now on. The
    /// event `access_token`, which brings the token to a real server, is not among them: [push](Membership::push) it yourself.
    pub fn refresh(&self, claims: Value) {
        self.core.borrow_mut().refresh(self.number, claims);
    }

    /// The socket id that the connect handler gave.
    #[must_use]
    pub fn socket_id(&self) -> Option<String> {
        self.core.borrow().clients[self.number].socket_id.clone()
    }

    /// Joins a topic.
    ///
    /// # Panics
    ///
    /// If the join is refused or not answered. Says why.
    #[track_caller]
    pub fn join(&self, topic: &str, params: impl IntoPayload) -> Membership {
        let answer = self.start_join(topic, params).answer();
        let refused = |with| format!("the join of `{topic}` was refused with {with}");
        let failed = match answer {
            Ok(Ok(member)) => return member,
            Ok(Err(refusal)) => refused(refusal),
            Err(why) => why,
        };
        panic!("{failed}{}", self.core.borrow().logged())
    }

    /// Tries to join a topic.
    ///
    /// # Errors
    ///
    /// The payload that refuses the join.
    ///
    /// # Panics
    ///
    /// If the join is not answered.
    #[track_caller]
    pub fn try_join(&self, topic: &str, params: impl IntoPayload) -> Result<Membership, Value> {
        match self.start_join(topic, params).answer() {
            Ok(answer) => answer,
            Err(why) => panic!("{why}{}", self.core.borrow().logged()),
        }
    }

    /// Starts to join a topic whose plugin may answer later.
    pub fn start_join(&self, topic: &str, params: impl IntoPayload) -> Joining {
        let number = self.core.borrow_mut().join(self.number, topic, Body::of(&params));
        Joining(Membership::new(&self.core, number))
    }

    /// Closes the connection. Each of its channels ends with [`Reason::Closed`](crate::Reason::Closed).
    pub fn close(&self) {
        let mut core = self.core.borrow_mut();
        core.close(self.number, reason::CLOSED);
        core.settle();
    }

    /// All that the client was sent since the last call, in order.
    #[doc(hidden)]
    pub fn sent(&self) -> Vec<Sent> {
        let mut core = self.core.borrow_mut();
        core.settle();
        std::mem::take(&mut core.clients[self.number].sent)
    }

    /// Whether the connection was closed, by its client or by a [`disconnect`](crate::Context::disconnect).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.borrow().clients[self.number].closed
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.number + 1)
    }
}

/// A join that may not be answered yet.
#[derive(Debug)]
#[must_use = "assert whether the join is accepted, refused or pending"]
pub struct Joining(Membership);

impl Joining {
    /// Asserts that the join is accepted, and waits for that.
    ///
    /// # Panics
    ///
    /// If it is refused or not answered.
    #[track_caller]
    pub fn assert_accepted(self) -> Membership {
        let core = Rc::clone(&self.0.core);
        let failed = match self.answer() {
            Ok(Ok(member)) => return member,
            Ok(Err(refusal)) => format!("the join was refused with {refusal}"),
            Err(why) => why,
        };
        panic!("{failed}{}", core.borrow().logged())
    }

    /// Asserts that the join is refused with this payload, and waits for that.
    ///
    /// # Panics
    ///
    /// If it is accepted, refused with another payload, or not answered.
    #[track_caller]
    pub fn assert_refused(self, expected: impl Expect) -> Value {
        let core = Rc::clone(&self.0.core);
        let failed = match self.answer() {
            Ok(Err(refusal)) if expected.takes(&refusal) => return refusal,
            Ok(Err(refusal)) => format!("the join was refused with {refusal}, not {}", expected.shown()),
            Ok(Ok(_)) => "the join was accepted".to_owned(),
            Err(why) => why,
        };
        panic!("{failed}{}", core.borrow().logged())
    }

    /// Whether the join is not answered yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.0.core.borrow().standing(self.0.number) == Standing::Pending
    }

    /// The membership, before the join is answered.
    #[doc(hidden)]
    pub fn into_membership(self) -> Membership {
        self.0
    }

    fn answer(self) -> Result<Result<Membership, Value>, String> {
        let number = self.0.number;
        let answer = { self.0.core.borrow_mut() }.wait_until(|core| core.members[&number].answer.clone());
        match answer {
            Some(Ok(_)) => Ok(Ok(self.0)),
            Some(Err(refusal)) => Ok(Err(refusal.value())),
            None => Err("the join was not answered".to_owned()),
        }
    }
}
