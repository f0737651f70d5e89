//! Members and their clients, and what these do.

use serde_json::{Map, Value};

use super::input::{Ending, Input};
use super::{Connecting, Core};
use crate::abi::{event, reason};
use crate::test::body::Body;
use crate::test::boundary::Event;
use crate::test::inbox::{Message, Sent};

pub(in crate::test) struct Member {
    pub(in crate::test) topic: u64,
    pub(in crate::test) client: usize,
    pub(in crate::test) standing: Standing,
    pub(super) info: String,
    /// What its join was answered.
    pub(in crate::test) answer: Option<Result<Body, Body>>,
    /// What its client got, except for replies, and no assertion has taken.
    pub(in crate::test) inbox: Vec<Message>,
    /// Events that wait for the join's answer.
    pub(super) waiting: Vec<Input>,
    /// Memberships of the same client that its join replaced: their client is told once the join is answered.
    pub(super) replaced: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::test) enum Standing {
    Pending,
    In,
    /// Its client was told that it ended, and gets no broadcasts any more; its `terminate` is yet to run.
    Ending,
    Out,
}

#[derive(Default)]
pub(in crate::test) struct ClientInfo {
    pub(in crate::test) socket_id: Option<String>,
    pub(in crate::test) assigns: Option<Value>,
    pub(in crate::test) claims: Option<Value>,
    pub(in crate::test) closed: bool,
    /// All that it was sent, in order.
    pub(in crate::test) sent: Vec<Sent>,
}

impl Core {
    pub(in crate::test) fn join(&mut self, client: usize, topic: &str, params: Body) -> u64 {
        let (topic, member) = (self.topic_number(topic), self.number());
        let replaced = self.replace(client, topic);
        let joining = Member {
            replaced,
            ..self.new_member(client, topic)
        };
        self.members.insert(member, joining);
        self.queue.push_back(Input::Join { member, params });
        self.settle();
        member
    }

    /// Ends the membership that a second join of the same topic replaces. Returns whom the client is to be told of.
    fn replace(&mut self, client: usize, topic: u64) -> Vec<u64> {
        let is_old = |member: &Member| {
            (member.client, member.topic) == (client, topic)
                && matches!(member.standing, Standing::In | Standing::Pending)
        };
        let old = { self.members.iter_mut() }.find(|(_, member)| is_old(member));
        let Some((&old, member)) = old else {
            return Vec::new();
        };
        let mut replaced = std::mem::take(&mut member.replaced);
        replaced.push(old);
        if member.standing == Standing::In {
            member.standing = Standing::Ending;
        }
        self.queue.push_back(Input::End(Ending {
            member: old,
            reason: reason::DUPLICATE_JOIN,
            ..Ending::default()
        }));
        replaced
    }

    /// A member of a topic whose state comes from elsewhere, with a client of its own.
    pub(super) fn restored_member(&mut self, topic: u64) -> u64 {
        self.clients.push(ClientInfo::default());
        let (client, member) = (self.clients.len() - 1, self.number());
        let joined = Member {
            standing: Standing::In,
            answer: Some(Ok(Body::empty())),
            ..self.new_member(client, topic)
        };
        self.members.insert(member, joined);
        member
    }

    fn new_member(&self, client: usize, topic: u64) -> Member {
        Member {
            topic,
            client,
            standing: Standing::Pending,
            info: self.member_info(client),
            answer: None,
            inbox: Vec::new(),
            waiting: Vec::new(),
            replaced: Vec::new(),
        }
    }

    fn member_info(&self, client: usize) -> String {
        let client = &self.clients[client];
        let mut info = Map::new();
        if let Some(id) = &client.socket_id {
            info.insert("socket_id".to_owned(), id.clone().into());
        }
        for (key, assigns) in [
            ("socket", &client.assigns),
            ("claims", &client.claims),
            ("route", &self.route),
        ] {
            if let Some(assigns) = assigns {
                info.insert(key.to_owned(), assigns.clone());
            }
        }
        if info.is_empty() {
            String::new()
        } else {
            Value::from(info).to_string()
        }
    }

    /// A client shows a new token: all its members learn the claims.
    pub(in crate::test) fn refresh(&mut self, client: usize, claims: Value) {
        self.clients[client].claims = Some(claims);
        let own = { self.members.iter() }.filter(|(_, member)| member.client == client);
        let own: Vec<u64> = own.map(|(member, _)| *member).collect();
        for member in own {
            self.queue.push_back(Input::Claims { member });
        }
        self.settle();
    }

    /// A member's client has other claims by now. The plugin does not know a member whose join is pending.
    pub(super) fn claims(&mut self, member: u64) {
        let Some(known) = self.members.get(&member) else { return };
        let (topic, info, standing) = (known.topic, self.member_info(known.client), known.standing);
        if let Some(known) = self.members.get_mut(&member) {
            known.info.clone_from(&info);
        }
        if standing == Standing::In {
            let event = Event {
                kind: event::CLAIMS,
                topic,
                member,
                info: &info,
                ..Event::default()
            };
            match self.handle(&event) {
                Ok(noted) => drop(self.apply(topic, noted)),
                Err(panic) => self.end_next(member, reason::PANICKED, panic),
            }
        }
    }

    pub(in crate::test) fn push(&mut self, member: u64, event: &str, body: Body) -> u64 {
        let push = self.number();
        let event = event.to_owned();
        self.queue.push_back(Input::In {
            member,
            push,
            event,
            body,
        });
        self.settle();
        push
    }

    pub(in crate::test) fn leave(&mut self, member: u64) -> u64 {
        let push = self.number();
        self.queue.push_back(Input::End(Ending {
            member,
            reason: reason::LEFT,
            notice: Some("phx_close"),
            leave: Some(push),
            ..Ending::default()
        }));
        self.settle();
        push
    }

    /// A connection ends, and all that was joined over it.
    pub(in crate::test) fn close(&mut self, client: usize, reason: u32) {
        self.clients[client].closed = true;
        let members = self.members.iter().filter(|(_, member)| member.client == client);
        self.queue.extend(members.map(|(&member, _)| {
            Input::End(Ending {
                member,
                reason,
                ..Ending::default()
            })
        }));
    }

    pub(in crate::test) fn send(&mut self, topic: u64, member: u64, name: &str, body: Body) {
        let name = name.to_owned();
        self.queue.push_back(Input::Info {
            topic,
            member,
            name,
            body,
        });
        self.settle();
    }

    pub(in crate::test) fn connect(&mut self, info: String) -> u64 {
        let number = self.number();
        let answer = None;
        self.connects.insert(number, Connecting { info, answer });
        self.queue.push_back(Input::Connect { number });
        self.settle();
        number
    }
}
