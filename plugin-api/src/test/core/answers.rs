//! How joins, connects and pushes are answered, now or later.

use super::{Core, Input, Promise, Standing, To};
use crate::abi::{effect, event};
use crate::test::body::Body;
use crate::test::boundary::{Asked, Event};

impl Core {
    /// `status`: that of the answer, if it is one.
    pub(super) fn join_event(&mut self, kind: u32, member: u64, token: u64, status: &str, body: &Body) {
        let (topic, info) = (self.members[&member].topic, self.members[&member].info.clone());
        let name = self.topics[&topic].name.clone();
        let event = Event {
            kind,
            topic,
            member,
            token,
            name: if kind == event::JOIN { &name } else { status },
            payload: &body.bytes,
            binary: body.binary,
            info: &info,
            ..Event::default()
        };
        match self.handle(&event) {
            Ok(asked) => self.joined(topic, member, asked),
            Err(_) => self.refuse(topic, member, Body::reason("join crashed")),
        }
    }

    pub(super) fn joined(&mut self, topic: u64, member: u64, mut asked: Vec<(Asked, i64)>) {
        let is_answer = |kind| matches!(kind, effect::ACCEPT | effect::REFUSE | effect::LATER);
        let Some(at) = asked.iter().position(|(asked, _)| is_answer(asked.kind)) else {
            return self.refuse(topic, member, Body::reason("join crashed"));
        };
        let (answer, serial) = asked.remove(at);
        if answer.kind != effect::ACCEPT {
            // Not in: nothing that concerns the member itself holds.
            asked.retain(|(asked, _)| asked.member != member);
            self.topic_mut(topic, |topic| topic.presence.leave_quietly(member));
        }
        match answer.kind {
            effect::ACCEPT => {
                let waiting = self.member_mut(member, |member| {
                    member.standing = Standing::In;
                    member.answer = Some(Ok(answer.into_body()));
                    std::mem::take(&mut member.waiting)
                });
                for input in waiting.unwrap_or_default().into_iter().rev() {
                    self.queue.push_front(input);
                }
                let tracks = |kind| matches!(kind, effect::TRACK | effect::UPDATE | effect::UNTRACK);
                if asked
                    .iter()
                    .any(|(asked, _)| tracks(asked.kind) && asked.member == member)
                {
                    self.push_presence(member);
                }
            }
            effect::LATER => {
                let (to, by) = (To::Join { member }, self.home(topic));
                self.promises.insert(serial.unsigned_abs(), Promise { to, by });
            }
            _ => self.refuse(topic, member, answer.into_body()),
        }
        self.apply(topic, asked);
    }

    pub(super) fn refuse(&mut self, topic: u64, member: u64, body: Body) {
        self.topic_mut(topic, |topic| topic.presence.leave_quietly(member));
        self.member_mut(member, |member| {
            member.standing = Standing::Out;
            member.answer = Some(Err(body));
        });
    }

    /// `status`: that of the answer, if it is one.
    pub(super) fn connect_event(&mut self, kind: u32, number: u64, token: u64, status: &str, body: &Body) {
        let info = self
            .connects
            .get(&number)
            .map_or_else(String::new, |connecting| connecting.info.clone());
        let event = Event {
            kind,
            token,
            name: status,
            payload: &body.bytes,
            binary: body.binary,
            info: &info,
            ..Event::default()
        };
        let mut answer = Some(Err((500, None)));
        for (asked, returned) in self.handle(&event).unwrap_or_default() {
            match asked.kind {
                effect::CONNECT_ACCEPT => answer = Some(Ok((asked.name.clone(), asked.into_body()))),
                effect::CONNECT_REFUSE => {
                    let status = u16::try_from(asked.number).unwrap_or(500);
                    let body = Some(asked.into_body()).filter(|body| !body.bytes.is_empty());
                    answer = Some(Err((status, body)));
                }
                effect::LATER => {
                    let (to, by) = (To::Connect { number }, Some(self.generations.len() - 1));
                    self.promises.insert(returned.unsigned_abs(), Promise { to, by });
                    answer = None;
                }
                _ => {}
            }
        }
        if let Some(connecting) = self.connects.get_mut(&number) {
            connecting.answer = answer;
        }
    }

    pub(super) fn pushed(&mut self, member: u64, push: u64, event: String, body: Body) {
        match self.standing(member) {
            Standing::In => {
                let topic = self.members[&member].topic;
                let asked = self.event(event::IN, topic, member, &event, &body);
                for (asked, _) in asked {
                    self.answer_push(member, push, asked);
                }
            }
            Standing::Pending => {
                let waiting = Input::In {
                    member,
                    push,
                    event,
                    body,
                };
                self.member_mut(member, |member| member.waiting.push(waiting));
            }
            Standing::Out => {
                let refusal = ("error".to_owned(), Body::reason("unmatched topic"));
                self.replies.insert(push, refusal);
            }
        }
    }

    /// What belongs to one push: its reply, or the promise of one.
    pub(super) fn answer_push(&mut self, member: u64, push: u64, asked: Asked) {
        match asked.kind {
            effect::REPLY if asked.token == 0 => {
                self.replies.insert(push, (asked.name.clone(), asked.into_body()));
            }
            _ => {
                let (to, by) = (To::Push { member, push }, self.home(self.members[&member].topic));
                self.promises.insert(asked.token, Promise { to, by });
            }
        }
    }

    pub(super) fn keep_promise(&mut self, serial: u64, status: String, body: Body) {
        let Some(Promise { to, .. }) = self.promises.remove(&serial) else {
            return self
                .outside
                .note("warn  an answer came too late, or twice: nobody waits for it".to_owned());
        };
        match to {
            To::Push { member, push } if self.standing(member) == Standing::In => {
                self.replies.insert(push, (status, body));
            }
            To::Push { .. } => {}
            To::Join { member } if self.standing(member) == Standing::Pending => {
                self.join_event(event::ANSWER, member, serial, &status, &body);
            }
            To::Join { .. } => {}
            To::Connect { number } => self.connect_event(event::ANSWER, number, serial, &status, &body),
        }
    }

    /// What a generation has promised that has ended is answered in its place.
    pub(in crate::test) fn break_promises(&mut self, generation: usize) {
        let broken: Vec<_> = self
            .promises
            .extract_if(.., |_, promise| promise.by == Some(generation))
            .collect();
        for (_, Promise { to, .. }) in broken {
            let reloaded = Body::reason("reloaded");
            match to {
                To::Push { push, .. } => drop(self.replies.insert(push, ("error".to_owned(), reloaded))),
                To::Join { member } => {
                    let topic = self.members[&member].topic;
                    self.refuse(topic, member, reloaded);
                }
                To::Connect { .. } => {}
            }
        }
    }
}
