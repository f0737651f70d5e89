//! The kinds of events. A plugin answers an unknown kind with [`outcome::UNKNOWN`](super::outcome::UNKNOWN).

/// A client joins. `name`: the topic, `payload`: the join's params, `info`: an [`info`](super::Event::info) object. The first
/// join creates the topic. The plugin answers with `ACCEPT`, `REFUSE` or `LATER`.
pub const JOIN: u32 = 1;
/// A client pushed an event. `name`: the event. The plugin answers with one `REPLY`, with `LATER`, or not at all.
pub const IN: u32 = 2;
/// A broadcast of an intercepted event (`name`) to this topic. `member`: the member to leave out, or 0. The plugin sends each
/// other member a `PUSH`, or nothing.
pub const OUT: u32 = 3;
/// A message or a timer for `member`, or for the topic if `member` is 0. `name` and `payload` are as sent.
pub const INFO: u32 = 4;
/// The answer to the promise `token` of a join or a connect. `payload`: the bytes passed to `Host::complete`, `name`: its
/// status (since 1.3), `info`: that of the join or the connect. The plugin answers as it does to these.
pub const ANSWER: u32 = 5;
/// `member` ends. The plugin handles this and then drops the member's state. `number`: one of [`reason`](super::reason), `name`:
/// the text of a stop.
pub const TERMINATE: u32 = 6;
/// The topic ends with its remaining members. The plugin drops their state; no callback runs.
pub const CLOSE: u32 = 7;
/// The plugin writes the topic's state (`STATE`, member 0), then that of each member, and changes nothing. If writing a member
/// panics, the plugin sends `STOP` with [`reason::PANICKED`](super::reason::PANICKED) for that member and writes the others
/// (since 1.2). `number` 1: only the topic's state (since 1.6).
pub const SNAPSHOT: u32 = 8;
/// The plugin makes the topic from `payload`, which state version `number` wrote. `name`: the topic.
pub const RESTORE: u32 = 9;
/// The plugin makes a member from `payload`, which state version `number` wrote. `info`: as at its join, or after its last
/// `CLAIMS`.
pub const RESTORE_MEMBER: u32 = 10;
/// A client connects. `topic` is 0, `info` a [`ConnectInfo`](crate::wire::ConnectInfo) as JSON. The plugin answers with
/// `CONNECT_ACCEPT`, `CONNECT_REFUSE` or `LATER`.
pub const CONNECT: u32 = 11;
/// This generation has restored the topic with all its members, and serves it from now on.
pub const RESTORED: u32 = 12;
/// A page connects. `topic` is 0, `info` an [`OriginInfo`](crate::wire::OriginInfo) as JSON. The plugin answers with
/// `CONNECT_ACCEPT` or `CONNECT_REFUSE`; the host looks at nothing but the kind. (since 1.1)
pub const ORIGIN: u32 = 13;
/// A backend, not a client, asks the topic. `name`: the event, `info`: the topic's name, UTF-8. The plugin makes the topic if it
/// has none. It answers with one `REPLY`, with `LATER`, or not at all: then the backend gets `ok` and `{}`. (since 1.5)
pub const CALL: u32 = 14;

/// The client of `member` has shown a new token. `info`: the member's info from now on. (since 1.5)
pub const CLAIMS: u32 = 15;

/// The topic is about to leave memory, and has no members any more. `CLOSE` follows, after a `SNAPSHOT` if the host keeps the topic's
/// state. The plugin may still change that. (since 1.6)
pub const CLOSING: u32 = 16;

/// The name of the callback that runs for this kind of event, for logs. `topic` and `member` are 0 if the event has none.
///
/// Allocates nothing: a signal handler may call it.
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
        (CLAIMS, ..) => "claims_changed",
        (CLOSING, ..) => "closing",
        (CALL, ..) => "handle_call",
        _ => "unknown event",
    }
}
