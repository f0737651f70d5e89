//! A presence list as clients get it: JSON.

use bytes::Bytes;
use bytestring::ByteString;

use super::meta::Meta;

/// A meta of a key as [`write_map`] takes it.
pub(super) fn written<'a>((key, meta): (&'a ByteString, &'a Meta)) -> (&'a ByteString, &'a Bytes) {
    (key, &meta.json)
}

/// Writes `{"key":{"metas":[…],…},…}`; the metas of one key are together in `all`.
pub(super) fn write_map<'a, 'b>(
    out: &mut Vec<u8>,
    all: impl Iterator<Item = (&'a ByteString, &'a Bytes)>,
    beside: impl Fn(&ByteString) -> Option<&'b Bytes>,
) {
    let mut current: Option<&ByteString> = None;
    let end = |out: &mut Vec<u8>, key: &ByteString| end_entry(out, beside(key).unwrap_or(&Bytes::new()));
    out.push(b'{');
    for (key, json) in all {
        if current == Some(key) {
            out.push(b',');
        } else {
            if let Some(before) = current {
                end(out, before);
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, &**key).expect("text is written to memory");
            out.extend_from_slice(br#":{"metas":["#);
            current = Some(key);
        }
        out.extend_from_slice(json);
    }
    if let Some(last) = current {
        end(out, last);
    }
    out.push(b'}');
}

/// Ends the metas of a key, and its entry.
pub(super) fn end_entry(out: &mut Vec<u8>, beside: &Bytes) {
    out.push(b']');
    if !beside.is_empty() {
        out.push(b',');
        out.extend_from_slice(beside);
    }
    out.push(b'}');
}
