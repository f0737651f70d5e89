//! How members end, and what their clients are told.

use serde_json::{Map, Value};

use super::{Core, Input, Standing, To};
use crate::abi::{event, reason};
use crate::test::body::Body;
use crate::test::boundary::Event;

impl Core {
    /// Lets a member end before anything else happens.
    pub(super) fn end_next(&mut self, member: u64, reason: u32, text: String) {
        let normal = matches!(reason, reason::NORMAL | reason::SHUTDOWN);
        let (kind, leave) = (Some(if normal { "phx_close" } else { "phx_error" }), None);
        self.queue.push_front(Input::End {
            member,
            reason,
            text,
            kind,
            leave,
        });
    }

    pub(super) fn ended(&mut self, member: u64, why: u32, text: &str, kind: Option<&'static str>, leave: Option<u64>) {
        if let Some(push) = leave {
            self.replies
                .insert(push, ("ok".to_owned(), Body::json(&Value::Object(Map::new()))));
        }
        let (standing, topic) = (
            self.standing(member),
            self.members.get(&member).map_or(0, |member| member.topic),
        );
        if standing == Standing::Out {
            return;
        }
        // A close is told before `terminate` runs, an error after it.
        if kind == Some("phx_close") {
            self.tell(member, "end", "phx_close", Body::json(&Value::Object(Map::new())));
        }
        if standing == Standing::In {
            let event = Event {
                kind: event::TERMINATE,
                topic,
                member,
                number: why.into(),
                name: text,
                ..Event::default()
            };
            if let Ok(asked) = self.handle(&event) {
                self.apply(topic, asked);
            }
        }
        if kind == Some("phx_error") {
            self.tell(member, "end", "phx_error", Body::reason("channel_crash"));
        }
        self.topic_mut(topic, |topic| topic.presence.leave(member));
        self.timers.retain(|_, timer| timer.member != member);
        self.promises.retain(|_, promise| match promise.to {
            To::Push { member: of, .. } | To::Join { member: of } => of != member,
            To::Connect { .. } => true,
        });
        self.member_mut(member, |member| member.standing = Standing::Out);
    }

    /// Ends a member without its plugin's `terminate`.
    pub(in crate::test) fn end_untold(&mut self, member: u64, why: u32) {
        let topic = self.members.get(&member).map_or(0, |member| member.topic);
        self.member_mut(member, |member| member.standing = Standing::Pending);
        self.ended(member, why, "", Some("phx_error"), None);
        self.topic_mut(topic, |topic| topic.presence.leave(member));
    }
}
