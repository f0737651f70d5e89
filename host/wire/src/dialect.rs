//! In which rules the dialects differ. How they write messages is a matter of their [serializers](crate::serializer).

use bytestring::ByteString;

use crate::message::Payload;
use crate::serializer::json;

/// What the name of a private room begins with. Behind it stands the topic.
pub const PRIVATE: &str = "private-";

/// Which rules a client's channels follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Phoenix 1.7 and 1.8, protocol versions 1 and 2.
    Modern,
    /// Phoenix 0.11.
    Phoenix011,
    /// Supabase's Realtime clients. Their topics have two rooms each: a public one, and a private one for joins with
    /// `{"config": {"private": true}}`.
    Supabase,
}

impl Dialect {
    /// Whether the server answers a message whose topic is not joined or has no route.
    #[must_use]
    pub fn answers_unmatched(self) -> bool {
        self != Self::Phoenix011
    }

    /// Status and response for a join that was refused with this response.
    #[must_use]
    pub fn refusal(self, response: &Payload) -> (&'static str, Payload) {
        match self {
            Self::Modern | Self::Supabase => ("error", response.clone()),
            Self::Phoenix011 => ("ignore", Payload::EMPTY),
        }
    }

    /// Whether the client can tell one join of a topic from the next. If not, a channel that a new join replaces ends
    /// silently: the client would take its `phx_close` for that of the new channel.
    #[must_use]
    pub fn names_joins(self) -> bool {
        self != Self::Phoenix011
    }

    /// The room that a join of `topic` with these params is for: the topic by which routes and plugins know it. `None`: clients
    /// cannot name this topic.
    #[must_use]
    pub fn room(self, topic: &ByteString, params: &Payload) -> Option<ByteString> {
        match self {
            Self::Supabase if topic.starts_with(PRIVATE) => None,
            Self::Supabase if asks_for_private(params) => Some([PRIVATE, topic].concat().into()),
            _ => Some(topic.clone()),
        }
    }

    /// What a client calls a room.
    #[must_use]
    pub fn topic_of(self, room: &str) -> &str {
        match self {
            Self::Supabase => room.strip_prefix(PRIVATE).unwrap_or(room),
            Self::Modern | Self::Phoenix011 => room,
        }
    }

    /// Whether `phx_close` follows what `terminate` pushes. If not, it precedes it.
    #[must_use]
    pub fn closes_last(self) -> bool {
        self == Self::Phoenix011
    }
}

/// Whether these params of a join ask for a private room.
fn asks_for_private(params: &Payload) -> bool {
    let member = |object, name: &str| {
        let mut found = None;
        json::members(object, |key, value| {
            if key == name {
                found = Some(value);
            }
            true
        })?;
        found
    };
    let Payload::Json(params) = params else { return false };
    let config = std::str::from_utf8(params)
        .ok()
        .and_then(|params| member(params, "config"));
    config.and_then(|config| member(config, "private")) == Some("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_join_is_ignored_in_phoenix_0_11_and_explained_today() {
        let reason = Payload::reason("full");
        assert_eq!(Dialect::Phoenix011.refusal(&reason), ("ignore", Payload::EMPTY));
        assert_eq!(Dialect::Modern.refusal(&reason), ("error", reason));
    }

    #[track_caller]
    fn check(topic: &str, params: &str, room: Option<&str>) {
        let params = Payload::Json(params.to_owned().into());
        let found = Dialect::Supabase.room(&topic.into(), &params);
        assert_eq!(found.as_deref(), room, "{topic} {params:?}");
        if let Some(room) = room {
            assert_eq!(Dialect::Supabase.topic_of(room), topic);
        }
        assert_eq!(Dialect::Modern.room(&topic.into(), &params).as_deref(), Some(topic));
    }

    #[test]
    fn a_topic_of_supabase_has_a_public_and_a_private_room() {
        for params in [
            "{}",
            "7",
            r#"{"config":{}}"#,
            r#"{"config":null}"#,
            r#"{"config":{"private":false}}"#,
            r#"{"config":{"private":"true"}}"#,
            r#"{"private":true,"config":{"broadcast":{"private":true}}}"#,
        ] {
            check("realtime:a", params, Some("realtime:a"));
        }
        for params in [
            r#"{"config":{"private":true}}"#,
            r#"{"access_token":"x","config" : {"broadcast":{"ack":true}, "priv\u0061te" : true } }"#,
        ] {
            check("realtime:a", params, Some("private-realtime:a"));
        }
    }

    #[test]
    fn nobody_names_a_private_room_by_its_own_name() {
        check("private-realtime:a", "{}", None);
        check("private-realtime:a", r#"{"config":{"private":true}}"#, None);
        let bytes = Payload::Binary(bytes::Bytes::from_static(b"{}"));
        let room = Dialect::Supabase.room(&"realtime:a".into(), &bytes);
        assert_eq!(room.as_deref(), Some("realtime:a"));
    }
}
