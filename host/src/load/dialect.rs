//! What is said over WebSocket: Phoenix V2, or Socket.IO over Engine.IO 4.

use super::wire;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dialect {
    /// Phoenix Channels, version 2 of the serializer
    Phoenix,
    /// Socket.IO 4; events `join`, `echo` (acknowledged) and `shout`
    #[value(name = "socketio")]
    SocketIo,
}

/// What a text frame of the server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The session is open: [`Dialect::connect`] is to be sent.
    Opened,
    /// Joins may be sent.
    Ready,
    /// A join was answered with yes, or with no.
    Joined(bool),
    /// The answer to an echo, sent at this time.
    Answer(u64),
    /// A broadcast, sent at this time.
    Delivery(u64),
    /// To be answered with [`Dialect::heartbeat`].
    Ping,
    /// Nothing that matters here.
    Other,
}

impl Dialect {
    /// Where the server is, if nobody says otherwise.
    pub(super) fn default_url(self) -> &'static str {
        match self {
            Self::Phoenix => "ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0",
            Self::SocketIo => "ws://127.0.0.1:3000/socket.io/?EIO=4&transport=websocket",
        }
    }

    /// Whether joins may be sent as soon as the connection is upgraded.
    pub(super) fn is_ready_at_once(self) -> bool {
        self == Self::Phoenix
    }

    /// What is sent once the session is open, where that is needed.
    pub(super) fn connect(self) -> &'static str {
        "40"
    }

    /// What keeps a connection alive.
    pub(super) fn heartbeat(self) -> &'static str {
        match self {
            Self::Phoenix => r#"[null,"0","phoenix","heartbeat",{}]"#,
            Self::SocketIo => "3",
        }
    }

    pub(super) fn join(self, topic: &str, number: usize) -> String {
        match self {
            Self::Phoenix => format!(r#"["{number}","{number}","{topic}","phx_join",{{}}]"#),
            Self::SocketIo => format!(r#"421["join","{topic}"]"#),
        }
    }

    /// Asks for `payload` back. `number` is that of the join.
    pub(super) fn echo(self, topic: &str, number: usize, event: &str, payload: &str) -> String {
        match self {
            Self::Phoenix => format!(r#"["{number}","9","{topic}","{event}",{payload}]"#),
            Self::SocketIo => format!(r#"422["{event}",{payload}]"#),
        }
    }

    /// Asks for `payload` to be broadcast to the topic.
    pub(super) fn shout(self, topic: &str, number: usize, event: &str, payload: &str) -> String {
        match self {
            Self::Phoenix => format!(r#"["{number}","9","{topic}","{event}",{payload}]"#),
            Self::SocketIo => format!(r#"42["{event}","{topic}",{payload}]"#),
        }
    }

    /// Understands what the server says.
    pub(super) fn hear(self, text: &[u8], hint: &mut usize) -> Heard {
        match self {
            Self::Phoenix => phoenix(text, hint),
            Self::SocketIo => socket_io(text, hint),
        }
    }
}

fn phoenix(text: &[u8], hint: &mut usize) -> Heard {
    if let Some(sent) = wire::stamp(text, hint) {
        // A push or a broadcast answers no `ref`. A reply's event stands far in front of its payload.
        return match memchr::memmem::find(&text[..*hint], b"\"phx_reply\"") {
            Some(_) => Heard::Answer(sent),
            None => Heard::Delivery(sent),
        };
    }
    // A refused join may come back without its `join_ref`; so does a heartbeat, whose `ref` is 0.
    if text.starts_with(br#"[null,"0","#) || memchr::memmem::find(text, b"\"phx_reply\"").is_none() {
        return Heard::Other;
    }
    Heard::Joined(memchr::memmem::find(text, br#""status":"ok""#).is_some())
}

fn socket_io(text: &[u8], hint: &mut usize) -> Heard {
    let stamped = |heard: fn(u64) -> Heard, hint| wire::stamp(text, hint).map_or(Heard::Other, heard);
    match text {
        [b'4', b'2', ..] => stamped(Heard::Delivery, hint),
        [b'4', b'3', b'1', ..] => Heard::Joined(true),
        [b'4', b'3', b'2', ..] => stamped(Heard::Answer, hint),
        [b'4', b'0', ..] => Heard::Ready,
        [b'0', ..] => Heard::Opened,
        [b'2', ..] => Heard::Ping,
        _ => Heard::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dialect: Dialect, text: &str, expected: Heard) {
        assert_eq!(dialect.hear(text.as_bytes(), &mut 0), expected, "{text}");
    }

    #[test]
    fn phoenix_is_understood() {
        let joined = r#"["1","1","echo:1","phx_reply",{"response":{},"status":"ok"}]"#;
        check(Dialect::Phoenix, joined, Heard::Joined(true));
        let refused = r#"["1","1","x:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]"#;
        check(Dialect::Phoenix, refused, Heard::Joined(false));
        let unmatched = r#"[null,"1","x:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]"#;
        check(Dialect::Phoenix, unmatched, Heard::Joined(false));
        let answer = r#"["1","9","echo:1","phx_reply",{"status":"ok","response":{"t":"000000000000000a"}}]"#;
        check(Dialect::Phoenix, answer, Heard::Answer(10));
        let delivery = r#"[null,null,"echo:1","shout",{"t":"00000000000000ff"}]"#;
        check(Dialect::Phoenix, delivery, Heard::Delivery(255));
        check(
            Dialect::Phoenix,
            r#"[null,"0","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
            Heard::Other,
        );
        check(
            Dialect::Phoenix,
            r#"["1",null,"echo:1","presence_state",{}]"#,
            Heard::Other,
        );
    }

    #[test]
    fn socket_io_is_understood() {
        check(Dialect::SocketIo, r#"0{"sid":"x","pingInterval":25000}"#, Heard::Opened);
        check(Dialect::SocketIo, r#"40{"sid":"x"}"#, Heard::Ready);
        check(Dialect::SocketIo, r#"431["ok"]"#, Heard::Joined(true));
        check(Dialect::SocketIo, r#"432[{"t":"000000000000000a"}]"#, Heard::Answer(10));
        check(
            Dialect::SocketIo,
            r#"42["shout",{"t":"000000000000000a"}]"#,
            Heard::Delivery(10),
        );
        check(Dialect::SocketIo, "2", Heard::Ping);
    }
}
