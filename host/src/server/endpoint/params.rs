//! Reads the query of a request into the params of a connection, nested as Plug nests them: `a[b]=c` and `a[]=x`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bennu_wire::serializer::{Serializer, Serializers, VsnError};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::runtime::trace::TRACEPARENT;

/// How many `name=value` a query may have.
pub(crate) const MAX_PARAMS: usize = 1000;

/// How many brackets a name may have.
pub(crate) const MAX_DEPTH: usize = 32;

/// The params of a client that connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    /// All params: a JSON object whose leaves are strings.
    pub(crate) json: String,
    /// The protocol version that it asks for.
    pub(crate) vsn: Vsn,
    /// The long-poll token, if it is a string.
    pub(crate) token: Option<String>,
    /// The other half of the token in the Phoenix 0.11 dialect, if it is a string.
    pub(crate) sig: Option<String>,
    /// The trace that the client belongs to, if it is a string: browsers cannot send the header.
    pub(crate) traceparent: Option<String>,
}

/// The parameter `vsn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vsn {
    /// Not given.
    Absent,
    /// A string.
    Text(String),
    /// A list or an object, which is not a version.
    Nested,
}

impl Vsn {
    /// Picks the serializer, see [`Serializers::negotiate`].
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn serializer(&self, spoken: &Serializers) -> Result<&'static dyn Serializer, VsnError> {
        match self {
            Self::Absent => spoken.negotiate(None),
            Self::Text(vsn) => spoken.negotiate(Some(vsn)),
            Self::Nested => Err(VsnError::Malformed("[…]".into())),
        }
    }
}

impl Params {
    /// Reads a query, without its question mark. If a name is repeated, the later one wins. A name without a value has an empty
    /// one.
    ///
    /// # Errors
    ///
    /// If it is badly encoded, or too big. The server then answers the request with 400.
    pub(crate) fn parse(query: &str) -> Result<Self, ParamsError> {
        let mut root = Map::new();
        // Backwards, and the first one set stays: so later parameters win, as in Plug, whatever their shape.
        for (index, pair) in query.rsplit('&').enumerate() {
            if index == MAX_PARAMS {
                return Err(ParamsError::TooMany);
            }
            if !pair.is_empty() {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                assign(&mut root, &decode(name)?, decode(value)?)?;
            }
        }
        let text = |name| match root.get(name) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        Ok(Self {
            vsn: match text("vsn") {
                Some(vsn) => Vsn::Text(vsn),
                None if root.contains_key("vsn") => Vsn::Nested,
                None => Vsn::Absent,
            },
            token: text("token"),
            sig: text("sig"),
            traceparent: text(TRACEPARENT),
            json: serde_json::to_string(&root).map_err(|_| ParamsError::TooDeep)?,
        })
    }
}

impl Params {
    /// A parameter, whatever its shape: by its name, or, if the name has dots, inside of others.
    pub(super) fn find(&self, name: &str) -> Option<serde_json::Value> {
        let all: serde_json::Value = serde_json::from_str(&self.json).ok()?;
        let found = all
            .get(name)
            .or_else(|| all.pointer(&format!("/{}", name.replace('.', "/"))));
        found.cloned()
    }
}

/// Why a query cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParamsError {
    /// A `%` without two hexadecimal digits.
    #[error("invalid escape in the query")]
    Escape,
    /// The decoded text is not UTF-8.
    #[error("the query is not UTF-8")]
    Utf8,
    /// More than [`MAX_PARAMS`].
    #[error("more than {MAX_PARAMS} parameters")]
    TooMany,
    /// More than [`MAX_DEPTH`].
    #[error("a parameter nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
}

type Map = BTreeMap<String, Value>;

enum Value {
    Text(String),
    /// The last element first.
    List(Vec<Value>),
    Map(Map),
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list.iter().rev()),
            Self::Map(map) => serializer.collect_map(map),
        }
    }
}

/// Decodes `application/x-www-form-urlencoded`.
fn decode(text: &str) -> Result<String, ParamsError> {
    // The crate leaves a bad escape as it is. Plug refuses it.
    let mut escapes = text.split('%').skip(1);
    let is_escape =
        |escape: &[u8]| matches!(escape, [high, low, ..] if [high, low].iter().all(|digit| digit.is_ascii_hexdigit()));
    if !escapes.all(|escape| is_escape(escape.as_bytes())) {
        return Err(ParamsError::Escape);
    }
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| ParamsError::Utf8)
}

fn assign(root: &mut Map, name: &str, value: String) -> Result<(), ParamsError> {
    // Brackets have a meaning only if the name ends with one.
    let Some(inner) = name.strip_suffix(']') else {
        put(root, name, &[], value);
        return Ok(());
    };
    match inner.split_once('[') {
        // A list needs a name.
        Some(("", _)) => {}
        None => put(root, inner, &[], value),
        Some((first, rest)) => {
            let path: Vec<_> = rest.split("][").take(MAX_DEPTH + 1).collect();
            if path.len() > MAX_DEPTH {
                return Err(ParamsError::TooDeep);
            }
            put(root, first, &path, value);
        }
    }
    Ok(())
}

/// Puts `value` at `path` below `key`, unless something else is there.
fn put(map: &mut Map, key: &str, path: &[&str], value: String) {
    match path {
        [] => {
            map.entry(key.into()).or_insert(Value::Text(value));
        }
        // Each `a[]…` is an element of its own.
        ["", rest @ ..] => {
            if let Value::List(list) = map.entry(key.into()).or_insert(Value::List(Vec::new())) {
                list.push(element(rest, value));
            }
        }
        [next, rest @ ..] => {
            if let Value::Map(inner) = map.entry(key.into()).or_insert(Value::Map(Map::new())) {
                put(inner, next, rest, value);
            }
        }
    }
}

/// Wraps `value` in the lists and objects of `path`.
fn element(path: &[&str], value: String) -> Value {
    match path {
        [] => Value::Text(value),
        ["", rest @ ..] => Value::List(vec![element(rest, value)]),
        [key, rest @ ..] => {
            let mut map = Map::new();
            put(&mut map, key, rest, value);
            Value::Map(map)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(query: &str, json: &str) {
        assert_eq!(Params::parse(query).unwrap().json, json, "{query}");
    }

    fn refused(query: &str, error: ParamsError) {
        assert_eq!(Params::parse(query), Err(error), "{query}");
    }

    #[test]
    fn plain_names_are_strings() {
        check("", "{}");
        check("&&", "{}");
        check("a=1&b=", r#"{"a":"1","b":""}"#);
        check("a&b=c=d", r#"{"a":"","b":"c=d"}"#);
        check("=x", r#"{"":"x"}"#);
        check("a+b=c%20d%26&%C3%A9=%e2%82%ac", r#"{"a b":"c d&","é":"€"}"#);
        check("__proto__=x&q=%22%5C%0A", r#"{"__proto__":"x","q":"\"\\\n"}"#);
    }

    #[test]
    fn brackets_nest() {
        check("a[b]=c", r#"{"a":{"b":"c"}}"#);
        check("a%5Bb%5D=c", r#"{"a":{"b":"c"}}"#);
        check("a[b][c]=1&a[b][d]=2&a[e]=3", r#"{"a":{"b":{"c":"1","d":"2"},"e":"3"}}"#);
        check("a[]=1&a[]=2", r#"{"a":["1","2"]}"#);
        check("a[b][]=1&a[b][]=2", r#"{"a":{"b":["1","2"]}}"#);
        check("a[][b]=1&a[][c]=2", r#"{"a":[{"b":"1"},{"c":"2"}]}"#);
        check("a[][]=1", r#"{"a":[["1"]]}"#);
    }

    #[test]
    fn odd_brackets_are_part_of_a_name() {
        check("a[b=1", r#"{"a[b":"1"}"#);
        check("a[b]c=1", r#"{"a[b]c":"1"}"#);
        check("a]=1", r#"{"a":"1"}"#);
        check("[]=1&[a]=2&]=3", r#"{"":"3"}"#);
    }

    #[test]
    fn the_later_one_wins() {
        check("a=1&a=2", r#"{"a":"2"}"#);
        check("a=1&a[b]=2", r#"{"a":{"b":"2"}}"#);
        check("a[b]=1&a=2", r#"{"a":"2"}"#);
        check("a[]=1&a[b]=2", r#"{"a":{"b":"2"}}"#);
        check("a[b]=1&a[]=2", r#"{"a":["2"]}"#);
        check("a[b]=1&a=2&a[c]=3", r#"{"a":{"b":"1","c":"3"}}"#);
    }

    #[test]
    fn what_is_badly_encoded_is_refused() {
        for query in ["a=%", "a=%1", "a=%zz", "%+1=a", "a=%-1"] {
            refused(query, ParamsError::Escape);
        }
        refused("a=%ff", ParamsError::Utf8);
        refused("%c3%28=a", ParamsError::Utf8);
    }

    #[test]
    fn number_and_depth_have_limits() {
        assert!(Params::parse(&"a[]=1&".repeat(MAX_PARAMS - 1)).is_ok());
        refused(&"a[]=1&".repeat(MAX_PARAMS), ParamsError::TooMany);
        assert!(Params::parse(&format!("a{}=1", "[b]".repeat(MAX_DEPTH))).is_ok());
        refused(&format!("a{}=1", "[b]".repeat(MAX_DEPTH + 1)), ParamsError::TooDeep);
        refused(&format!("a{}=1", "[]".repeat(100_000)), ParamsError::TooDeep);
    }

    #[test]
    fn vsn_and_token_are_taken_out() {
        let params = Params::parse("vsn=2.0.0&token=abc&sig=x").unwrap();
        assert_eq!(
            (&params.vsn, params.token.as_deref(), params.sig.as_deref()),
            (&Vsn::Text("2.0.0".into()), Some("abc"), Some("x"))
        );
        assert_eq!(
            params.vsn.serializer(&Serializers::default()).map(Serializer::vsn),
            Ok("2.0.0")
        );
        let params = Params::parse("vsn[]=2.0.0&token[a]=abc").unwrap();
        assert_eq!((&params.vsn, params.token), (&Vsn::Nested, None));
        assert!(params.vsn.serializer(&Serializers::default()).is_err());
        assert_eq!(Params::parse("").unwrap().vsn, Vsn::Absent);
        assert!(
            Params::parse("vsn")
                .unwrap()
                .vsn
                .serializer(&Serializers::default())
                .is_err()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_queries_give_json_or_an_error(bytes in proptest::collection::vec(prop::sample::select(&b"ab[]&=%+2f\xc3\xa9"[..]), 0..40)) {
            if let Ok(params) = Params::parse(&String::from_utf8_lossy(&bytes)) {
                prop_assert!(serde_json::from_str::<serde_json::Map<_, _>>(&params.json).is_ok());
            }
        }
    }
}
