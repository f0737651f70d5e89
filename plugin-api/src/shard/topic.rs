//! A topic on its shard, and the members in it.

use std::rc::Rc;

use serde_json::json;

use super::members::Members;
use super::{Done, Fault};
use crate::abi::effect;
use crate::context::Context;
use crate::glue::{Effect, Incoming};
use crate::panics::drop_caught;
use crate::reply::{Entry, Join, Joined};
use crate::wire::MemberInfo;

pub(super) struct Topic<C, S> {
    pub(super) name: Rc<str>,
    pub(super) shared: S,
    pub(super) members: Members<C>,
}

pub(super) struct Member<C> {
    pub(super) state: C,
    pub(super) info: Option<Rc<MemberInfo>>,
}

impl<C, S> Topic<C, S> {
    pub(super) fn new(name: &str, shared: S) -> Self {
        Self {
            name: name.into(),
            shared,
            members: Members::default(),
        }
    }

    /// Tells the host the answer to a join, and keeps the member.
    pub(super) fn settle<P>(&mut self, join: Join<C>, event: &Incoming<'_>, cx: &Context<P>) -> Done {
        let effect = |kind| Effect {
            kind,
            member: event.member,
            ..Effect::default()
        };
        match join.map(|Joined(entry)| entry) {
            Ok(Entry::Now(state, body)) => {
                if cx.ask(effect(effect::ACCEPT), body.lend(event.payload)) >= 0 {
                    self.members.insert(
                        event.member,
                        Member {
                            state,
                            info: cx.info.clone(),
                        },
                    );
                } else {
                    cx.ask(effect(effect::REFUSE), json!({ "reason": "invalid answer" }));
                }
            }
            Ok(Entry::Later) => cx.check_promised(event.callback()),
            Err(refusal) => {
                cx.ask(effect(effect::REFUSE), refusal.into_body().lend(event.payload));
            }
        }
        cx.emit_stops();
        Ok(())
    }

    /// Drops everything, one member at a time: a panic in one drop does not stop the others.
    pub(super) fn close(self) -> Done {
        let members = self.members.into_values().map(drop_caught).fold(Ok(()), Result::and);
        members.and(drop_caught(self.shared)).map_err(Fault::Panicked)
    }
}
