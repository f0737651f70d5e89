//! Channels: joins, pushes, replies, events.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use super::{ClientError, Frame, Incoming, Message, Options, Payload, RawClient};

/// A client that is connected, with what it has joined.
///
/// Whoever waits for one message leaves the others where they are: each is kept until it is asked for, or taken by
/// [`Client::next`].
#[derive(Debug)]
pub struct Client {
    raw: RawClient,
    last_ref: u64,
    join_refs: HashMap<String, String>,
    kept: VecDeque<Message>,
}

/// The answer to a push or a join.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// `ok`, `error`, or what the plugin likes.
    pub status: String,
    /// What it says.
    pub response: Payload,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses this client.
    pub async fn connect(options: &Options) -> Result<Self, ClientError> {
        Ok(Self {
            raw: RawClient::connect(options).await?,
            last_ref: 0,
            join_refs: HashMap::new(),
            kept: VecDeque::new(),
        })
    }

    /// Joins a topic, again if it is joined.
    ///
    /// # Errors
    ///
    /// If there is no answer. A refusal is an answer: it is in the reply's status.
    pub async fn join(&mut self, topic: &str, params: impl Into<Payload>) -> Result<Reply, ClientError> {
        let join_ref = self.start_join(topic, params).await?;
        let reply = self.reply(&join_ref).await?;
        if reply.status != "ok" {
            self.join_refs.remove(topic);
        }
        Ok(reply)
    }

    /// Asks to join a topic. Returns the `ref` that the reply will have; events may be pushed before it comes.
    ///
    /// # Errors
    ///
    /// If the message cannot be sent.
    pub async fn start_join(&mut self, topic: &str, params: impl Into<Payload>) -> Result<String, ClientError> {
        let join_ref = self.next_ref();
        self.join_refs.insert(topic.to_owned(), join_ref.clone());
        self.send(Some(join_ref.clone()), &join_ref, topic, "phx_join", params.into())
            .await?;
        Ok(join_ref)
    }

    /// Leaves a topic.
    ///
    /// # Errors
    ///
    /// If there is no answer, or nothing to leave.
    pub async fn leave(&mut self, topic: &str) -> Result<Reply, ClientError> {
        let reply = self.call(topic, "phx_leave", json!({})).await;
        self.join_refs.remove(topic);
        reply
    }

    /// Sends an event to a topic that is joined. Returns the `ref` that its reply will have.
    ///
    /// # Errors
    ///
    /// If the topic is not joined, or the message cannot be sent.
    pub async fn push(&mut self, topic: &str, event: &str, payload: impl Into<Payload>) -> Result<String, ClientError> {
        let join_ref = self.join_ref(topic)?;
        let msg_ref = self.next_ref();
        self.send(Some(join_ref), &msg_ref, topic, event, payload.into())
            .await?;
        Ok(msg_ref)
    }

    /// Sends an event with each of these payloads: at once over a WebSocket, in one request over long polling. Returns
    /// their `ref`s.
    ///
    /// # Errors
    ///
    /// As [`Client::push`]; some of them may have been taken then.
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

    /// Sends an event, and waits for its reply.
    ///
    /// # Errors
    ///
    /// As [`Client::push`], or if there is no reply.
    pub async fn call(&mut self, topic: &str, event: &str, payload: impl Into<Payload>) -> Result<Reply, ClientError> {
        let msg_ref = self.push(topic, event, payload).await?;
        self.reply(&msg_ref).await
    }

    /// Asks for the connection's sign of life.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn heartbeat(&mut self) -> Result<Reply, ClientError> {
        let msg_ref = self.next_ref();
        self.send(None, &msg_ref, "phoenix", "heartbeat", json!({}).into())
            .await?;
        self.reply(&msg_ref).await
    }

    /// Waits for the reply to the message with this `ref`.
    ///
    /// # Errors
    ///
    /// If the connection ends first, or the deadline is over.
    pub async fn reply(&mut self, msg_ref: &str) -> Result<Reply, ClientError> {
        let message = self
            .wait_for(|message| message.status.is_some() && message.msg_ref.as_deref() == Some(msg_ref))
            .await?;
        Ok(Reply {
            status: message.status.unwrap_or_default(),
            response: message.payload,
        })
    }

    /// Waits for an event of a topic: what was pushed or broadcast, `phx_close`, `phx_error`.
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

    /// The oldest message that nobody has asked for, or the next one to come.
    ///
    /// # Errors
    ///
    /// As [`Client::reply`].
    pub async fn next(&mut self) -> Result<Message, ClientError> {
        self.wait_for(|_| true).await
    }

    /// How long each call may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.raw.deadline()
    }

    /// Everything that has come while others were waited for, and that nobody has asked for.
    pub fn take_kept(&mut self) -> Vec<Message> {
        self.kept.drain(..).collect()
    }

    /// Says goodbye, see [`RawClient::close`].
    ///
    /// # Errors
    ///
    /// If the server does not answer within the deadline.
    pub async fn close(self) -> Result<(), ClientError> {
        self.raw.close().await
    }

    async fn wait_for(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Message, ClientError> {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return Ok(self.kept.remove(at).expect("it was found there"));
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
    /// Its response, where that is JSON.
    #[must_use]
    pub fn json(&self) -> Option<&Value> {
        match &self.response {
            Payload::Json(value) => Some(value),
            Payload::Binary(_) => None,
        }
    }
}
