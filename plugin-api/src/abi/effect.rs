//! The kinds of effects that a plugin asks for during an event. None but spans takes place before
//! [`Calls::done`](super::Calls::done).

/// Accepts the join; `payload` is its reply.
pub const ACCEPT: u32 = 1;
/// Refuses the join; `payload` says why.
pub const REFUSE: u32 = 2;
/// Promises to answer later. Returns the serial of a [`Token`](super::Token), never 0.
pub const LATER: u32 = 3;
/// Replies to the current event (`token` 0) or to an earlier one. `name`: the status.
pub const REPLY: u32 = 4;
/// Pushes event `name` to `member`.
pub const PUSH: u32 = 5;
/// Broadcasts event `name` to the current topic, or to the one in `topic`. `member`: the member to leave out, or 0.
pub const BROADCAST: u32 = 6;
/// Tracks `member` under the key `name` with the JSON object `payload`.
pub const TRACK: u32 = 7;
/// Replaces the meta of `member` under the key `name`.
pub const UPDATE: u32 = 8;
/// Stops tracking `member` under the key `name`.
pub const UNTRACK: u32 = 9;
/// Pushes `presence_state` to `member`.
pub const PRESENCE: u32 = 10;
/// Ends `member`. `number`: one of [`reason`](super::reason), `name`: text for [`reason::OTHER`](super::reason::OTHER).
pub const STOP: u32 = 11;
/// After `number` milliseconds, sends the message `name` with `payload` to `member`, or to the topic (0).
/// Returns the timer's number, never 0.
pub const SEND: u32 = 12;
/// Stops timer `number`.
pub const CANCEL: u32 = 13;
/// State of `member`, or of the topic (0), in answer to `SNAPSHOT`.
pub const STATE: u32 = 14;
/// Accepts the connection. `name`: the socket id, `payload`: its assigns, a JSON object. Both may be empty.
pub const CONNECT_ACCEPT: u32 = 15;
/// Refuses the connection with HTTP status `number` and the body `payload`.
pub const CONNECT_REFUSE: u32 = 16;
/// Describes the presence key `name`: from now on the host sends the keys of the JSON object `payload` beside its metas, until
/// nobody is tracked under it. `payload` must not have the key `metas`. (since 1.2)
pub const DESCRIBE: u32 = 17;
/// The plugin read the promise `token` from a payload or from state: this generation answers for it from now on. Comes after the
/// other effects of the event; also in answer to `RESTORE` and `RESTORE_MEMBER`. (since 1.2)
pub const PROMISE_READ: u32 = 18;
/// The plugin wrote the promise `token` into a payload: the generation that reads it answers for it. (since 1.2)
pub const PROMISE_WRITTEN: u32 = 19;
/// Sends the message `name` with `payload` to the topic in `topic`, of whichever plugin serves it. Nobody gets the message if
/// that topic does not exist. (since 1.5)
pub const SEND_TO: u32 = 20;
/// Ends the topic for good, after this event: its members end, and the host forgets its state, stored state included. (since 1.6)
pub const FORGET: u32 = 21;
/// Begins a span of the current event, `name`, inside of the one that was begun last and has not ended. Takes place at once. Returns its
/// number, or 0: the event is not traced, or has as many spans as it may have. (since 1.7)
pub const SPAN_BEGIN: u32 = 22;
/// Ends the span `number` of the current event, and those that have not ended inside of it, at once. The host ends what is left when
/// the event is done. (since 1.7)
pub const SPAN_END: u32 = 23;
