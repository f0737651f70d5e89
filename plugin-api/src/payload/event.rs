//! Typed events: the name and the payload of an event, read together as an enum.

use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess, Visitor};

use super::{Payload, ReadError, read_json_with};
use crate::reply::Refusal;

impl<'a> Payload<'a> {
    /// Reads event and payload together as a `T`: an enum with a variant for each event that clients may push. The variant
    /// `NewMsg` is the event `new_msg`; `#[serde(rename = "…")]` gives it another name. A variant without fields ignores the
    /// payload.
    ///
    /// ```
    /// # use bennu_plugin::prelude::*;
    /// # struct Member { name: String }
    /// #[derive(Deserialize)]
    /// enum Event {
    ///     NewMsg { body: String },
    ///     Typing { typing: bool },
    /// }
    ///
    /// # impl Member {
    /// fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload, cx: &mut Context) -> Handled {
    ///     match payload.parse_as(event)? {
    ///         Event::NewMsg { body } => cx.broadcast("new_msg", json!({ "name": self.name, "body": body })),
    ///         Event::Typing { typing } => cx.broadcast_from("typing", json!({ "name": self.name, "typing": typing })),
    ///     }
    ///     Ok(Reply::ok())
    /// }
    /// # }
    /// ```
    ///
    /// Use it if payloads have fields: the enum lists what clients may send, the compiler reports events that are not handled, and
    /// clients learn what is wrong with a payload. If payloads are binary or pass through unchanged, match on `event` instead.
    ///
    /// # Errors
    ///
    /// Returned with `?`, the error answers the client: as [`Reply::unhandled`](crate::Reply::unhandled) if there is no such
    /// variant, as [`Payload::parse`] does if the payload does not fit the variant.
    pub fn parse_as<T: Deserialize<'a>>(self, event: &str) -> Result<T, Refusal> {
        T::deserialize(Named { event, payload: self }).map_err(|wrong| match wrong {
            Wrong::Event => Refusal::unhandled(),
            Wrong::Payload(error) => error.into_refusal(),
        })
    }
}

/// A pushed event as serde sees it: the name of a variant, and its content.
struct Named<'a, 'e> {
    event: &'e str,
    payload: Payload<'a>,
}

/// Why it is not an event of the enum.
#[derive(Debug)]
enum Wrong {
    Event,
    Payload(ReadError),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => "unhandled event",
            Self::Payload(error) => &error.message,
        })
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Payload(ReadError {
            path: String::new(),
            message: message.to_string(),
        })
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        Self::Event
    }
}

impl<'de> de::Deserializer<'de> for Named<'de, '_> {
    type Error = Wrong;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let named = |is: fn(&str, &str) -> bool| variants.iter().find(|variant| is(variant, self.event)).copied();
        let event = named(|variant, event| variant == event).or_else(|| named(is_in_snake_case));
        visitor.visit_enum(Named {
            event: event.unwrap_or(self.event),
            ..self
        })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom(
            "the plugin must read events as an enum without `tag` and `untagged`",
        ))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Named<'de, '_> {
    type Error = Wrong;
    type Variant = Fields<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Fields<'de>), Wrong> {
        let name: StrDeserializer<'_, Wrong> = self.event.into_deserializer();
        Ok((seed.deserialize(name)?, Fields(self.payload)))
    }
}

/// The content of a variant.
struct Fields<'a>(Payload<'a>);

impl<'de> Fields<'de> {
    fn bytes(&self) -> Result<&'de [u8], Wrong> {
        self.0.json_bytes().map_err(Wrong::Payload)
    }
}

impl<'de> VariantAccess<'de> for Fields<'de> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Wrong> {
        read_json_with(self.bytes()?, |reader| seed.deserialize(reader)).map_err(Wrong::Payload)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Wrong> {
        use de::Deserializer as _;
        read_json_with(self.bytes()?, |reader| reader.deserialize_tuple(len, visitor)).map_err(Wrong::Payload)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Wrong> {
        use de::Deserializer as _;
        read_json_with(self.bytes()?, |reader| reader.deserialize_struct("", fields, visitor)).map_err(Wrong::Payload)
    }
}

/// Whether `event` is the name of `variant` as serde's `snake_case` writes it.
fn is_in_snake_case(variant: &str, event: &str) -> bool {
    let mut event = event.chars();
    let same = variant.char_indices().all(|(at, letter)| {
        let separated = at == 0 || !letter.is_uppercase() || event.next() == Some('_');
        separated && event.next() == Some(letter.to_ascii_lowercase())
    });
    same && event.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    enum Event {
        Ping,
        NewMsg {
            body: String,
            to: Option<To>,
        },
        Count(u32),
        Pair(u32, u32),
        #[serde(rename = "phx:odd")]
        Odd,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct To {
        name: String,
    }

    #[track_caller]
    fn read(event: &str, payload: &str, expected: Event) {
        let payload = Payload::json_text(payload);
        assert_eq!(payload.parse_as::<Event>(event).unwrap(), expected);
    }

    #[track_caller]
    fn refused(event: &str, payload: Payload<'_>, expected: &str) {
        let body = payload.parse_as::<Event>(event).unwrap_err().into_body();
        assert_eq!(body.lend(payload).json(), Some(expected));
    }

    #[test]
    fn an_event_is_the_variant_of_its_name_with_the_payload_in_it() {
        read("ping", r#"{"any":"thing"}"#, Event::Ping);
        let (body, to) = ("hi".to_owned(), None);
        read("new_msg", r#"{"body":"hi"}"#, Event::NewMsg { body, to });
        read("count", "7", Event::Count(7));
        read("pair", "[1,2]", Event::Pair(1, 2));
        read("phx:odd", "null", Event::Odd);
        assert_eq!(
            Payload::of_event(&[1], true).parse_as::<Event>("ping").unwrap(),
            Event::Ping
        );
    }

    #[test]
    fn an_event_of_another_name_is_unhandled() {
        for event in ["", "new", "newmsg", "new_msg_", "New_msg", "odd", "new__msg"] {
            refused(event, Payload::json_text("{}"), r#"{"reason":"unhandled event"}"#);
        }
    }

    #[test]
    fn a_payload_that_does_not_fit_is_refused_by_the_name_of_the_field() {
        refused(
            "new_msg",
            Payload::json_text("{}"),
            r#"{"reason":"invalid payload","field":"body","message":"missing field `body`"}"#,
        );
        refused(
            "new_msg",
            Payload::json_text(r#"{"body":"hi","to":{"name":7}}"#),
            r#"{"reason":"invalid payload","field":"to.name","message":"invalid type: integer `7`, expected a string"}"#,
        );
        refused(
            "new_msg",
            Payload::of_event(&[1], true),
            r#"{"reason":"invalid payload","message":"expected JSON, got binary"}"#,
        );
        refused(
            "new_msg",
            Payload::json_text("7"),
            r#"{"reason":"invalid payload","message":"invalid type: integer `7`, expected an object"}"#,
        );
    }
}
