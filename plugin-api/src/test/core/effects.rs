//! What the effects of an event do, once it is done.

use std::time::Duration;

use super::step::Noted;
use super::{ClientInfo, Core, Input, Member, Standing};
use crate::abi::{effect, reason};
use crate::test::body::Body;
use crate::test::boundary::Asked;
use crate::test::inbox::{Kind, Message, Sent};

pub(super) struct Timer {
    pub(super) due: Duration,
    pub(super) topic: u64,
    pub(super) member: u64,
    pub(super) name: String,
    pub(super) body: Body,
}

/// What clients are sent.
impl Core {
    /// The client of a member, unless its connection is closed.
    fn client_of(&mut self, member: u64) -> Option<&mut ClientInfo> {
        let client = self.members.get(&member)?.client;
        self.clients.get_mut(client).filter(|client| !client.closed)
    }

    fn deliver(&mut self, sent: Sent) {
        if let Some(client) = self.client_of(sent.member) {
            client.sent.push(sent);
        }
    }

    pub(super) fn answer_join(&mut self, member: u64, status: &str, body: &Body) {
        let status = status.to_owned();
        self.deliver(Sent::reply(member, Kind::Joined { status }, body));
    }

    pub(super) fn reply(&mut self, member: u64, push: u64, status: &str, body: Body) {
        let status = status.to_owned();
        let kind = Kind::Reply {
            push,
            status: status.clone(),
        };
        self.deliver(Sent::reply(member, kind, &body));
        self.replies.insert(push, (status, body));
    }

    /// Answers a push whose membership is over.
    pub(super) fn orphan(&mut self, member: u64, push: u64) {
        let body = Body::reason("unmatched topic");
        self.deliver(Sent::reply(member, Kind::Orphan { push }, &body));
        self.replies.insert(push, ("error".to_owned(), body));
    }

    pub(super) fn tell(&mut self, member: u64, message: Message) {
        if let Some(client) = self.client_of(member) {
            client.sent.push(Sent::message(member, &message));
            self.member_mut(member, |member| member.inbox.push(message));
        }
    }

    pub(super) fn push_presence(&mut self, member: u64) {
        let topic = self.members.get(&member).map_or(0, |member| member.topic);
        if let Some(state) = self.topics.get(&topic).map(|topic| topic.presence.state()) {
            self.tell(member, Message::new("push", "presence_state", Body::json(&state)));
        }
    }

    pub(super) fn announce_presence(&mut self) {
        let topics: Vec<u64> = self.topics.keys().copied().collect();
        for topic in topics {
            if let Some(Some(diff)) = self.topic_mut(topic, |topic| topic.presence.take_diff()) {
                self.broadcast(topic, "presence_diff", Body::json(&diff), 0);
            }
        }
    }

    /// Broadcasts to a topic, by way of its plugin where that intercepts the event.
    fn broadcast(&mut self, topic: u64, event: &str, body: Body, except: u64) {
        let intercepts = self
            .home(topic)
            .is_some_and(|home| self.generations[home].code.intercepts(event));
        let message = Message::new("broadcast", event, body);
        self.topic_mut(topic, |topic| topic.broadcasts.push(message.clone()));
        if intercepts {
            let Message { event, body, .. } = message;
            self.queue.push_back(Input::Out {
                topic,
                event,
                body,
                except,
            });
            return;
        }
        let subscribed = |(&number, member): (&u64, &Member)| {
            let is_in = member.topic == topic && member.standing == Standing::In;
            (is_in && number != except).then_some(number)
        };
        let subscribers: Vec<u64> = self.members.iter().filter_map(subscribed).collect();
        for member in subscribers {
            self.tell(member, message.clone());
        }
    }

    /// Broadcasts to a topic of any name: one that nobody has joined may be a socket id.
    pub(in crate::test) fn broadcast_to(&mut self, name: &str, event: &str, body: Body, except: u64) {
        if event == "disconnect" {
            let is_meant = |client: &ClientInfo| client.socket_id.as_deref() == Some(name) && !client.closed;
            let clients: Vec<usize> = (0..self.clients.len())
                .filter(|&at| is_meant(&self.clients[at]))
                .collect();
            for client in clients {
                self.close(client, reason::DISCONNECTED);
            }
        }
        let topic = self.topic_number(name);
        self.broadcast(topic, event, body, except);
    }
}

impl Core {
    /// What an event asked for takes effect, in the order of asking. The answers to a push are returned.
    pub(super) fn apply(&mut self, topic: u64, noted: Vec<Noted>) -> Vec<Noted> {
        let mut answers = Vec::new();
        let mut stops = Vec::new();
        let mut forgotten = false;
        for Noted { asked, number } in noted {
            let Asked {
                kind,
                member,
                token,
                ref name,
                ..
            } = asked;
            match kind {
                effect::LATER => answers.push(Noted { asked, number }),
                effect::REPLY if token == 0 => answers.push(Noted { asked, number }),
                effect::REPLY => {
                    // Next of all: the promise may be of this very event.
                    self.outside.forget(token);
                    self.queue.push_front(Input::Complete {
                        serial: token,
                        status: asked.name,
                        body: asked.body,
                    });
                }
                effect::PUSH => self.tell(member, Message::new("push", name, asked.body)),
                effect::BROADCAST if asked.topic.is_empty() => self.broadcast(topic, name, asked.body, member),
                effect::BROADCAST => self.broadcast_to(&asked.topic, name, asked.body, member),
                effect::PRESENCE => self.push_presence(member),
                effect::STOP => stops.push((member, asked.number, asked.name)),
                effect::SEND => self.start_timer(number, topic, asked),
                effect::SEND_TO => {
                    let (topic, name, body) = (self.topic_number(&asked.topic), asked.name, asked.body);
                    self.queue.push_back(Input::Info {
                        topic,
                        member: 0,
                        name,
                        body,
                    });
                }
                effect::FORGET => forgotten = true,
                effect::CANCEL => drop(self.timers.remove(&asked.number)),
                effect::PROMISE_READ | effect::PROMISE_WRITTEN => {
                    let by = (kind == effect::PROMISE_READ).then(|| self.home(topic)).flatten();
                    if let Some(promise) = self.promises.get_mut(&token) {
                        promise.by = by;
                    }
                }
                _ => {}
            }
        }
        if forgotten {
            self.forget_topic(topic);
        }
        for (member, reason, text) in stops.into_iter().rev() {
            self.end_next(member, u32::try_from(reason).unwrap_or(reason::OTHER), text);
        }
        answers
    }

    fn start_timer(&mut self, number: u64, topic: u64, asked: Asked) {
        let delay = Duration::from_millis(asked.number);
        let timer = Timer {
            due: self.now.saturating_add(delay),
            topic,
            member: asked.member,
            name: asked.name,
            body: asked.body,
        };
        self.timers.insert(number, timer);
        if delay.is_zero() {
            self.queue.push_back(Input::Timer(number));
        }
    }
}
