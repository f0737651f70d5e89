//! What waits to happen: [`Input`].

use super::{Core, Standing};
use crate::abi::{event, reason};
use crate::test::body::Body;
use crate::test::boundary::{Event, Said};

pub(super) enum Input {
    Join {
        member: u64,
        params: Body,
    },
    In {
        member: u64,
        push: u64,
        event: String,
        body: Body,
    },
    Call {
        topic: u64,
        push: u64,
        event: String,
        body: Body,
    },
    Out {
        topic: u64,
        event: String,
        body: Body,
        except: u64,
    },
    Info {
        topic: u64,
        member: u64,
        name: String,
        body: Body,
    },
    Timer(u64),
    /// A topic has had no members for a while.
    Linger(u64),
    Complete {
        serial: u64,
        status: String,
        body: Body,
    },
    /// A member's client has shown a new token.
    Claims {
        member: u64,
    },
    End(Ending),
    Connect {
        number: u64,
    },
}

/// The end of a member.
#[derive(Default)]
pub(super) struct Ending {
    pub(super) member: u64,
    /// One of [`reason`](mod@reason).
    pub(super) reason: u32,
    /// What [`Stop::Other`](crate::Stop::Other) or a panic says.
    pub(super) text: String,
    /// What the client is told, if anything.
    pub(super) notice: Option<&'static str>,
    /// The leave that it answers.
    pub(super) leave: Option<u64>,
}

impl From<Said> for Input {
    fn from(said: Said) -> Self {
        match said {
            Said::Complete {
                serial, status, body, ..
            } => Self::Complete { serial, status, body },
            Said::Send {
                topic,
                member,
                name,
                body,
            } => Self::Info {
                topic,
                member,
                name,
                body,
            },
        }
    }
}

impl Core {
    pub(super) fn dispatch(&mut self, input: Input) {
        match input {
            Input::Join { member, params } => self.joining(member, &params),
            Input::In {
                member,
                push,
                event,
                body,
            } => self.pushed(member, push, event, body),
            Input::Call {
                topic,
                push,
                event,
                body,
            } => self.called(topic, push, &event, &body),
            Input::Out {
                topic,
                event,
                body,
                except,
            } => {
                let is_member = |member: &super::Member| member.topic == topic && member.standing == Standing::In;
                if self.topics[&topic].live && self.members.values().any(is_member) {
                    self.event(event::OUT, topic, except, &event, &body);
                }
            }
            Input::Timer(number) => {
                if let Some(timer) = self.timers.remove(&number) {
                    self.message(timer.topic, timer.member, &timer.name, &timer.body);
                }
            }
            Input::Info {
                topic,
                member,
                name,
                body,
            } => self.message(topic, member, &name, &body),
            Input::Linger(topic) => self.close_topic(topic),
            Input::Complete { serial, status, body } => self.keep_promise(serial, &status, body),
            Input::Claims { member } => self.claims(member),
            Input::End(ending) => self.ended(&ending),
            Input::Connect { number } => {
                let info = self.connecting_info(number);
                self.connected(
                    number,
                    &Event {
                        kind: event::CONNECT,
                        info: &info,
                        ..Event::default()
                    },
                );
            }
        }
    }

    /// A message or a timer arrives, for the topic where `member` is 0.
    fn message(&mut self, topic: u64, member: u64, name: &str, body: &Body) {
        let is_there = match member {
            0 => self.topics.get(&topic).is_some_and(|topic| topic.live),
            member => self.standing(member) == Standing::In,
        };
        if is_there {
            self.event(event::INFO, topic, member, name, body);
        }
    }

    /// Hands an event to the plugin. What it asked for takes effect, except for the answers, which are returned.
    pub(super) fn event(
        &mut self,
        kind: u32,
        topic: u64,
        member: u64,
        name: &str,
        body: &Body,
    ) -> Vec<super::step::Noted> {
        let event = Event {
            kind,
            topic,
            member,
            name,
            payload: &body.bytes,
            binary: body.binary,
            ..Event::default()
        };
        match self.handle(&event) {
            Ok(noted) => self.apply(topic, noted),
            Err(panic) => {
                if member != 0 && matches!(kind, event::IN | event::INFO) {
                    self.end_next(member, reason::PANICKED, panic);
                }
                Vec::new()
            }
        }
    }
}
