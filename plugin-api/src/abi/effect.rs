//! What a plugin tells the host while it handles an event. Nothing takes effect before [`Calls::done`](super::Calls::done).

/// The join is accepted; `payload` goes out as its reply.
pub const ACCEPT: u32 = 1;
/// The join is refused; `payload` says why.
pub const REFUSE: u32 = 2;
/// The answer comes later. Returns the serial of a [`Token`](super::Token), never 0.
pub const LATER: u32 = 3;
/// Replies to the event at hand (`token` 0) or to an earlier one. `name`: the status.
pub const REPLY: u32 = 4;
/// Pushes event `name` to `member`.
pub const PUSH: u32 = 5;
/// Broadcasts event `name` to the topic, or to the one in `topic`. `member`: who is left out, or 0.
pub const BROADCAST: u32 = 6;
/// Tracks `member` under the key `name` with the JSON object `payload`.
pub const TRACK: u32 = 7;
/// Replaces what is tracked for `member` under the key `name`.
pub const UPDATE: u32 = 8;
/// Ends tracking of `member` under the key `name`.
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
/// The connection is accepted. `name`: the socket id, `payload`: its assigns, a JSON object. Both may be empty.
pub const CONNECT_ACCEPT: u32 = 15;
/// The connection is refused with HTTP status `number` and the body `payload`.
pub const CONNECT_REFUSE: u32 = 16;
/// Sends the keys of the JSON object `payload`, which has none called `metas`, beside the metas of the key `name`
/// from now on, until nobody is tracked under it. (since 1.2)
pub const DESCRIBE: u32 = 17;
/// The promise `token` was read out of a payload or of state: this generation answers for it from now on. Comes after
/// whatever else the event asks for; also in answer to `RESTORE` and `RESTORE_MEMBER`. (since 1.2)
pub const PROMISE_READ: u32 = 18;
/// The promise `token` was written into a payload: whoever reads it answers for it. (since 1.2)
pub const PROMISE_WRITTEN: u32 = 19;
