//! What nodes of a cluster ask each other, and what they are told, as bytes: a head, which is JSON, and a body.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::transport::longpoll::SessionId;

/// A question for another node. One that a node of another version does not know is refused there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// Of a session of long polling.
    Session(SessionAt, OfSession),
    /// For a backend: which topics are alive?
    Topics(TopicsWanted),
    /// For a backend: what is there to say of one topic?
    Topic(TopicWanted),
    /// For a backend: which connections has a socket id?
    Connections(ConnectionsWanted),
    /// For an operator: what became of a client?
    Client(ClientWanted),
    /// For an operator: what does an admin page say? The body is that of the request.
    Page(PageWanted),
    /// For an operator: a topic whose home the node is is forgotten, or put back. The body has its capsule then.
    Stored(StoredChange),
}

/// A change of a stored topic that an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredChange {
    pub(crate) plugin: String,
    pub(crate) topic: String,
    /// It is put back; otherwise it is forgotten.
    pub(crate) is_import: bool,
}

/// Which topics are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicsWanted {
    /// The patterns of the backend's key.
    pub(crate) patterns: Vec<String>,
    /// What their names begin with.
    pub(crate) prefix: String,
    /// Behind which name they are in the order.
    pub(crate) after: Option<String>,
    /// How many entries at most.
    pub(crate) entries: usize,
    /// How many bytes of them at most.
    pub(crate) bytes: usize,
}

/// Which topic is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicWanted {
    pub(crate) topic: String,
    /// Behind which key its presence list begins.
    pub(crate) after: Option<String>,
    /// How many bytes of that list at most.
    pub(crate) bytes: usize,
}

/// Whose connections are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionsWanted {
    pub(crate) socket_id: String,
    /// How many entries at most.
    pub(crate) entries: usize,
    /// How many bytes of them at most.
    pub(crate) bytes: usize,
}

/// Which client is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientWanted {
    /// Its socket id, the number of its connection, or its address.
    pub(crate) client: String,
    /// How many entries of each kind at most.
    pub(crate) limit: usize,
}

/// Which admin page is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageWanted {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// What the body of the request is.
    pub(crate) content_type: Option<String>,
    /// Who asks, for the log.
    pub(crate) operator: String,
}

/// What a session is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OfSession {
    /// What waits for its client?
    Poll,
    /// Is it alive?
    Find,
    /// It shall dispatch the messages in the body: one a line, or one.
    Publish {
        /// One a line.
        has_lines: bool,
    },
}

/// A session at another node, from the token of a client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionAt {
    /// The path of its mount.
    pub(crate) mount: String,
    /// Whether its client speaks the dialect of Phoenix 0.11.
    pub(crate) is_phoenix_0_11: bool,
    /// Its I/O thread there.
    pub(crate) io_thread: u16,
    /// Which it is.
    pub(crate) session: SessionId,
    /// The last message that its client has.
    pub(crate) last: u64,
}

/// A question or an answer as bytes.
#[must_use]
pub(crate) fn write<'a>(head: &impl Serialize, body: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let head = serde_json::to_vec(head).expect("heads have texts as keys");
    let mut out = (head.len() as u32).to_be_bytes().to_vec();
    out.extend(head);
    for piece in body {
        out.extend_from_slice(piece);
    }
    out.into()
}

/// The head and the body. `None`: this version does not know it.
#[must_use]
pub(crate) fn read<T: DeserializeOwned>(bytes: &Bytes) -> Option<(T, Bytes)> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (head, body) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(head).ok()?, bytes.slice_ref(body)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_written() {
        let at = SessionAt {
            mount: "/socket".to_owned(),
            is_phoenix_0_11: true,
            io_thread: 3,
            session: [7; 16],
            last: u64::MAX,
        };
        for of_session in [OfSession::Poll, OfSession::Find, OfSession::Publish { has_lines: true }] {
            let question = Question::Session(at.clone(), of_session);
            let written = write(&question, [&b"\0\xff"[..], b"[1]"]);
            let found: Option<(Question, _)> = read(&written);
            assert_eq!(found, Some((question, Bytes::from_static(b"\0\xff[1]"))));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_more_than_ignored(bytes: Vec<u8>) {
            prop_assert!(read::<Question>(&bytes.into()).is_none());
        }
    }

    #[test]
    fn a_question_of_another_version_is_not_known() {
        assert!(read::<Question>(&write(&"sing", [])).is_none());
        let mut written = write(&"sing", []).to_vec();
        written[3] += 1;
        assert!(read::<String>(&written.into()).is_none(), "its head is cut off");
    }
}
