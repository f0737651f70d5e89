//! A client with channels: joins, pushes, replies, events.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use bennu_wire::message::{PHOENIX, event};

use super::{ClientError, Frame, Incoming, Message, Options, Payload, RawClient};

/// A connected client, and the topics that it has joined.
///
/// A call that waits for one message keeps all others that arrive in the meantime. They stay until a call asks for
/// them, or until [`Client::next`] or [`Client::take_kept`] returns them.
#[derive(Debug)]
pub struct Client {
    raw: RawClient,
    last_ref: u64,
    join_refs: HashMap<String, String>,
    kept: VecDeque<Message>,
}

/// The reply to a push or a join.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// `ok`, `error`, or a word of the plugin's choice.
    pub status: String,
    /// The payload of the reply.
    pub response: Payload,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or rejects the connection.
    pub async fn connect(options: &Options) -> Result<Self, ClientError> {
        Ok(Self {
            raw: RawClient::connect(options).await?,
            last_ref: 0,
            join_refs: HashMap::new(),
            kept: VecDeque::new(),
        })
    }

    /// Joins a topic. Joins again if the client has already joined it.
    ///
    /// # Errors
    ///
    /// If there is no reply. A rejected join is not an error: the status of the reply says so.
    pub async fn join(&mut self, topic: &str, params: impl Into<Payload>) -> Result<Reply, ClientError> {
        let join_ref = self.start_join(topic, params).await?;
        let reply = self.reply(&join_ref).await?;
        if reply.status != "ok" {
            self.join_refs.remove(topic);
        }
        Ok(reply)
    }

    /// Sends a join, and returns its `ref`. The client may push before the reply arrives.
    ///
    /// # Errors
    ///
    /// If the message cannot be sent.
    pub async fn start_join(&mut self, topic: &str, params: impl Into<Payload>) -> Result<String, ClientError> {
        let join_ref = self.next_ref();
        self.join_refs.insert(topic.to_owned(), join_ref.clone());
        self.send(Some(join_ref.clone()), &join_ref, topic, event::JOIN, params.into())
            .await?;
        Ok(join_ref)
    }

    /// Leaves a topic.
    ///
    /// # Errors
    ///
    /// If there is no reply, or if the client has not joined the topic.
    pub async fn leave(&mut self, topic: &str) -> Result<Reply, ClientError> {
        let reply = self.call(topic, event::LEAVE, json!({})).await;
        self.join_refs.remove(topic);
        reply
    }

    /// Pushes an event to a joined topic, and returns its `ref`.
    ///
    /// # Errors
    ///
    /// If the client has not joined the topic, or if the message cannot be sent.
    pub async fn push(&mut self, topic: &str, event: &str, payload: impl Into<Payload>) -> Result<String, ClientError> {
        let join_ref = self.join_ref(topic)?;
        let msg_ref = self.next_ref();
        self.send(Some(join_ref), &msg_ref, topic, event, payload.into())
            .await?;
        Ok(msg_ref)
    }

    /// Pushes an event once for each payload, and returns the `ref`s. All go out in one write over WebSocket, in one
    /// request over long polling.
    ///
    /// # Errors
    ///
    /// As [`Client::push`]. The server may have received some of them nevertheless.
    pub async fn push_all<P: Into<Payload>>(
        &mut self,
        topic: &str,
        event: &str,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Vec<String>, ClientError> {
        let join_ref = self.join_ref(topic)?;
        let (mut frames, mut refs) = (Vec::new(), Vec::new());
        for payload in payloads {
            let msg_ref = self.next_ref();
            frames.push(frame(Some(join_ref.clone()), &msg_ref, topic, event, payload.into()));
            refs.push(msg_ref);
        }
        self.raw.send_all(frames).await?;
        Ok(refs)
    }

    /// Pushes an event and waits for the reply.
    ///
    /// # Errors
    ///
    /// As [`Client::push`] and [`Client::reply`].
    pub async fn call(&mut self, topic: &str, event: &str, payload: impl Into<Payload>) -> Result<Reply, ClientError> {
        let msg_ref = self.push(topic, event, payload).await?;
        self.reply(&msg_ref).await
    }

    /// Sends a heartbeat and waits for the reply.
    ///
    /// # Errors
    ///
    /// If there is no reply.
    pub async fn heartbeat(&mut self) -> Result<Reply, ClientError> {
        let msg_ref = self.next_ref();
        self.send(None, &msg_ref, PHOENIX, event::HEARTBEAT, json!({}).into())
            .await?;
        self.reply(&msg_ref).await
    }

    /// Waits for the reply to the message with this `ref`.
    ///
    /// # Errors
    ///
    /// If the connection ends first, or if the deadline passes.
    pub async fn reply(&mut self, msg_ref: &str) -> Result<Reply, ClientError> {
        let message = self
            .wait_for(|message| message.status.is_some() && message.msg_ref.as_deref() == Some(msg_ref))
            .await?;
        Ok(Reply {
            status: message.status.unwrap_or_default(),
            response: message.payload,
        })
    }

    /// Waits for an event on a topic: a push, a broadcast, `phx_close` or `phx_error`. Returns its payload.
    ///
    /// # Errors
    ///
    /// As [`Client::reply`].
    pub async fn event(&mut self, topic: &str, event: &str) -> Result<Payload, ClientError> {
        let message = self
            .wait_for(|message| message.topic == topic && message.event == event)
            .await?;
        Ok(message.payload)
    }

    /// Returns the oldest message that was kept, or waits for the next one.
    ///
    /// # Errors
    ///
    /// As [`Client::reply`].
    pub async fn next(&mut self) -> Result<Message, ClientError> {
        self.wait_for(|_| true).await
    }

    /// How long each call may take, see [`Options::deadline`].
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.raw.deadline()
    }

    /// Returns all messages that were kept.
    pub fn take_kept(&mut self) -> Vec<Message> {
        self.kept.drain(..).collect()
    }

    /// Closes the connection, see [`RawClient::close`].
    ///
    /// # Errors
    ///
    /// If the server does not answer within the deadline.
    pub async fn close(self) -> Result<(), ClientError> {
        self.raw.close().await
    }

    async fn wait_for(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Message, ClientError> {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return Ok(self.kept.remove(at).expect("position found it"));
        }
        loop {
            let message = match self.raw.next().await? {
                Incoming::Frame(frame) => Message::decode(&frame)?,
                Incoming::Closed { code } => return Err(ClientError::Closed { code }),
            };
            if wanted(&message) {
                return Ok(message);
            }
            self.kept.push_back(message);
        }
    }

    async fn send(
        &mut self,
        join_ref: Option<String>,
        msg_ref: &str,
        topic: &str,
        event: &str,
        payload: Payload,
    ) -> Result<(), ClientError> {
        self.raw.send(frame(join_ref, msg_ref, topic, event, payload)).await
    }

    fn join_ref(&self, topic: &str) -> Result<String, ClientError> {
        let join_ref = self.join_refs.get(topic).cloned();
        join_ref.ok_or_else(|| ClientError::NotJoined {
            topic: topic.to_owned(),
        })
    }

    fn next_ref(&mut self) -> String {
        self.last_ref += 1;
        self.last_ref.to_string()
    }
}

fn frame(join_ref: Option<String>, msg_ref: &str, topic: &str, event: &str, payload: Payload) -> Frame {
    let message = Message {
        join_ref,
        msg_ref: Some(msg_ref.to_owned()),
        topic: topic.to_owned(),
        event: event.to_owned(),
        status: None,
        payload,
    };
    message.encode()
}

impl Reply {
    /// The response, if it is JSON.
    #[must_use]
    pub fn json(&self) -> Option<&Value> {
        match &self.response {
            Payload::Json(value) => Some(value),
            Payload::Binary(_) => None,
        }
    }
}
