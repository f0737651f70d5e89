//! Turns TOML values into JSON: `settings`, `assigns` and `connect_static`, which the host passes on and never inspects.

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::DeValue;

use super::mistakes::Mistakes;

/// A table as a JSON object. Dates become strings. A value that JSON cannot hold becomes null and is noted as a mistake.
pub(super) fn object(value: &Spanned<DeValue<'_>>, mistakes: &Mistakes) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(datetime) => Value::String(datetime.to_string()),
        DeValue::Integer(_) => whole(value, mistakes),
        DeValue::Float(float) => fraction(float.as_str(), value, mistakes),
        DeValue::Array(list) => list.iter().map(|item| object(item, mistakes)).collect(),
        DeValue::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), object(value, mistakes)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

/// The value of a TOML integer, if 64 bits hold it.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn whole(value: &Spanned<DeValue<'_>>, mistakes: &Mistakes) -> Value {
    let number = integer(value.get_ref());
    if number.is_none() {
        mistakes.add(mistakes.error(value.span(), "this number does not fit into 64 bits"));
    }
    number.into()
}

fn fraction(text: &str, value: &Spanned<DeValue<'_>>, mistakes: &Mistakes) -> Value {
    let number = text.parse().ok().and_then(Number::from_f64);
    if number.is_none() {
        mistakes.add(
            mistakes
                .error(value.span(), "this number cannot be passed to a plugin")
                .help("plugins get JSON, which has no `inf` and no `nan`"),
        );
    }
    number.map_or(Value::Null, Value::Number)
}
