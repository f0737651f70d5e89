//! A conversation on one channel: pushes what the user asks for, prints what arrives.

use std::collections::BTreeMap;
use std::time::Duration;

use bennu_wire::message::{event, reason};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::client::{Client, ClientError, Message, Payload};
use crate::terminal::{BAD, FAINT, GOOD, Modes, STRONG, complain, in_one_line, say, styled};

/// The same interval as phoenix.js.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What the user asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    /// Push this event.
    Push(String, Value),
    /// Print this error: the line cannot be parsed.
    Invalid(String),
    /// End the conversation.
    Quit,
}

impl Order {
    /// Parses `EVENT [JSON]` or `/quit`. An empty line is no order.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let (event, payload) = line.split_once(char::is_whitespace).unwrap_or((line, "{}"));
        match event {
            "" => None,
            "/quit" => Some(Self::Quit),
            _ => Some(match serde_json::from_str(payload) {
                Ok(payload) => Self::Push(event.to_owned(), payload),
                Err(error) => Self::Invalid(format!(
                    "this is no JSON: {error}; write an event and its payload: {event} {{\"body\": \"hi\"}}"
                )),
            }),
        }
    }
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All events got replies, none of them an error.
    Done,
    /// The server rejected something.
    Rejected,
    /// The server did not answer something.
    Unanswered,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Only the responses of replies.
    Response,
    /// A line for every message.
    All,
    /// The same as JSON.
    Json,
}

/// Prints a line.
pub(super) type Out = Box<dyn FnMut(&str) + Send>;

/// A client with one channel.
pub(super) struct Conversation {
    client: Client,
    topic: String,
    params: Value,
    show: Show,
    /// Whether to go on when there is nothing left to push, and to rejoin if the channel fails.
    pub(super) stays: bool,
    /// Whether to wait for replies.
    pub(super) waits: bool,
    pub(super) out: Out,
    /// The terminal's modes, while there is a prompt.
    pub(super) modes: Option<Modes>,
    /// Events without a reply so far, by `ref`, each with its deadline.
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

    /// Joins the topic. Returns the end of the conversation if that fails.
    pub(super) async fn join(&mut self) -> Option<End> {
        let reply = match self.client.join(&self.topic, self.params.clone()).await {
            Ok(reply) => reply,
            Err(error) => return Some(self.lost(&error)),
        };
        if reply.status == "ok" {
            if self.show != Show::Response {
                self.print("joined", Some("ok"), &reply.response);
            }
            return None;
        }
        let help = match reply.json().and_then(|response| response["reason"].as_str()) {
            Some(reason::UNMATCHED_TOPIC) => Some("`bennu routes TOPIC` shows the nearest route"),
            Some(reason::UNAVAILABLE) => Some(
                "its plugin is not in service: `bennu plugins` shows why (add `--admin ADDRESS:PORT` for a server that \
                 runs elsewhere), and so does the log of the server",
            ),
            Some(reason::JOIN_CRASHED) => Some("see the log of the server for where the plugin panicked"),
            Some(reason::OVERLOADED | reason::JOIN_TIMEOUT | reason::RELOADED) => Some("try again"),
            _ if self.params == json!({}) => Some("--join JSON gives the payload of the join"),
            _ => None,
        };
        complain(
            &format!("the join of {} is refused: {}", self.topic, text(&reply.response)),
            help,
        );
        Some(End::Rejected)
    }

    /// Pushes events and prints messages, until there are no more orders and no reply is missing, or until the server
    /// ends the connection or the channel.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) -> End {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        let mut no_more_orders = false;
        loop {
            if no_more_orders && (self.open.is_empty() || !self.waits) && !self.stays {
                return self.leave().await;
            }
            let deadlines = self.open.values().filter(|_| self.waits);
            let earliest = deadlines.map(|(_, deadline)| *deadline).min();
            let ended = tokio::select! {
                order = orders.recv(), if !no_more_orders => match order {
                    Some(Order::Quit) => return self.worst,
                    Some(order) => self.obey(order).await,
                    None => {
                        no_more_orders = true;
                        None
                    }
                },
                message = self.client.next() => self.receive(message).await,
                () = sleep_until(earliest.unwrap_or_else(Instant::now)), if earliest.is_some() => self.give_up(),
                _ = heartbeat.tick() => self.client.heartbeat().await.err().map(|error| self.lost(&error)),
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    /// Ends the conversation. If it did not wait for replies, it leaves the topic first: when the reply to that
    /// arrives, the plugin has handled all events, and all errors have arrived.
    async fn leave(mut self) -> End {
        if self.waits {
            return self.worst;
        }
        if let Err(error) = self.client.leave(&self.topic).await {
            return self.lost(&error);
        }
        for message in self.client.take_kept() {
            if message.event != event::CLOSE
                && let Some(end) = self.receive(Ok(message)).await
            {
                return end;
            }
        }
        self.worst
    }

    async fn obey(&mut self, order: Order) -> Option<End> {
        let (event, payload) = match order {
            Order::Push(event, payload) => (event, payload),
            Order::Invalid(why) => {
                self.complain(&why);
                self.worst = End::Rejected;
                return None;
            }
            Order::Quit => return Some(self.worst),
        };
        match self.client.push(&self.topic, &event, payload).await {
            Ok(msg_ref) => {
                let deadline = Instant::now() + self.client.deadline();
                self.open.insert(msg_ref, (event, deadline));
                None
            }
            Err(error) => Some(self.lost(&error)),
        }
    }

    async fn receive(&mut self, message: Result<Message, ClientError>) -> Option<End> {
        let message = match message {
            Ok(message) => message,
            // Nothing has arrived for a while, which is fine.
            Err(ClientError::Deadline(_)) => return None,
            Err(error) => return Some(self.lost(&error)),
        };
        let pushed = message.msg_ref.as_ref().and_then(|msg_ref| self.open.remove(msg_ref));
        match (&*message.event, &message.status, pushed) {
            (_, Some(status), Some((event, _))) => {
                if status == "error" {
                    self.worst = End::Rejected;
                }
                if status == "error" || self.waits {
                    self.print(&event, Some(status), &message.payload);
                }
                None
            }
            (event::ERROR, ..) => self.failed().await,
            (event::CLOSE, ..) => Some(self.end(&format!("the server closed the channel of {}", self.topic))),
            (event, ..) => {
                if self.show != Show::Response {
                    self.print(event, None, &message.payload);
                }
                None
            }
        }
    }

    /// The channel has failed. Joins again if the conversation stays, as phoenix.js does.
    async fn failed(&mut self) -> Option<End> {
        self.complain(&format!(
            "the channel of {} has failed; see the log of the server for the reason",
            self.topic
        ));
        self.open.clear();
        if self.stays {
            self.join().await
        } else {
            Some(End::Unanswered)
        }
    }

    /// Reports the events whose deadline has passed.
    fn give_up(&mut self) -> Option<End> {
        let now = Instant::now();
        let late = self.open.extract_if(.., |_, (_, deadline)| *deadline <= now);
        let late: Vec<String> = late.map(|(_, (event, _))| event).collect();
        for event in late {
            self.complain(&format!(
                "no reply to {event}; if the plugin sends none for this event, use --no-reply"
            ));
            self.worst = End::Unanswered;
        }
        None
    }

    fn lost(&mut self, error: &ClientError) -> End {
        self.end(&in_one_line(error))
    }

    /// The server has ended it. Restores the terminal and prints why.
    fn end(&mut self, what: &str) -> End {
        if self.modes.take().is_some() {
            say("");
        }
        complain(what, None);
        End::Unanswered
    }

    /// Prints a message that arrived: a reply with its status, or an event.
    fn print(&mut self, event: &str, status: Option<&str>, payload: &Payload) {
        let line = match (self.show, status) {
            (Show::Json, _) => {
                let payload = match payload {
                    Payload::Json(value) => value.clone(),
                    Payload::Binary(bytes) => json!({ "binary": hex(bytes) }),
                };
                json!({ "topic": self.topic, "event": event, "status": status, "payload": payload }).to_string()
            }
            (Show::Response, Some("ok")) => text(payload),
            (Show::Response, _) => {
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

    /// Reports an error: among the messages if the conversation stays, otherwise on standard error.
    fn complain(&mut self, what: &str) {
        if self.stays {
            (self.out)(&format!("{} {what}", styled(BAD, "error:")));
        } else {
            complain(what, None);
        }
    }
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
        assert!(matches!(Order::parse("new_msg hello"), Some(Order::Invalid(_))));
    }
}
