//! How joins, connects and pushes are answered, now or later.

use super::step::Noted;
use super::{Core, Input, Standing};
use crate::abi::{effect, event};
use crate::test::body::Body;
use crate::test::boundary::{Asked, Event};

pub(in crate::test) struct Promise {
    pub(in crate::test) to: To,
    /// The generation that answers for it; `None`: whoever reads it.
    pub(super) by: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::test) enum To {
    Push { member: u64, push: u64 },
    Call { push: u64 },
    Join { member: u64 },
    Connect { number: u64 },
}

/// Socket id and assigns, or status and body.
pub(in crate::test) type ConnectAnswer = Result<(String, Body), (u16, Option<Body>)>;

/// A client that wants to connect.
#[derive(Default)]
pub(in crate::test) struct Connecting {
    pub(super) info: String,
    pub(in crate::test) answer: Option<ConnectAnswer>,
}

impl Core {
    /// A topic comes into being in the newest code.
    fn begin(&mut self, topic: u64) {
        if !self.topics[&topic].live {
            let newest = self.newest();
            self.topic_mut(topic, |topic| (topic.live, topic.generation) = (true, newest));
        }
    }

    /// A client's join reaches the plugin.
    pub(super) fn joining(&mut self, member: u64, params: &Body) {
        let topic = self.members[&member].topic;
        self.begin(topic);
        let name = self.topics[&topic].name.clone();
        self.join_event(event::JOIN, member, 0, &name, params);
    }

    /// `name`: the topic of a join, or the status of its answer.
    fn join_event(&mut self, kind: u32, member: u64, token: u64, name: &str, body: &Body) {
        let (topic, info) = (self.members[&member].topic, self.info_of(member));
        let event = Event {
            kind,
            topic,
            member,
            token,
            name,
            payload: &body.bytes,
            binary: body.binary,
            info: &info,
            ..Event::default()
        };
        match self.handle(&event) {
            Ok(noted) => self.decided(topic, member, noted),
            Err(_) => self.refuse(member, Body::reason("join crashed")),
        }
    }

    /// The plugin has handled a join, or the answer to one.
    fn decided(&mut self, topic: u64, member: u64, mut noted: Vec<Noted>) {
        let is_answer = |kind| matches!(kind, effect::ACCEPT | effect::REFUSE | effect::LATER);
        let Some(at) = noted.iter().position(|noted| is_answer(noted.asked.kind)) else {
            return self.refuse(member, Body::reason("join crashed"));
        };
        let Noted { asked: answer, number } = noted.remove(at);
        if answer.kind != effect::ACCEPT {
            // The member is not in: nothing that concerns itself holds.
            noted.retain(|noted| noted.asked.member != member || noted.asked.kind == effect::BROADCAST);
            self.topic_mut(topic, |topic| topic.presence.leave_quietly(member));
        }
        match answer.kind {
            effect::ACCEPT => {
                self.accept(member, answer.body);
                let tracks = |kind| matches!(kind, effect::TRACK | effect::UPDATE | effect::UNTRACK);
                let is_tracked = |noted: &Noted| tracks(noted.asked.kind) && noted.asked.member == member;
                if noted.iter().any(is_tracked) {
                    self.push_presence(member);
                }
            }
            effect::LATER => {
                let (to, by) = (To::Join { member }, self.home(topic));
                self.promises.insert(number, Promise { to, by });
            }
            _ => self.refuse(member, answer.body),
        }
        self.apply(topic, noted);
    }

    fn accept(&mut self, member: u64, reply: Body) {
        self.answer_join(member, "ok", &reply);
        let waiting = self.member_mut(member, |member| {
            member.standing = Standing::In;
            member.answer = Some(Ok(reply));
            std::mem::take(&mut member.waiting)
        });
        for input in waiting.unwrap_or_default().into_iter().rev() {
            self.queue.push_front(input);
        }
        self.close_replaced(member);
    }

    pub(super) fn refuse(&mut self, member: u64, body: Body) {
        self.answer_join(member, "error", &body);
        self.member_mut(member, |member| member.answer = Some(Err(body)));
        self.close_replaced(member);
        self.dismiss(member);
    }

    pub(super) fn connecting_info(&self, number: u64) -> String {
        self.connects
            .get(&number)
            .map_or_else(String::new, |connecting| connecting.info.clone())
    }

    /// Asks the connect handler, or hands it the answer that it promised.
    pub(super) fn connected(&mut self, number: u64, event: &Event<'_>) {
        let mut answer = Some(Err((500, None)));
        for noted in self.handle(event).unwrap_or_default() {
            let Asked { kind, name, body, .. } = noted.asked;
            match kind {
                effect::CONNECT_ACCEPT => answer = Some(Ok((name, body))),
                effect::CONNECT_REFUSE => {
                    let status = u16::try_from(noted.asked.number).unwrap_or(500);
                    answer = Some(Err((status, Some(body).filter(|body| !body.bytes.is_empty()))));
                }
                effect::LATER => {
                    let (to, by) = (To::Connect { number }, Some(self.newest()));
                    self.promises.insert(noted.number, Promise { to, by });
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
            Standing::In | Standing::Ending => {
                let topic = self.members[&member].topic;
                for noted in self.event(event::IN, topic, member, &event, &body) {
                    self.answer_push(member, push, noted);
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
            Standing::Out => self.orphan(member, push),
        }
    }

    /// What belongs to one push: its reply, or the promise of one.
    fn answer_push(&mut self, member: u64, push: u64, noted: Noted) {
        if noted.asked.kind == effect::LATER {
            let (to, by) = (To::Push { member, push }, self.home(self.members[&member].topic));
            self.promises.insert(noted.number, Promise { to, by });
        } else {
            self.reply(member, push, &noted.asked.name, noted.asked.body);
        }
    }

    /// A backend asks a topic; returns the number of its question.
    pub(in crate::test) fn call(&mut self, topic: &str, event: &str, body: Body) -> u64 {
        let (topic, push, event) = (self.topic_number(topic), self.number(), event.to_owned());
        self.queue.push_back(Input::Call {
            topic,
            push,
            event,
            body,
        });
        self.settle();
        push
    }

    /// The question reaches the plugin.
    pub(super) fn called(&mut self, topic: u64, push: u64, event: &str, body: &Body) {
        self.begin(topic);
        let name = self.topics[&topic].name.clone();
        let asked = Event {
            kind: event::CALL,
            topic,
            name: event,
            payload: &body.bytes,
            binary: body.binary,
            info: &name,
            ..Event::default()
        };
        let answer = match self.handle(&asked) {
            Ok(noted) => self.apply(topic, noted).into_iter().next(),
            Err(_) => {
                let crashed = ("error".to_owned(), Body::reason("crashed"));
                self.replies.insert(push, crashed);
                return;
            }
        };
        match answer {
            Some(Noted { asked, number }) if asked.kind == effect::LATER => {
                let (to, by) = (To::Call { push }, self.home(topic));
                self.promises.insert(number, Promise { to, by });
            }
            Some(Noted { asked, .. }) => drop(self.replies.insert(push, (asked.name, asked.body))),
            None => drop(self.replies.insert(push, ("ok".to_owned(), Body::empty()))),
        }
        self.linger(topic);
    }

    pub(super) fn keep_promise(&mut self, serial: u64, status: &str, body: Body) {
        let Some(Promise { to, .. }) = self.promises.remove(&serial) else {
            return;
        };
        match to {
            To::Push { member, push } => self.reply(member, push, status, body),
            To::Call { push } => drop(self.replies.insert(push, (status.to_owned(), body))),
            To::Join { member } if self.standing(member) == Standing::Pending => {
                self.join_event(event::ANSWER, member, serial, status, &body);
            }
            To::Join { .. } => {}
            To::Connect { number } => {
                let info = self.connecting_info(number);
                let answer = Event {
                    kind: event::ANSWER,
                    token: serial,
                    name: status,
                    payload: &body.bytes,
                    binary: body.binary,
                    info: &info,
                    ..Event::default()
                };
                self.connected(number, &answer);
            }
        }
    }

    /// Answers in its place what a generation has promised that has ended.
    pub(super) fn break_promises(&mut self, generation: usize) {
        let broken: Vec<_> = self
            .promises
            .extract_if(.., |_, promise| promise.by == Some(generation))
            .collect();
        for (serial, Promise { to, .. }) in broken {
            self.outside.forget(serial);
            match to {
                To::Push { member, push } => self.reply(member, push, "error", Body::reason("reloaded")),
                To::Call { push } => {
                    self.replies
                        .insert(push, ("error".to_owned(), Body::reason("reloaded")));
                }
                To::Join { member } => self.refuse(member, Body::reason("reloaded")),
                To::Connect { .. } => {}
            }
        }
    }
}
