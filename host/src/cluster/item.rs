//! What nodes tell each other: one [`Item`] each, as a length and MessagePack.
//!
//! Members are named by the numbers of the node that their clients are connected to. What a topic's home alone may say, or be asked,
//! carries the revision under which it is the home; [`Join`](Item::Join) ties a membership to it.

use ::bytes::Bytes;
use bennu_wire::message::{Payload, Ref, RefText, reason};
use serde::{Deserialize, Serialize};

use super::moving::Moving;
use crate::runtime::capsule::bytes;
use crate::runtime::channel::{Called, Create, Notice};

/// One message between nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Item {
    /// To the home: a client asks to join.
    Join {
        /// The member that it becomes.
        member: u64,
        /// The plugin that its route leads to.
        plugin: String,
        /// The topic.
        topic: String,
        /// Under which this node takes the receiver for the home.
        revision: u64,
        /// The join's payload.
        params: Body,
        /// JSON of `wire::MemberInfo`, or empty.
        #[serde(with = "bytes")]
        info: Bytes,
    },
    /// To the home: a client pushed an event.
    In {
        /// The sender.
        member: u64,
        /// As it came.
        join_ref: Option<String>,
        /// For the reply.
        msg_ref: Option<String>,
        /// The event.
        event: String,
        /// Its payload.
        payload: Body,
    },
    /// To the home: a client has shown a new token.
    Claims {
        /// The member.
        member: u64,
        /// JSON of `wire::MemberInfo` from now on.
        #[serde(with = "bytes")]
        info: Bytes,
    },
    /// To the home: a member ends.
    End {
        /// Which.
        member: u64,
        /// One of `abi::reason`.
        reason: u32,
        /// `join_ref` and `ref` of the leave that has to be answered first.
        leave: Option<(Option<String>, Option<String>)>,
        /// What its client is told.
        notice: Told,
    },
    /// From the home: a join is accepted.
    Joined {
        /// Which.
        member: u64,
        /// The response.
        reply: Body,
    },
    /// From the home: a join is refused.
    Refused {
        /// Which.
        member: u64,
        /// The response.
        reply: Body,
    },
    /// From the home: the answer to an event.
    Reply {
        /// Whose.
        member: u64,
        /// Its `ref`.
        msg_ref: Option<String>,
        /// The status.
        status: String,
        /// The response.
        payload: Body,
    },
    /// From the home: the answer to a message whose channel is gone.
    Orphan {
        /// Whose.
        member: u64,
        /// The topic of the channel.
        topic: String,
        /// As the message had it.
        join_ref: Option<String>,
        /// The `ref` of the message.
        msg_ref: Option<String>,
        /// It was a leave.
        is_leave: bool,
    },
    /// From the home: a message to one client.
    Push {
        /// Whose.
        member: u64,
        /// The event.
        event: String,
        /// Its payload.
        payload: Body,
    },
    /// From the home: a message to all subscribers of a topic.
    Broadcast {
        /// Under which the sender is the home.
        revision: u64,
        /// The topic.
        topic: String,
        /// The event.
        event: String,
        /// Its payload.
        payload: Body,
        /// The member that does not receive it.
        except: Option<u64>,
        /// The plugins whose members receive it in another way.
        intercepted_by: Vec<String>,
        /// The number under which somebody waits for the count.
        count: Option<u64>,
    },
    /// From the home: a channel has ended.
    Ended {
        /// Which.
        member: u64,
        /// What its client is told.
        notice: Told,
    },
    /// From the home: nothing more comes for a member.
    Gone {
        /// Which.
        member: u64,
    },
    /// From a node that was the home of a partition: it has dropped its topics.
    Lost {
        /// The partition.
        partition: u16,
    },
    /// To the home: publish this.
    Publish {
        /// Under which this node takes the receiver for the home.
        revision: u64,
        /// The topic.
        topic: String,
        /// The event.
        event: String,
        /// Its payload.
        payload: Body,
        /// As in [`Item::Broadcast`].
        count: Option<u64>,
    },
    /// To the home: a message for a topic.
    Info {
        /// As in [`Item::Publish`].
        revision: u64,
        /// The topic.
        topic: String,
        /// The name of the message.
        name: String,
        /// Its payload.
        payload: Body,
    },
    /// To the home: a backend asks a topic.
    Call {
        /// The number under which the answer is awaited.
        id: u64,
        /// As in [`Item::Publish`].
        revision: u64,
        /// The topic.
        topic: String,
        /// The event.
        event: String,
        /// Its payload.
        payload: Body,
        /// Whether a topic that does not exist is made.
        create: Create,
    },
    /// The answer to a [call](Item::Call).
    Answer {
        /// Its number.
        id: u64,
        /// What came of it.
        answer: Answer,
    },
    /// The answer to whoever counts.
    Counted {
        /// The number.
        id: u64,
        /// How many were reached.
        reached: u64,
        /// How many members a plugin decides about.
        intercepted: u64,
    },
    /// To all: close the connections with this socket id.
    Disconnect {
        /// Which.
        socket_id: String,
        /// As in [`Item::Broadcast`].
        count: Option<u64>,
    },
    /// To all: let nobody with this socket id connect for a while.
    Refuse {
        /// Which.
        socket_id: String,
        /// For how long.
        wait_ms: u64,
    },
    /// A partition moves from one node to the other.
    Moving(Moving),
}

/// A payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Body(bool, #[serde(with = "bytes")] Bytes);

/// What a client is told of the end of its channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// `phx_close`, with a reason.
    Close(Option<String>),
    /// `phx_error`, with a reason.
    Error(String),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The plugin has answered.
    Replied(String, Body),
    /// The topic does not exist.
    NotAlive,
    /// The plugin knows no calls.
    Unhandled,
    /// The callback failed.
    Crashed,
    /// The topic has ended, or was never reached.
    Ended,
    /// The home does not let it through, for this reason.
    Refused(String),
}

impl From<Payload> for Body {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Json(bytes) => Self(false, bytes),
            Payload::Binary(bytes) => Self(true, bytes),
        }
    }
}

impl From<Body> for Payload {
    fn from(Body(is_binary, bytes): Body) -> Self {
        if is_binary {
            Self::Binary(bytes)
        } else {
            Self::Json(bytes)
        }
    }
}

impl From<Notice> for Told {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::None => Self::Nothing,
            Notice::Close(reason) => Self::Close(reason.map(str::to_owned)),
            Notice::Error(reason) => Self::Error(reason.to_owned()),
        }
    }
}

impl From<Told> for Notice {
    fn from(told: Told) -> Self {
        match told {
            Told::Nothing => Self::None,
            Told::Close(why) => Self::Close(why.and_then(|why| reason::read(&why))),
            // A newer node may know more reasons.
            Told::Error(why) => Self::Error(reason::read(&why).unwrap_or(reason::CHANNEL_CRASH)),
        }
    }
}

impl From<Called> for Answer {
    fn from(called: Called) -> Self {
        match called {
            Called::Replied { status, payload } => Self::Replied(status.to_string(), payload.into()),
            Called::NotAlive => Self::NotAlive,
            Called::Unhandled => Self::Unhandled,
            Called::Crashed => Self::Crashed,
            Called::Ended => Self::Ended,
            Called::Unstored(why) => Self::Refused(why.to_owned()),
        }
    }
}

impl From<Answer> for Called {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Replied(status, payload) => Self::Replied {
                status: status.into(),
                payload: payload.into(),
            },
            Answer::NotAlive => Self::NotAlive,
            Answer::Unhandled => Self::Unhandled,
            Answer::Crashed => Self::Crashed,
            Answer::Ended => Self::Ended,
            Answer::Refused(why) => Self::Unstored(reason::read(&why).unwrap_or(reason::NODE_UNAVAILABLE)),
        }
    }
}

/// A `ref` as text.
#[must_use]
pub(crate) fn written(msg_ref: &Ref) -> Option<String> {
    msg_ref.as_deref().map(str::to_owned)
}

/// A `ref` from text. One that is too long was never a client's, and is none.
#[must_use]
pub(crate) fn read_ref(text: Option<String>) -> Ref {
    RefText::new(&text?).ok()
}

impl Item {
    /// Appends the item to what goes to a node.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 4]);
        rmp_serde::encode::write(out, self).expect("items have a form in MessagePack, and memory takes them");
        // An item is smaller than `max_item_bytes`, which has 32 bits.
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Takes the first item out of what has come from a node. `None`: it is cut, or not of this version.
    #[must_use]
    pub(crate) fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let item = rest.get(..length)?;
        *bytes = &rest[length..];
        rmp_serde::from_slice(item).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> [Item; 3] {
        let payload = Payload::Binary(Bytes::from_static(&[1, 2, 255]));
        [
            Item::Join {
                member: u64::MAX,
                plugin: "room".to_owned(),
                topic: "room:é".to_owned(),
                revision: 7,
                params: payload.into(),
                info: Bytes::from_static(b"{}"),
            },
            Item::End {
                member: 1,
                reason: 2,
                leave: Some((None, Some("\"1\"".to_owned()))),
                notice: Told::from(Notice::Error(reason::NODE_LOST)),
            },
            Item::Gone { member: 3 },
        ]
    }

    #[test]
    fn items_come_out_as_they_went_in() {
        let mut bytes = Vec::new();
        some().iter().for_each(|item| item.write(&mut bytes));
        let mut rest = &*bytes;
        for item in some() {
            assert_eq!(Item::read(&mut rest), Some(item));
        }
        assert_eq!(rest, b"");
    }

    #[test]
    fn what_is_cut_or_unknown_is_no_item() {
        let mut bytes = Vec::new();
        some()[0].write(&mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(Item::read(&mut &bytes[..end]), None, "{end} bytes");
        }
        assert_eq!(Item::read(&mut &b"\0\0\0\x08\x81\xa6Future\xc0"[..]), None);
    }

    #[test]
    fn a_reason_of_a_newer_node_is_not_taken_for_another() {
        let told = Told::Error("something new".to_owned());
        assert_eq!(Notice::from(told), Notice::Error(reason::CHANNEL_CRASH));
        assert_eq!(
            Notice::from(Told::Error("node lost".to_owned())),
            Notice::Error(reason::NODE_LOST)
        );
    }
}
