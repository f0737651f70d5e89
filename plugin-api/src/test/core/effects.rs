//! What the effects of an event do, once it is done.

use std::time::Duration;

use super::{ClientInfo, Core, Input, Message, Standing, Timer};
use crate::abi::{effect, reason};
use crate::test::body::Body;
use crate::test::boundary::Asked;

impl Core {
    pub(super) fn tell(&mut self, member: u64, kind: &'static str, event: &str, body: Body) {
        let event = event.to_owned();
        self.member_mut(member, |member| member.inbox.push(Message { kind, event, body }));
    }

    pub(super) fn push_presence(&mut self, member: u64) {
        let topic = self.members.get(&member).map_or(0, |member| member.topic);
        if let Some(state) = self.topics.get(&topic).map(|topic| topic.presence.state()) {
            self.tell(member, "push", "presence_state", Body::json(&state));
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
    pub(in crate::test) fn broadcast(&mut self, topic: u64, event: &str, body: Body, except: u64) {
        let message = Message {
            kind: "broadcast",
            event: event.to_owned(),
            body,
        };
        let intercepts = self
            .home(topic)
            .is_some_and(|home| self.generations[home].code.intercepts(event));
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
        for (&number, member) in &mut self.members {
            if member.topic == topic && member.standing == Standing::In && number != except {
                member.inbox.push(message.clone());
            }
        }
    }

    /// Broadcasts to a topic of any name: one that nobody has joined may be a socket id.
    pub(in crate::test) fn broadcast_to(&mut self, name: &str, event: &str, body: Body, except: u64) {
        let topic = self.topic_number(name);
        self.broadcast(topic, event, body, except);
        if event == "disconnect" {
            let named = |client: &ClientInfo| client.socket_id.as_deref() == Some(name) && !client.closed;
            let clients: Vec<usize> = (0..self.clients.len()).filter(|&at| named(&self.clients[at])).collect();
            clients
                .into_iter()
                .for_each(|client| self.close(client, reason::DISCONNECTED));
        }
    }

    /// What an event asked for takes effect, in the order of asking; the answers among it are returned.
    pub(in crate::test) fn apply(&mut self, topic: u64, asked: Vec<(Asked, i64)>) -> Vec<(Asked, i64)> {
        let mut answers = Vec::new();
        let mut stops = Vec::new();
        for (mut asked, returned) in asked {
            let member = asked.member;
            match asked.kind {
                effect::REPLY if asked.token == 0 => answers.push((asked, returned)),
                effect::REPLY => {
                    // In the order of asking: the promise may be of this very event.
                    let (serial, status) = (asked.token, asked.name.clone());
                    self.queue.push_front(Input::Complete {
                        serial,
                        status,
                        body: asked.into_body(),
                    });
                }
                effect::LATER => {
                    asked.token = returned.unsigned_abs();
                    answers.push((asked, returned));
                }
                effect::PUSH => {
                    let name = asked.name.clone();
                    self.tell(member, "push", &name, asked.into_body());
                }
                effect::BROADCAST => {
                    let (name, event) = (asked.topic.clone(), asked.name.clone());
                    match name.as_str() {
                        "" => self.broadcast(topic, &event, asked.into_body(), member),
                        name => self.broadcast_to(name, &event, asked.into_body(), member),
                    }
                }
                effect::PRESENCE => self.push_presence(member),
                effect::STOP => stops.push((member, asked.number, asked.name)),
                effect::SEND => {
                    let (number, due) = (returned.unsigned_abs(), self.now + Duration::from_millis(asked.number));
                    let (name, now) = (asked.name.clone(), asked.number == 0);
                    let body = asked.into_body();
                    self.timers.insert(
                        number,
                        Timer {
                            due,
                            topic,
                            member,
                            name,
                            body,
                        },
                    );
                    if now {
                        self.queue.push_back(Input::Timer(number));
                    }
                }
                effect::CANCEL => drop(self.timers.remove(&asked.number)),
                effect::PROMISE_READ | effect::PROMISE_WRITTEN => {
                    let by = (asked.kind == effect::PROMISE_READ).then(|| self.home(topic)).flatten();
                    if let Some(promise) = self.promises.get_mut(&asked.token) {
                        promise.by = by;
                    }
                }
                _ => {}
            }
        }
        for (member, reason, text) in stops.into_iter().rev() {
            self.end_next(member, u32::try_from(reason).unwrap_or(reason::OTHER), text);
        }
        answers
    }
}
