//! The text of a `ref`, in memory of its own.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// How long a `ref` or `join_ref` may be, in bytes of JSON; the quotes of a string do not count. It is as much as a field of a
/// binary frame holds.
pub const MAX_REF_BYTES: usize = 255;

/// Bytes that need no memory beside the value itself. Most refs are a number of a few digits in quotes.
const SHORT: usize = 22;

/// The JSON text of a `ref` or `join_ref`, at most [`MAX_REF_BYTES`] long.
///
/// It is a copy: a ref is often kept longer than its message, and a slice would keep the whole frame in memory. A clone of it
/// allocates nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RefText(Text);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Text {
    /// The unused bytes are 0.
    Short {
        len: u8,
        bytes: [u8; SHORT],
    },
    Long(Arc<str>),
}

/// A ref has more than [`MAX_REF_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ref has more than {MAX_REF_BYTES} bytes")]
pub struct RefTooLong;

impl RefText {
    /// A copy of this JSON text.
    ///
    /// # Errors
    ///
    /// If it is too long.
    pub fn new(json: &str) -> Result<Self, RefTooLong> {
        let quotes = if json.starts_with('"') { 2 } else { 0 };
        if json.len() > MAX_REF_BYTES + quotes {
            return Err(RefTooLong);
        }
        let mut bytes = [0; SHORT];
        Ok(Self(match bytes.get_mut(..json.len()) {
            Some(short) => {
                short.copy_from_slice(json.as_bytes());
                let len = json.len() as u8;
                Text::Short { len, bytes }
            }
            None => Text::Long(json.into()),
        }))
    }

    /// Bytes that it keeps beside the value itself.
    #[must_use]
    pub fn allocated(&self) -> usize {
        match &self.0 {
            Text::Short { .. } => 0,
            Text::Long(text) => text.len(),
        }
    }
}

impl Deref for RefText {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Text::Short { len, bytes } => {
                str::from_utf8(&bytes[..usize::from(*len)]).expect("it was text when it was copied")
            }
            Text::Long(text) => text,
        }
    }
}

impl fmt::Debug for RefText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
impl From<&str> for RefText {
    fn from(json: &str) -> Self {
        Self::new(json).expect("a short ref")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_it_was_written_whatever_its_length() {
        for len in [0, 1, SHORT - 1, SHORT, SHORT + 1, MAX_REF_BYTES] {
            let text = "7".repeat(len);
            let copy = RefText::new(&text).expect("short enough");
            assert_eq!((&*copy, &copy), (&*text, &copy.clone()));
        }
        assert_eq!(&*RefText::from("\"é\""), "\"é\"");
    }

    #[test]
    fn the_quotes_of_a_string_do_not_count() {
        let digits = "7".repeat(MAX_REF_BYTES);
        assert!(RefText::new(&format!("\"{digits}\"")).is_ok());
        assert_eq!(RefText::new(&format!("\"{digits}7\"")), Err(RefTooLong));
        assert_eq!(RefText::new(&format!("{digits}7")), Err(RefTooLong));
    }
}
