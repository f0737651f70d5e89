//! The protocols that the load generator knows: Phoenix V2, Supabase's dialect of it, and Socket.IO over Engine.IO 4.

use super::wire;

/// The kind of a binary frame to one of Supabase's clients.
const TO_CLIENT: u8 = 4;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dialect {
    /// Phoenix Channels, protocol version 2
    Phoenix,
    /// Supabase Realtime, protocol version 2: everything is a broadcast, in binary frames, and an echo one that comes back
    Supabase,
    /// Socket.IO 4, with the events `join`, `echo` (acknowledged) and `shout`
    #[value(name = "socketio")]
    SocketIo,
}

/// The meaning of a text frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The session is open. The client must send [`Dialect::connect`].
    Opened,
    /// The client may join.
    Ready,
    /// The reply to a join: whether the server accepted it.
    Joined(bool),
    /// The reply to an echo that was sent at this time.
    Reply(u64),
    /// A broadcast that was sent at this time.
    Delivery(u64),
    /// The client must answer with [`Dialect::heartbeat`].
    Ping,
    /// Anything else.
    Other,
}

impl Dialect {
    /// The default of `--url`.
    pub(super) fn default_url(self) -> &'static str {
        match self {
            Self::Phoenix => "ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0",
            Self::Supabase => "ws://127.0.0.1:4000/realtime/v1/websocket?vsn=2.0.0",
            Self::SocketIo => "ws://127.0.0.1:3000/socket.io/?EIO=4&transport=websocket",
        }
    }

    /// Whether the client may join as soon as the WebSocket is open.
    pub(super) fn is_ready_at_once(self) -> bool {
        self != Self::SocketIo
    }

    /// Whether the client sends heartbeats without being asked.
    pub(super) fn sends_heartbeats(self) -> bool {
        self != Self::SocketIo
    }

    /// Whether an echo comes back as a broadcast to its sender.
    pub(super) fn echoes_by_broadcast(self) -> bool {
        self == Self::Supabase
    }

    /// What the client sends after [`Received::Opened`].
    pub(super) fn connect(self) -> &'static str {
        "40"
    }

    /// A heartbeat, or the answer to a ping.
    pub(super) fn heartbeat(self) -> &'static str {
        match self {
            Self::Phoenix | Self::Supabase => r#"[null,"0","phoenix","heartbeat",{}]"#,
            Self::SocketIo => "3",
        }
    }

    pub(super) fn join(self, topic: &str, number: usize) -> String {
        match self {
            Self::Phoenix => format!(r#"["{number}","{number}","{topic}","phx_join",{{}}]"#),
            Self::Supabase => {
                format!(r#"["{number}","{number}","{topic}","phx_join",{{"config":{{"broadcast":{{"self":true}}}}}}]"#)
            }
            Self::SocketIo => format!(r#"421["join","{topic}"]"#),
        }
    }

    /// An event whose reply has the same payload, as opcode and payload of a frame. `number` is that of the join.
    pub(super) fn echo(self, topic: &str, number: usize, event: &str, payload: &str) -> (u8, Vec<u8>) {
        match self {
            Self::Phoenix => text(format!(r#"["{number}","9","{topic}","{event}",{payload}]"#)),
            Self::Supabase => self.shout(topic, number, event, payload),
            Self::SocketIo => text(format!(r#"422["{event}",{payload}]"#)),
        }
    }

    /// An event that the server broadcasts to the topic. Likewise.
    pub(super) fn shout(self, topic: &str, number: usize, event: &str, payload: &str) -> (u8, Vec<u8>) {
        match self {
            Self::Phoenix => text(format!(r#"["{number}","9","{topic}","{event}",{payload}]"#)),
            Self::Supabase => (wire::BINARY, user_broadcast(&number.to_string(), topic, event, payload)),
            Self::SocketIo => text(format!(r#"42["{event}","{topic}",{payload}]"#)),
        }
    }

    /// Parses a text frame from the server, or a binary one. `hint` is where the last one had its time stamp.
    pub(super) fn parse(self, text: &[u8], hint: &mut usize) -> Received {
        match self {
            Self::Supabase if text.first() == Some(&TO_CLIENT) => {
                wire::stamp(text, hint).map_or(Received::Other, Received::Delivery)
            }
            Self::Phoenix | Self::Supabase => phoenix(text, hint),
            Self::SocketIo => socket_io(text, hint),
        }
    }
}

fn text(text: String) -> (u8, Vec<u8>) {
    (wire::TEXT, text.into_bytes())
}

/// A frame of kind 3, as supabase-js sends it: with JSON. Topics and events of the load generator are short.
fn user_broadcast(join_ref: &str, topic: &str, event: &str, payload: &str) -> Vec<u8> {
    let texts = [join_ref, "9", topic, event, ""];
    let mut frame = vec![3];
    frame.extend(texts.map(|text| text.len() as u8));
    frame.push(1);
    frame.extend(texts.concat().into_bytes());
    frame.extend(payload.as_bytes());
    frame
}

fn phoenix(text: &[u8], hint: &mut usize) -> Received {
    if let Some(sent) = wire::stamp(text, hint) {
        // The event of a reply stands before its payload.
        return match memchr::memmem::find(&text[..*hint], b"\"phx_reply\"") {
            Some(_) => Received::Reply(sent),
            None => Received::Delivery(sent),
        };
    }
    // The reply to a rejected join may lack its `join_ref`. So does that to a heartbeat, whose `ref` is 0.
    if text.starts_with(br#"[null,"0","#) || memchr::memmem::find(text, b"\"phx_reply\"").is_none() {
        return Received::Other;
    }
    Received::Joined(memchr::memmem::find(text, br#""status":"ok""#).is_some())
}

fn socket_io(text: &[u8], hint: &mut usize) -> Received {
    let stamped = |received: fn(u64) -> Received, hint| wire::stamp(text, hint).map_or(Received::Other, received);
    match text {
        [b'4', b'2', ..] => stamped(Received::Delivery, hint),
        [b'4', b'3', b'1', ..] => Received::Joined(true),
        [b'4', b'3', b'2', ..] => stamped(Received::Reply, hint),
        [b'4', b'0', ..] => Received::Ready,
        [b'0', ..] => Received::Opened,
        [b'2', ..] => Received::Ping,
        _ => Received::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dialect: Dialect, text: &str, expected: Received) {
        assert_eq!(dialect.parse(text.as_bytes(), &mut 0), expected, "{text}");
    }

    #[test]
    fn phoenix_frames_are_parsed() {
        let joined = r#"["1","1","echo:1","phx_reply",{"response":{},"status":"ok"}]"#;
        check(Dialect::Phoenix, joined, Received::Joined(true));
        let refused = r#"["1","1","x:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]"#;
        check(Dialect::Phoenix, refused, Received::Joined(false));
        let unmatched = r#"[null,"1","x:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]"#;
        check(Dialect::Phoenix, unmatched, Received::Joined(false));
        let answer = r#"["1","9","echo:1","phx_reply",{"status":"ok","response":{"t":"000000000000000a"}}]"#;
        check(Dialect::Phoenix, answer, Received::Reply(10));
        let delivery = r#"[null,null,"echo:1","shout",{"t":"00000000000000ff"}]"#;
        check(Dialect::Phoenix, delivery, Received::Delivery(255));
        check(
            Dialect::Phoenix,
            r#"[null,"0","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
            Received::Other,
        );
        check(
            Dialect::Phoenix,
            r#"["1",null,"echo:1","presence_state",{}]"#,
            Received::Other,
        );
    }

    #[test]
    fn frames_of_supabase_are_written_and_parsed() {
        let frame = user_broadcast("1", "realtime:1", "shout", r#"{"t":"00"}"#);
        assert_eq!(frame, b"\x03\x01\x01\x0a\x05\x00\x0119realtime:1shout{\"t\":\"00\"}");
        let delivery = b"\x04\x0a\x05\x00\x01realtime:1shout{\"t\":\"00000000000000ff\"}";
        assert_eq!(Dialect::Supabase.parse(delivery, &mut 0), Received::Delivery(255));
        let joined = r#"["1","1","realtime:1","phx_reply",{"response":{"postgres_changes":[]},"status":"ok"}]"#;
        check(Dialect::Supabase, joined, Received::Joined(true));
        check(
            Dialect::Supabase,
            r#"["1",null,"realtime:1","system",{"status":"ok"}]"#,
            Received::Other,
        );
    }

    #[test]
    fn socket_io_frames_are_parsed() {
        check(
            Dialect::SocketIo,
            r#"0{"sid":"x","pingInterval":25000}"#,
            Received::Opened,
        );
        check(Dialect::SocketIo, r#"40{"sid":"x"}"#, Received::Ready);
        check(Dialect::SocketIo, r#"431["ok"]"#, Received::Joined(true));
        check(
            Dialect::SocketIo,
            r#"432[{"t":"000000000000000a"}]"#,
            Received::Reply(10),
        );
        check(
            Dialect::SocketIo,
            r#"42["shout",{"t":"000000000000000a"}]"#,
            Received::Delivery(10),
        );
        check(Dialect::SocketIo, "2", Received::Ping);
    }
}
