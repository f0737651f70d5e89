//! One channel: what is asked of it, and what comes of that.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::cli::terminal::{BAD, FAINT, GOOD, Modes, STRONG, say, styled};
use crate::client::{Client, ClientError, Message, Payload};
use crate::message::reason;

/// As phoenix.js has it.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    /// Push this event.
    Push(String, Value),
    /// Say this, as the line cannot be understood.
    Misread(String),
    /// End it.
    Quit,
}

impl Order {
    /// Reads `EVENT [JSON]`; nothing is in a line that is empty.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let (event, payload) = line.split_once(char::is_whitespace).unwrap_or((line, "{}"));
        match event {
            "" => None,
            "/quit" => Some(Self::Quit),
            _ => Some(match serde_json::from_str(payload) {
                Ok(payload) => Self::Push(event.to_owned(), payload),
                Err(error) => Self::Misread(format!(
                    "this is no JSON: {error}; write an event and its payload: {event} {{\"body\": \"hi\"}}"
                )),
            }),
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything was answered, nothing with an error.
    Done,
    /// Something was answered with an error.
    Refused,
    /// Something was not answered.
    Unanswered,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The replies' responses alone.
    Answer,
    /// A line for everything.
    All,
    /// The same as JSON.
    Json,
}

/// Where lines are shown.
pub(super) type Out = Box<dyn FnMut(&str) + Send>;

/// A client that has one channel.
pub(super) struct Conversation {
    client: Client,
    topic: String,
    params: Value,
    show: Show,
    /// It does not end when there is nothing more to push, and joins again if the channel fails.
    pub(super) stays: bool,
    /// Events are to be answered.
    pub(super) waits: bool,
    pub(super) out: Out,
    /// Of the terminal, while there is a prompt.
    pub(super) modes: Option<Modes>,
    /// Events without a reply so far, by their `ref`, and until when it may come where it is waited for.
    open: BTreeMap<String, (String, Instant)>,
    worst: End,
}

impl Conversation {
    pub(super) fn new(client: Client, topic: String, params: Value, show: Show) -> Self {
        Self {
            client,
            topic,
            params,
            show,
            stays: false,
            waits: true,
            out: Box::new(say),
            modes: None,
            open: BTreeMap::new(),
            worst: End::Done,
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Joins the topic. Returns the end, if that is one.
    pub(super) async fn join(&mut self) -> Option<End> {
        let reply = match self.client.join(&self.topic, self.params.clone()).await {
            Ok(reply) => reply,
            Err(error) => return Some(self.lost(&error)),
        };
        if reply.status == "ok" {
            if self.show != Show::Answer {
                self.tell("joined", Some("ok"), &reply.response);
            }
            return None;
        }
        let help = match reply.json().and_then(|response| response["reason"].as_str()) {
            Some(reason::UNMATCHED_TOPIC) => Some("`bennu routes TOPIC` says which route is nearest"),
            Some(reason::UNAVAILABLE) => Some(
                "its plugin is not in service: `bennu plugins` says why, of a host of another workspace with \
                 `--admin ADDRESS:PORT`, and so does the log",
            ),
            Some(reason::JOIN_CRASHED) => Some("the log of the server says where the plugin panicked"),
            Some(reason::OVERLOADED | reason::JOIN_TIMEOUT | reason::RELOADED) => Some("try again"),
            _ if self.params == json!({}) => Some("--join JSON gives the join its payload"),
            _ => None,
        };
        complain(
            &format!("the join of {} is refused: {}", self.topic, text(&reply.response)),
            help,
        );
        Some(End::Refused)
    }

    /// Does what is asked and shows what comes, until nothing more can be asked and everything is answered, or the server
    /// ends it.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) -> End {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        let mut asked_all = false;
        loop {
            if asked_all && (self.open.is_empty() || !self.waits) && !self.stays {
                return self.leave().await;
            }
            let too_late = { self.open.values().filter(|_| self.waits) }
                .map(|(_, until)| *until)
                .min();
            let ended = tokio::select! {
                order = orders.recv(), if !asked_all => match order {
                    Some(Order::Quit) => return self.worst,
                    Some(order) => self.obey(order).await,
                    None => {
                        asked_all = true;
                        None
                    }
                },
                message = self.client.next() => self.heard(message).await,
                () = sleep_until(too_late.unwrap_or_else(Instant::now)), if too_late.is_some() => self.give_up(),
                _ = heartbeat.tick() => self.client.heartbeat().await.err().map(|error| self.lost(&error)),
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    /// The end. Where no reply was waited for, the events have been handled when the topic is left, and what they were refused
    /// with has come.
    async fn leave(mut self) -> End {
        if self.waits {
            return self.worst;
        }
        if let Err(error) = self.client.leave(&self.topic).await {
            return self.lost(&error);
        }
        for message in self.client.take_kept() {
            if message.event != "phx_close"
                && let Some(end) = self.heard(Ok(message)).await
            {
                return end;
            }
        }
        self.worst
    }

    async fn obey(&mut self, order: Order) -> Option<End> {
        let (event, payload) = match order {
            Order::Push(event, payload) => (event, payload),
            Order::Misread(why) => {
                self.complain(&why);
                self.worst = End::Refused;
                return None;
            }
            Order::Quit => return Some(self.worst),
        };
        match self.client.push(&self.topic, &event, payload).await {
            Ok(msg_ref) => {
                let until = Instant::now() + self.client.deadline();
                self.open.insert(msg_ref, (event, until));
                None
            }
            Err(error) => Some(self.lost(&error)),
        }
    }

    async fn heard(&mut self, message: Result<Message, ClientError>) -> Option<End> {
        let message = match message {
            Ok(message) => message,
            // Nothing has come for a while, which is no mistake.
            Err(ClientError::Deadline(_)) => return None,
            Err(error) => return Some(self.lost(&error)),
        };
        let asked = message.msg_ref.as_ref().and_then(|msg_ref| self.open.remove(msg_ref));
        match (&*message.event, &message.status, asked) {
            (_, Some(status), Some((event, _))) => {
                if status == "error" {
                    self.worst = End::Refused;
                }
                if status == "error" || self.waits {
                    self.tell(&event, Some(status), &message.payload);
                }
                None
            }
            ("phx_error", ..) => self.failed().await,
            ("phx_close", ..) => Some(self.end(&format!("the channel of {} was closed by the server", self.topic))),
            (event, ..) => {
                if self.show != Show::Answer {
                    self.tell(event, None, &message.payload);
                }
                None
            }
        }
    }

    /// The channel has failed: who stays joins again, as a page does.
    async fn failed(&mut self) -> Option<End> {
        self.complain(&format!(
            "the channel of {} has failed; the log of the server says why",
            self.topic
        ));
        self.open.clear();
        if self.stays {
            self.join().await
        } else {
            Some(End::Unanswered)
        }
    }

    /// Says which events were not answered in time.
    fn give_up(&mut self) -> Option<End> {
        let now = Instant::now();
        let late: Vec<String> = { self.open.extract_if(.., |_, (_, until)| *until <= now) }
            .map(|(_, (event, _))| event)
            .collect();
        for event in late {
            self.complain(&format!(
                "no reply to {event}: if it is an event that has none, say --no-reply"
            ));
            self.worst = End::Unanswered;
        }
        None
    }

    fn lost(&mut self, error: &ClientError) -> End {
        self.end(&in_one_line(error))
    }

    /// The server has ended it: says so below the prompt, as that shows nothing more.
    fn end(&mut self, what: &str) -> End {
        if self.modes.take().is_some() {
            say("");
        }
        complain(what, None);
        End::Unanswered
    }

    /// Shows something that came: a reply with its status, or an event.
    fn tell(&mut self, event: &str, status: Option<&str>, payload: &Payload) {
        let line = match (self.show, status) {
            (Show::Json, _) => {
                let payload = match payload {
                    Payload::Json(value) => value.clone(),
                    Payload::Binary(bytes) => json!({ "binary": hex(bytes) }),
                };
                json!({ "topic": self.topic, "event": event, "status": status, "payload": payload }).to_string()
            }
            (Show::Answer, Some("ok")) => text(payload),
            (Show::Answer, _) => {
                self.complain(&format!("{event} is answered with {}", status.unwrap_or_default()));
                text(payload)
            }
            (Show::All, Some(status)) => {
                let style = if status == "error" { BAD } else { GOOD };
                format!("{} {} {}", styled(FAINT, event), styled(style, status), text(payload))
            }
            (Show::All, None) => format!("{} {}", styled(STRONG, event), text(payload)),
        };
        (self.out)(&line);
    }

    /// Says what is wrong: at a prompt among all the rest, else on standard error.
    fn complain(&mut self, what: &str) {
        if self.stays {
            (self.out)(&format!("{} {what}", styled(BAD, "error:")));
        } else {
            complain(what, None);
        }
    }
}

/// Says on standard error what is wrong, and what to do.
pub(super) fn complain(what: &str, help: Option<&str>) {
    let mut err = anstream::stderr();
    // Nobody to tell if this fails.
    let _ = writeln!(err, "{} {what}", styled(BAD, "error:"));
    if let Some(help) = help {
        let _ = writeln!(err, "  = help: {help}");
    }
}

/// An error and what led to it.
pub(super) fn in_one_line(error: &ClientError) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many errors say already what caused them.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

fn text(payload: &Payload) -> String {
    match payload {
        Payload::Json(value) => value.to_string(),
        Payload::Binary(bytes) => format!("binary {}", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_event_and_its_payload() {
        let push = |event: &str, payload| Some(Order::Push(event.to_owned(), payload));
        assert_eq!(Order::parse("ping"), push("ping", json!({})));
        assert_eq!(
            Order::parse("  new_msg  {\"a\": 1} "),
            push("new_msg", json!({ "a": 1 }))
        );
        assert_eq!(Order::parse(" "), None);
        assert_eq!(Order::parse("/quit"), Some(Order::Quit));
        assert!(matches!(Order::parse("new_msg hello"), Some(Order::Misread(_))));
    }
}
