//! How members and topics end, and what their clients are told.

use std::time::Duration;

use super::input::{Ending, Input};
use super::{Core, Standing, To};
use crate::abi::{event, reason};
use crate::test::body::Body;
use crate::test::boundary::Event;
use crate::test::inbox::Message;
use crate::test::presence::Presence;

/// How long a topic lives on without members: `linger_ms`, if nothing is configured.
const LINGER: Duration = Duration::from_secs(10);

impl Core {
    /// Lets a member end before anything else happens.
    pub(super) fn end_next(&mut self, member: u64, reason: u32, text: String) {
        let is_normal = matches!(reason, reason::NORMAL | reason::SHUTDOWN);
        let notice = Some(if is_normal { "phx_close" } else { "phx_error" });
        self.queue.push_front(Input::End(Ending {
            member,
            reason,
            text,
            notice,
            leave: None,
        }));
    }

    pub(super) fn ended(&mut self, ending: &Ending) {
        let member = ending.member;
        if let Some(push) = ending.leave {
            self.reply(member, push, "ok", Body::empty());
        }
        match self.standing(member) {
            Standing::Out => return,
            Standing::Pending if ending.notice == Some("phx_close") => self.tell_end(member, "phx_close"),
            Standing::Pending => {}
            Standing::In | Standing::Ending => self.terminate(ending),
        }
        self.dismiss(member);
    }

    /// A close is told before `terminate` runs, an error after it.
    fn terminate(&mut self, ending: &Ending) {
        let member = ending.member;
        let topic = self.members.get(&member).map_or(0, |member| member.topic);
        if ending.notice == Some("phx_close") {
            self.member_mut(member, |member| member.standing = Standing::Ending);
            self.tell_end(member, "phx_close");
        }
        let event = Event {
            kind: event::TERMINATE,
            topic,
            member,
            number: ending.reason.into(),
            name: &ending.text,
            ..Event::default()
        };
        if let Ok(noted) = self.handle(&event) {
            self.apply(topic, noted);
        }
        if ending.notice == Some("phx_error") {
            self.tell_end(member, "phx_error");
        }
    }

    /// Tells a member's client that its channel has ended.
    fn tell_end(&mut self, member: u64, event: &'static str) {
        let body = if event == "phx_error" {
            Body::reason("channel_crash")
        } else {
            Body::empty()
        };
        self.tell(member, Message::new("end", event, body));
        self.close_replaced(member);
    }

    /// Tells the client of the memberships that a join replaced, now that the join is answered.
    pub(super) fn close_replaced(&mut self, member: u64) {
        let replaced = self.member_mut(member, |member| std::mem::take(&mut member.replaced));
        for old in replaced.unwrap_or_default() {
            self.tell(old, Message::new("end", "phx_close", Body::empty()));
        }
    }

    /// Forgets a member. What waited for it is answered as for a topic that is not joined.
    pub(super) fn dismiss(&mut self, member: u64) {
        let Some((topic, waiting)) = self.member_mut(member, |member| {
            member.standing = Standing::Out;
            (member.topic, std::mem::take(&mut member.waiting))
        }) else {
            return;
        };
        self.topic_mut(topic, |topic| topic.presence.leave(member));
        self.timers.retain(|_, timer| timer.member != member);
        let is_of_it = |to| match to {
            To::Push { member: of, .. } | To::Join { member: of } => of == member,
            To::Call { .. } | To::Connect { .. } => false,
        };
        for (serial, _) in self.promises.extract_if(.., |_, promise| is_of_it(promise.to)) {
            self.outside.forget(serial);
        }
        for input in waiting {
            if let Input::In { push, .. } = input {
                self.orphan(member, push);
            }
        }
        self.linger(topic);
    }

    /// Lets a topic without members end after a while.
    pub(super) fn linger(&mut self, topic: u64) {
        if !self.has_members(topic) {
            self.lingering.insert(topic, self.now.saturating_add(LINGER));
        }
    }

    /// Ends a topic for good: its members first, then the topic.
    pub(super) fn forget_topic(&mut self, topic: u64) {
        self.queue.push_front(Input::Linger(topic));
        let members: Vec<u64> = { self.members.iter() }
            .filter(|(_, member)| member.topic == topic && member.standing != Standing::Out)
            .map(|(&number, _)| number)
            .collect();
        for member in members.into_iter().rev() {
            self.end_next(member, reason::NORMAL, String::new());
        }
    }

    fn has_members(&self, topic: u64) -> bool {
        let mut members = self.members.values();
        members.any(|member| member.topic == topic && member.standing != Standing::Out)
    }

    /// Ends a topic, unless somebody has joined it again.
    pub(super) fn close_topic(&mut self, topic: u64) {
        self.lingering.remove(&topic);
        if self.has_members(topic) || !self.topics[&topic].live {
            return;
        }
        let closing = self.handle(&Event {
            kind: event::CLOSING,
            topic,
            ..Event::default()
        });
        if let Ok(noted) = closing {
            self.apply(topic, noted);
        }
        let _ = self.handle(&Event {
            kind: event::CLOSE,
            topic,
            ..Event::default()
        });
        self.timers.retain(|_, timer| timer.topic != topic);
        let generation = self.topic_mut(topic, |topic| {
            (topic.live, topic.presence) = (false, Presence::default());
            topic.generation
        });
        if let Some(old) = generation.filter(|generation| *generation != self.newest()) {
            self.retire_empty(old);
        }
    }

    /// Ends a member whose plugin cannot be asked to `terminate` it.
    pub(super) fn end_untold(&mut self, member: u64) {
        self.tell_end(member, "phx_error");
        self.dismiss(member);
    }
}
