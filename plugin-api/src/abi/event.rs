//! What the host asks a plugin to do. An unknown kind is answered with [`outcome::UNKNOWN`](super::outcome::UNKNOWN).

/// A client wants to join. `name`: the topic, `payload`: the join's params, `info`: an [`info`](super::Event::info)
/// object. The topic comes into being with its first join. Answered by `ACCEPT`, `REFUSE` or `LATER`.
pub const JOIN: u32 = 1;
/// A client pushed an event. `name`: the event. Answered by one `REPLY`, by `LATER`, or not at all.
pub const IN: u32 = 2;
/// A broadcast of an intercepted event (`name`) to this topic. `member`: who is left out, or 0. The plugin decides
/// for each of its members, by `PUSH`.
pub const OUT: u32 = 3;
/// A message or timer for `member`, or for the topic where that is 0. `name` and `payload` are as sent.
pub const INFO: u32 = 4;
/// The answer to what `LATER` promised for a join or a connect (`token`). `payload`: the bytes given to
/// `Host::complete`, `name`: its status (since 1.3); `info`: that of the join or the connect. Answered as these are.
pub const ANSWER: u32 = 5;
/// `member` is no more; the plugin drops its state after handling this. `number`: one of [`reason`](super::reason),
/// `name`: the text of a stop.
pub const TERMINATE: u32 = 6;
/// The topic ends here, and so do members that are left: the plugin drops all its state, silently.
pub const CLOSE: u32 = 7;
/// The plugin writes the topic's state (`STATE`, member 0), then each member's. Nothing changes. A member whose state
/// cannot be written because that panics is named by `STOP` with [`reason::PANICKED`](super::reason::PANICKED), and the
/// others are written (since 1.2).
pub const SNAPSHOT: u32 = 8;
/// The topic comes into being from `payload`, written by state version `number`. `name`: the topic.
pub const RESTORE: u32 = 9;
/// A member comes into being from `payload`, written by state version `number`. `info`: as at its join.
pub const RESTORE_MEMBER: u32 = 10;
/// A client wants to connect. `topic` is 0, `info` a [`ConnectInfo`](crate::wire::ConnectInfo) as JSON.
/// Answered by `CONNECT_ACCEPT`, `CONNECT_REFUSE` or `LATER`.
pub const CONNECT: u32 = 11;
/// The topic was restored in this generation, all its members included, and is in service again.
pub const RESTORED: u32 = 12;
/// A page wants to connect. `topic` is 0, `info` an [`OriginInfo`](crate::wire::OriginInfo) as JSON. Answered by
/// `CONNECT_ACCEPT` or `CONNECT_REFUSE`, of which nothing but the kind counts. (since 1.1)
pub const ORIGIN: u32 = 13;

/// The author's name for what the plugin calls when it gets an event of this kind, for logs. `topic` and `member` are 0 where
/// the event has none. Allocates nothing: a signal handler may call it.
#[must_use]
pub const fn callback_name(kind: u32, topic: u64, member: u64) -> &'static str {
    match (kind, topic, member) {
        (JOIN, ..) => "join",
        (IN, ..) => "handle_in",
        (OUT, ..) => "handle_out",
        (INFO, _, 0) => "handle_topic_info",
        (INFO, ..) => "handle_info",
        (ANSWER, 0, _) => "connect_answer",
        (ANSWER, ..) => "join_answer",
        (TERMINATE, ..) => "terminate",
        (CLOSE, ..) => "drop",
        (SNAPSHOT, ..) => "snapshot",
        (RESTORE | RESTORE_MEMBER, ..) => "restore",
        (CONNECT, ..) => "connect",
        (RESTORED, ..) => "restored",
        (ORIGIN, ..) => "check_origin",
        _ => "unknown event",
    }
}
