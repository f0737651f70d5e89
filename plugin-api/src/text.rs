//! Text of limited length: limit whatever a client sends.

use std::fmt;
use std::ops::Deref;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text of `MIN` to `MAX` characters (Unicode scalar values). Reading it checks the length; use it like a `str`.
///
/// ```
/// # use bennu_plugin::prelude::*;
/// #[derive(Serialize, Deserialize)]
/// struct Member {
///     name: Text<1, 32>,
/// }
/// ```
///
/// [`Payload::parse`](crate::Payload::parse) refuses longer and shorter text with
/// `{"reason":"invalid payload","field":"name","message":"must have 1 to 32 characters"}`.
///
/// The limits are part of the type. If a new version of a plugin narrows them, it may not be able to read state that the old
/// version wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const MIN: usize, const MAX: usize>(String);

/// The text is too short or too long. Displays the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    min: usize,
    max: usize,
}

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Fails if `text` is too short or too long.
    fn check(text: &str) -> Result<(), OutOfBounds> {
        // Counts no further than necessary.
        let count = text.chars().take(MAX.saturating_add(1)).count();
        if (MIN..=MAX).contains(&count) {
            Ok(())
        } else {
            Err(OutOfBounds { min: MIN, max: MAX })
        }
    }
}

impl<const MIN: usize, const MAX: usize> TryFrom<String> for Text<MIN, MAX> {
    type Error = OutOfBounds;

    fn try_from(text: String) -> Result<Self, OutOfBounds> {
        Self::check(&text).map(|()| Self(text))
    }
}

impl<const MIN: usize, const MAX: usize> From<Text<MIN, MAX>> for String {
    fn from(text: Text<MIN, MAX>) -> Self {
        text.0
    }
}

impl<const MIN: usize, const MAX: usize> Deref for Text<MIN, MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MIN: usize, const MAX: usize> fmt::Display for Text<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MIN: usize, const MAX: usize> Serialize for Text<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded<const MIN: usize, const MAX: usize>;

        impl<const MIN: usize, const MAX: usize> Visitor<'_> for Bounded<MIN, MAX> {
            type Value = Text<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Text::<MIN, MAX>::check(text).map_err(E::custom)?;
                Ok(Text(text.to_owned()))
            }
        }

        deserializer.deserialize_str(Bounded)
    }
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (0, max) => write!(f, "must have at most {max} characters"),
            (min, max) if min == max => write!(f, "must have {max} characters"),
            (min, max) => write!(f, "must have {min} to {max} characters"),
        }
    }
}

impl std::error::Error for OutOfBounds {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<const MIN: usize, const MAX: usize>(text: &str, expected: Result<(), &str>) {
        let read = serde_json::from_value::<Text<MIN, MAX>>(text.into()).map(drop);
        assert_eq!(read.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        check::<1, 3>("äöü", Ok(()));
        check::<1, 3>("", Err("must have 1 to 3 characters"));
        check::<1, 3>("abcd", Err("must have 1 to 3 characters"));
        check::<0, 3>("abcd", Err("must have at most 3 characters"));
        check::<6, 6>("12345", Err("must have 6 characters"));
    }

    #[test]
    fn what_was_read_is_written_as_a_string() {
        let text: Text<1, 32> = serde_json::from_str(r#""ann""#).unwrap();
        assert_eq!(
            (serde_json::json!(text), text.as_str(), text.len()),
            ("ann".into(), "ann", 3)
        );
    }
}
