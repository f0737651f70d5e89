//! Reads `traceparent`, by which others say which trace something belongs to: W3C Trace Context.

use std::borrow::Cow;

use bennu_wire::message::Payload;
use memchr::memmem;
use serde::Deserialize;

/// The name of the header, of the parameter, and of the key in a payload.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// The length of version 00. Later versions may have more behind it.
const LENGTH: usize = 55;

/// A span of somebody else, to which ours belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    /// The trace.
    pub(crate) trace: u128,
    /// The span in it.
    pub(crate) span: u64,
    /// They say that it is recorded.
    pub(crate) is_sampled: bool,
}

/// What a payload may say besides what is for the plugin.
#[derive(Deserialize)]
struct Carrier<'a> {
    #[serde(borrow)]
    traceparent: Cow<'a, str>,
}

impl TraceParent {
    /// Reads such as `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`. `None` if it is malformed: then it counts as none.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let version = hexadecimal(text.get(..2)?)?;
        let has_right_length = match version {
            0 => text.len() == LENGTH,
            0xff => false,
            _ => text.len() == LENGTH || text.as_bytes().get(LENGTH) == Some(&b'-'),
        };
        let mut parts = text.get(..LENGTH).filter(|_| has_right_length)?.splitn(4, '-').skip(1);
        let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
        if (trace.len(), span.len(), flags.len()) != (32, 16, 2) {
            return None;
        }
        let (trace, span, flags) = (hexadecimal(trace)?, hexadecimal(span)?, hexadecimal(flags)?);
        (trace != 0 && span != 0).then_some(Self {
            trace,
            span: u64::try_from(span).ok()?,
            is_sampled: flags & 1 == 1,
        })
    }

    /// The one in a JSON object, under the key `traceparent`. The host looks for nothing else in payloads, and not at all unless the
    /// word is there.
    #[must_use]
    pub(crate) fn in_payload(payload: &Payload) -> Option<Self> {
        let Payload::Json(json) = payload else { return None };
        memmem::find(json, br#""traceparent""#)?;
        let carrier: Carrier<'_> = serde_json::from_slice(json).ok()?;
        Self::parse(&carrier.traceparent)
    }
}

/// Digits and small letters only: no sign, no capitals.
fn hexadecimal(text: &str) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.bytes()
        .all(is_digit)
        .then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read() -> TraceParent {
        TraceParent {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            is_sampled: true,
        }
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        assert_eq!(TraceParent::parse(GOOD), Some(read()));
        let unsampled = TraceParent {
            is_sampled: false,
            ..read()
        };
        assert_eq!(TraceParent::parse(&GOOD.replace("-01", "-00")), Some(unsampled));
        // Other flags mean nothing here.
        assert_eq!(TraceParent::parse(&GOOD.replace("-01", "-03")), Some(read()));
        // A later version may add something.
        assert_eq!(TraceParent::parse(&GOOD.replacen("00", "cc", 1)), Some(read()));
        assert_eq!(TraceParent::parse(&format!("cc{}-more", &GOOD[2..])), Some(read()));
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        for bad in [
            String::new(),
            "00".to_owned(),
            "ü".repeat(40),
            format!("{GOOD}0"),
            format!("{GOOD}-more"),
            format!("cc{}more", &GOOD[2..]),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0x", 1),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            GOOD.replace("-01", "-+1"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("e4736-00f067", "e473-600f067"),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_payload_carries_it_under_its_name_only() {
        let carried = |json: &str| TraceParent::in_payload(&Payload::Json(json.to_owned().into()));
        assert_eq!(carried(&format!(r#"{{"a":[1],"traceparent":"{GOOD}"}}"#)), Some(read()));
        for none in [
            "{}".to_owned(),
            "\"traceparent\"".to_owned(),
            format!(r#"{{"a":{{"traceparent":"{GOOD}"}}}}"#),
            r#"{"traceparent":1}"#.to_owned(),
            r#"{"traceparent":null}"#.to_owned(),
            format!(r#"{{"traceparent":"{GOOD}","traceparent":"{GOOD}"}}"#),
        ] {
            assert_eq!(carried(&none), None, "{none}");
        }
        let binary = Payload::Binary(format!(r#"{{"traceparent":"{GOOD}"}}"#).into());
        assert_eq!(TraceParent::in_payload(&binary), None);
    }
}
