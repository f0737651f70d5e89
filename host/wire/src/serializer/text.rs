//! Reads and writes what the text of all versions has in common: refs and strings.

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;

use super::json;
use crate::message::{Ref, RefText};

/// What is said of a message whose ref is too long.
pub(super) const LONG_REF: &str = "a ref has at most 255 bytes";

/// A copy of a ref. Null is none.
pub(super) fn text_ref(raw: &str) -> Result<Ref, &'static str> {
    match raw {
        "null" => Ok(None),
        raw => RefText::new(raw).map(Some).map_err(|_| LONG_REF),
    }
}

/// What `raw` says if it is a JSON string.
pub(super) fn string(text: &ByteString, raw: &str) -> Result<Option<ByteString>, &'static str> {
    if !raw.starts_with('"') {
        return Ok(None);
    }
    Ok(Some(match json::unescape(raw)? {
        std::borrow::Cow::Borrowed(plain) => text.slice_ref(plain),
        std::borrow::Cow::Owned(unescaped) => unescaped.into(),
    }))
}

/// Writes a JSON string.
pub(super) fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    out.put_slice(json::escape(text).as_bytes());
    out.put_u8(b'"');
}
