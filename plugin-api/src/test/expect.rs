//! What a test expects of a payload: [`Expect`].

use serde_json::Value;

use super::body::Body;
use crate::payload::Binary;

/// An expected payload. `json!({ … })` must equal the whole payload; [`like`] compares a part of it; [`any`] accepts everything;
/// [`that`] calls a function; [`Binary`] compares bytes.
pub trait Expect {
    /// Whether this JSON is as expected.
    fn takes(&self, payload: &Value) -> bool;
    /// Whether this binary payload is as expected.
    fn takes_binary(&self, _: &[u8]) -> bool {
        false
    }
    /// How a failure shows it.
    fn shown(&self) -> String;
}

impl Expect for Value {
    fn takes(&self, payload: &Value) -> bool {
        self == payload
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Expect for &Value {
    fn takes(&self, payload: &Value) -> bool {
        *self == payload
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Expect for Binary<'_> {
    fn takes(&self, _: &Value) -> bool {
        false
    }

    fn takes_binary(&self, bytes: &[u8]) -> bool {
        self.0 == bytes
    }

    fn shown(&self) -> String {
        format!("binary {:?}", self.0)
    }
}

/// An expected part of a payload: see [`like`].
#[derive(Clone, Debug)]
pub struct Like(Value);

/// Expects at least this: at any depth, an object may have more keys; everything else must be equal. Like a pattern in Elixir.
#[must_use]
pub fn like(part: Value) -> Like {
    Like(part)
}

impl Expect for Like {
    fn takes(&self, payload: &Value) -> bool {
        has(payload, &self.0)
    }

    fn shown(&self) -> String {
        format!("like {}", self.0)
    }
}

fn has(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            let mut keys = part.iter();
            keys.all(|(key, part)| whole.get(key).is_some_and(|whole| has(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| has(whole, part))
        }
        _ => whole == part,
    }
}

/// Any payload: see [`any`].
#[derive(Clone, Copy, Debug)]
pub struct Any;

/// Expects any payload, JSON or binary.
#[must_use]
pub fn any() -> Any {
    Any
}

impl Expect for Any {
    fn takes(&self, _: &Value) -> bool {
        true
    }

    fn takes_binary(&self, _: &[u8]) -> bool {
        true
    }

    fn shown(&self) -> String {
        "with any payload".to_owned()
    }
}

/// A payload that a function accepts: see [`that`].
pub struct That<F>(F);

/// Expects JSON for which `is` returns true: `that(|payload| payload["id"].is_u64())`.
pub fn that<F: Fn(&Value) -> bool>(is: F) -> That<F> {
    That(is)
}

impl<F: Fn(&Value) -> bool> Expect for That<F> {
    fn takes(&self, payload: &Value) -> bool {
        (self.0)(payload)
    }

    fn shown(&self) -> String {
        "for which the given function returns true".to_owned()
    }
}

/// Whether `body` is as expected.
pub(super) fn is(body: &Body, expected: &dyn Expect) -> bool {
    if body.binary {
        expected.takes_binary(&body.bytes)
    } else {
        expected.takes(&body.value())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_is_expected_at_any_depth() {
        let whole = json!({ "a": { "b": 1, "c": 2 }, "list": [{ "x": 1, "y": 2 }] });
        for (part, expected) in [
            (json!({}), true),
            (json!({ "a": { "b": 1 } }), true),
            (json!({ "a": { "b": 2 } }), false),
            (json!({ "a": { "d": null } }), false),
            (json!({ "list": [{ "x": 1 }] }), true),
            (json!({ "list": [] }), false),
        ] {
            assert_eq!(like(part.clone()).takes(&whole), expected, "{part}");
        }
    }

    #[test]
    fn json_and_binary_are_never_alike() {
        let (json, binary) = (Body::of(&json!([1, 2])), Body::of(&Binary(&[1, 2])));
        assert!(is(&json, &json!([1, 2])) && !is(&binary, &json!([1, 2])));
        assert!(is(&binary, &Binary(&[1, 2])) && !is(&json, &Binary(&[1, 2])));
        assert!(is(&binary, &any()));
    }
}
