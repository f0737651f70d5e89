//! What clients and tests do.

use serde_json::{Map, Value};

use super::{ClientInfo, Connecting, Core, Input, Member, Standing};
use crate::abi::reason;
use crate::test::body::Body;

impl Core {
    pub(in crate::test) fn join(&mut self, client: usize, topic: &str, params: Body) -> u64 {
        let (topic, member) = (self.topic_number(topic), self.number());
        let doubled =
            |known: &Member| (known.client, known.topic) == (client, topic) && known.standing != Standing::Out;
        let old = self
            .members
            .iter()
            .find(|(_, known)| doubled(known))
            .map(|(&old, _)| old);
        if let Some(old) = old {
            self.end(old, reason::DUPLICATE_JOIN, "phx_close", None);
        }
        let joining = self.new_member(client, topic);
        self.members.insert(member, joining);
        self.queue.push_back(Input::Join { member, params });
        self.settle();
        member
    }

    /// A client of its own that is in a topic whose state comes from elsewhere.
    pub(super) fn restored_member(&mut self, topic: u64) -> u64 {
        self.clients.push(ClientInfo::default());
        let (client, member) = (self.clients.len() - 1, self.number());
        let joined = Member {
            standing: Standing::In,
            answer: Some(Ok(Body::json(&Value::Object(Map::new())))),
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
        }
    }

    pub(super) fn member_info(&self, client: usize) -> String {
        let client = &self.clients[client];
        let mut info = Map::new();
        if let Some(id) = &client.socket_id {
            info.insert("socket_id".to_owned(), id.clone().into());
        }
        for (key, assigns) in [("socket", &client.assigns), ("route", &self.route)] {
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
        self.end(member, reason::LEFT, "phx_close", Some(push));
        self.settle();
        push
    }

    /// A connection ends, and all that was joined over it.
    pub(in crate::test) fn close(&mut self, client: usize, why: u32) {
        self.clients[client].closed = true;
        let members = self.members.iter().filter(|(_, member)| member.client == client);
        let members: Vec<u64> = members.map(|(&number, _)| number).collect();
        for member in members {
            let (text, leave) = (String::new(), None);
            self.queue.push_back(Input::End {
                member,
                reason: why,
                text,
                kind: None,
                leave,
            });
        }
    }

    pub(super) fn end(&mut self, member: u64, reason: u32, kind: &'static str, leave: Option<u64>) {
        let (text, kind) = (String::new(), Some(kind));
        self.queue.push_back(Input::End {
            member,
            reason,
            text,
            kind,
            leave,
        });
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
