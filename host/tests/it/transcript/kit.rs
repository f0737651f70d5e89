//! Clients of plugins that run in `bennu_plugin::test`, where there is no server.
//!
//! What a socket does stands here once more, as short as it can: it finds the plugin of a topic, tells joins apart by their
//! refs, and answers what is for no channel. All else is the test kit's.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bennu_plugin::test::{self, Code, Kind, Membership, Request, Sent, Server};
use bennu_plugin::{Binary, Payload};
use bennu_tools::client::{Frame, Incoming, Options};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::plugins::Build;

/// The plugins of a conversation. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Kit {
    servers: Rc<RefCell<BTreeMap<&'static str, Server>>>,
    /// When its clock was turned last. It goes with the real one, as plugins have threads.
    turned: Rc<Cell<Instant>>,
}

impl Default for Kit {
    fn default() -> Self {
        Self {
            servers: Rc::default(),
            turned: Rc::new(Cell::new(Instant::now())),
        }
    }
}

impl Kit {
    pub(super) fn connect(&self, options: &Options) -> Result<Client, String> {
        let mut client = Client {
            kit: self.clone(),
            connections: BTreeMap::new(),
            members: HashMap::new(),
            pushes: HashMap::new(),
            channels: HashMap::new(),
            heard: VecDeque::new(),
            is_closed: false,
        };
        // The configuration of the tests has its connect handler at this mount.
        if options.mount == "/gate" {
            let params: serde_json::Map<_, _> = { options.params.iter().cloned() }
                .map(|(name, value)| (name, value.into()))
                .collect();
            let request = Request::new(params.into()).mount(&options.mount);
            let connection = self.server("misbehave").connect(request);
            let connection = connection.map_err(|denied| format!("  error     {denied:?}"))?;
            client.connections.insert("misbehave", connection);
        }
        Ok(client)
    }

    /// The server that runs this plugin, with the assigns of its route.
    fn server(&self, plugin: &'static str) -> Server {
        let mut servers = self.servers.borrow_mut();
        let server = servers.entry(plugin).or_insert_with(|| {
            let build = match plugin {
                "echo" => Build::Echo,
                "room" => Build::Room,
                _ => Build::Misbehave,
            };
            let server = Server::run(Code::library(build.path()), json!({}));
            if plugin == "misbehave" {
                server.route(json!({ "from": "test.toml" }));
            }
            server
        });
        server.clone()
    }

    /// Lets the time pass that has passed.
    fn turn(&self) {
        let passed = self.turned.replace(Instant::now()).elapsed();
        for server in self.servers.borrow().values() {
            server.advance(passed);
        }
    }

    /// Waits for a thread of a plugin, or for a moment.
    fn wait(&self) {
        for server in self.servers.borrow().values() {
            server.wait(Duration::from_millis(1));
        }
    }
}

/// A client, with a connection to each plugin that it talks to.
#[derive(Debug)]
pub(super) struct Client {
    kit: Kit,
    connections: BTreeMap<&'static str, test::Client>,
    /// By plugin and number.
    members: HashMap<(&'static str, u64), Channel>,
    pushes: HashMap<(&'static str, u64), Refs>,
    /// Those that are joined or join, by topic.
    channels: HashMap<String, (&'static str, Membership)>,
    heard: VecDeque<Frame>,
    is_closed: bool,
}

/// What a channel's messages carry.
#[derive(Clone, Debug)]
struct Channel {
    topic: String,
    refs: Refs,
}

#[derive(Clone, Debug)]
struct Refs {
    join_ref: Value,
    msg_ref: Value,
}

impl Channel {
    /// What all but the reply to its join has as `join_ref`.
    fn own_ref(&self) -> &Value {
        match &self.refs.join_ref {
            Value::Null => &self.refs.msg_ref,
            join_ref => join_ref,
        }
    }
}

impl Client {
    pub(super) fn send(&mut self, frame: &Frame) -> Result<(), String> {
        self.hear();
        match frame {
            Frame::Text(text) => {
                let parts: [Box<RawValue>; 5] =
                    serde_json::from_str(text).map_err(|error| format!("  error     {error}"))?;
                let read = |at: usize| serde_json::from_str(parts[at].get()).expect("JSON");
                let refs = Refs {
                    join_ref: read(0),
                    msg_ref: read(1),
                };
                let (topic, event): (Value, Value) = (read(2), read(3));
                let (Value::String(topic), Value::String(event)) = (topic, event) else {
                    return Err("  error     topic and event are text here".into());
                };
                self.dispatch(refs, &topic, &event, Said::Json(parts[4].get()));
            }
            Frame::Binary(bytes) => {
                let ([join_ref, msg_ref, topic, event], payload) = fields(bytes).ok_or("  error     no push")?;
                let (join_ref, msg_ref) = (join_ref.into(), msg_ref.into());
                self.dispatch(Refs { join_ref, msg_ref }, topic, event, Said::Binary(payload));
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, refs: Refs, topic: &str, event: &str, payload: Said<'_>) {
        if (topic, event) == ("phoenix", "heartbeat") {
            return self.answer(&Value::Null, &refs.msg_ref, topic, "ok", "{}");
        }
        if event == "phx_join" {
            return self.join(refs, topic, payload);
        }
        let Some((plugin, member)) = self.channels.get(topic) else {
            return match event {
                "phx_leave" => self.answer(&refs.join_ref, &refs.msg_ref, topic, "ok", "{}"),
                _ => self.answer(&refs.join_ref, &refs.msg_ref, topic, "error", UNMATCHED),
            };
        };
        let channel = &self.members[&(*plugin, member.number())];
        let own_refs = [&Value::Null, &channel.refs.join_ref, &channel.refs.msg_ref];
        if !own_refs.contains(&&refs.join_ref) {
            return;
        }
        let pushed = match (event, payload) {
            ("phx_leave", _) => member.leave(),
            (_, Said::Json(text)) => member.push(event, Payload::json_text(text)),
            (_, Said::Binary(bytes)) => member.push(event, Binary(bytes)),
        };
        self.pushes.insert((plugin, pushed.number()), refs);
    }

    fn join(&mut self, refs: Refs, topic: &str, params: Said<'_>) {
        let plugin = match topic.split_once(':') {
            Some(("echo", _)) => "echo",
            Some(("room", _)) => "room",
            Some(("misbehave", _)) => "misbehave",
            _ => return self.answer(&refs.join_ref, &refs.msg_ref, topic, "error", UNMATCHED),
        };
        let connection = { self.connections.entry(plugin) }.or_insert_with(|| self.kit.server(plugin).client());
        let joining = match params {
            Said::Json(text) => connection.start_join(topic, Payload::json_text(text)),
            Said::Binary(bytes) => connection.start_join(topic, Binary(bytes)),
        };
        let member = joining.into_membership();
        let channel = Channel {
            topic: topic.to_owned(),
            refs,
        };
        self.members.insert((plugin, member.number()), channel);
        self.channels.insert(topic.to_owned(), (plugin, member));
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Result<Incoming, String> {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            self.hear();
            if let Some(frame) = self.heard.pop_front() {
                return Ok(Incoming::Frame(frame));
            }
            if self.connections.values().any(test::Client::is_closed) && !self.is_closed {
                self.is_closed = true;
                return Ok(Incoming::Closed { code: 1001 });
            }
            self.kit.wait();
        }
        Err("  error     nothing has come".into())
    }

    pub(super) fn close(&self) {
        self.connections.values().for_each(test::Client::close);
    }

    /// Takes what the plugins have sent until now.
    fn hear(&mut self) {
        self.kit.turn();
        let connections = { self.connections.iter() }.map(|(plugin, connection)| (*plugin, connection.sent()));
        for (plugin, sent) in connections.collect::<Vec<_>>() {
            for sent in sent {
                let frame = self.frame(plugin, &sent);
                self.heard.push_back(frame);
                self.forget(plugin, &sent);
            }
        }
    }

    /// What the server sends for it, in version 2.
    fn frame(&self, plugin: &'static str, sent: &Sent) -> Frame {
        let channel = &self.members[&(plugin, sent.member)];
        let (own_ref, join_ref) = (channel.own_ref(), &channel.refs.join_ref);
        let (topic, event, body) = (&channel.topic, &*sent.event, &sent.body.bytes);
        let push = |number| &self.pushes[&(plugin, number)];
        let no_ref = &Value::Null;
        let (refs, status) = match &sent.kind {
            Kind::Joined { status } => ([join_ref, &channel.refs.msg_ref], Some(&**status)),
            Kind::Reply { push: number, status } => ([own_ref, &push(*number).msg_ref], Some(&**status)),
            Kind::Orphan { push: number } => {
                let Refs { join_ref, msg_ref } = push(*number);
                ([join_ref, msg_ref], Some("error"))
            }
            Kind::Push => ([own_ref, no_ref], None),
            Kind::Broadcast => ([no_ref, no_ref], None),
            Kind::End => ([own_ref, own_ref], None),
        };
        if !sent.body.binary {
            let body = str::from_utf8(body).expect("JSON");
            return Frame::Text(text(refs, topic, event, status, body));
        }
        let refs = refs.map(digits);
        let (kind, parts) = match (&sent.kind, status) {
            (Kind::Broadcast, _) => (2, vec![&**topic, event]),
            (_, Some(status)) => (1, vec![&*refs[0], &*refs[1], topic, status]),
            (_, None) => (0, vec![&*refs[0], topic, event]),
        };
        let lengths = parts.iter().map(|part| u8::try_from(part.len()).expect("short"));
        let mut bytes: Vec<u8> = std::iter::once(kind).chain(lengths).collect();
        parts.iter().for_each(|part| bytes.extend(part.as_bytes()));
        bytes.extend(body);
        Frame::Binary(bytes.into())
    }

    /// A topic is free again when its channel has ended or is refused, unless another join has replaced it.
    fn forget(&mut self, plugin: &'static str, sent: &Sent) {
        let is_over = match &sent.kind {
            Kind::Joined { status } => status != "ok",
            kind => matches!(kind, Kind::End),
        };
        let topic = &self.members[&(plugin, sent.member)].topic;
        let is_current = { self.channels.get(topic) }.is_some_and(|(_, member)| member.number() == sent.member);
        if is_over && is_current {
            self.channels.remove(topic);
        }
    }

    /// What a connection answers by itself.
    fn answer(&mut self, join_ref: &Value, msg_ref: &Value, topic: &str, status: &str, response: &str) {
        let reply = text([join_ref, msg_ref], topic, "phx_reply", Some(status), response);
        self.heard.push_back(Frame::Text(reply));
    }
}

const UNMATCHED: &str = r#"{"reason":"unmatched topic"}"#;

/// A payload of a client.
enum Said<'a> {
    Json(&'a str),
    Binary(&'a [u8]),
}

fn text([join_ref, msg_ref]: [&Value; 2], topic: &str, event: &str, status: Option<&str>, body: &str) -> String {
    let (topic, event) = (json!(topic), json!(event));
    match status {
        None => format!("[{join_ref},{msg_ref},{topic},{event},{body}]"),
        Some(status) => {
            let status = json!(status);
            format!(r#"[{join_ref},{msg_ref},{topic},{event},{{"response":{body},"status":{status}}}]"#)
        }
    }
}

/// A ref in a binary frame.
fn digits(msg_ref: &Value) -> String {
    match msg_ref {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The fields of a binary push of version 2, and its payload.
fn fields(frame: &[u8]) -> Option<([&str; 4], &[u8])> {
    let (&[0, lengths @ ..], mut rest) = frame.split_first_chunk::<5>()? else {
        return None;
    };
    let mut fields = [""; 4];
    for (field, length) in fields.iter_mut().zip(lengths) {
        let (part, tail) = rest.split_at_checked(length.into())?;
        (*field, rest) = (str::from_utf8(part).ok()?, tail);
    }
    Some((fields, rest))
}
