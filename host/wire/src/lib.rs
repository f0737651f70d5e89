//! Phoenix Channels on the wire: messages, how each protocol version writes them, and the patterns that topics match.
//!
//! Nothing here knows a server, so a client, a proxy or a test can use it alone.
//!
//! * [`message`]: what a message is, whatever encoding brought it.
//! * [`serializer`]: protocol versions 1 and 2, that of Phoenix 0.11, and those of Supabase; bytes to messages and back.
//! * [`dialect`]: in which rules today's Phoenix, Phoenix 0.11 and Supabase's clients differ.
//! * [`pattern`]: topic patterns such as `room:*`.

pub mod dialect;
pub mod message;
pub mod pattern;
mod ref_text;
pub mod serializer;
