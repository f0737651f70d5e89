//! Reads and writes what the text of all versions has in common: refs and strings.

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;

use super::json;
use crate::message::Ref;

/// A ref as it stands in the message, which is sliced, not copied. Null is none.
pub(super) fn text_ref(text: &ByteString, raw: &str) -> Ref {
    (raw != "null").then(|| text.slice_ref(raw))
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
