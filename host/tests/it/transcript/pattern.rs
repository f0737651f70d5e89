//! Expected JSON, with `*` for anything and `$name` for something that comes again.
//!
//! A pattern is read as JSON in which the two stand as strings that nothing else begins with.

use std::collections::HashMap;

use serde_json::Value;

/// In front of what is no JSON.
const MARK: char = '\u{1}';

/// What `$name`s stand for.
#[derive(Default)]
pub(crate) struct Captures(HashMap<String, Value>);

/// Reads a pattern.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    let json = replace(text, |special| Ok(format!("\"\\u0001{special}\"")))?;
    serde_json::from_str(&json).map_err(|error| format!("the pattern is no JSON: {error}"))
}

impl Captures {
    /// Compares, and takes up what `$name`s stand for.
    pub(crate) fn matches(&mut self, pattern: &Value, value: &Value) -> bool {
        match (pattern, value) {
            (Value::String(text), _) if text.starts_with(MARK) => match &text[1..] {
                "*" => true,
                name => match self.0.get(name) {
                    Some(known) => known == value,
                    None => self.0.insert(name.to_owned(), value.clone()).is_none(),
                },
            },
            (Value::Array(patterns), Value::Array(values)) => {
                patterns.len() == values.len()
                    && patterns
                        .iter()
                        .zip(values)
                        .all(|(pattern, value)| self.matches(pattern, value))
            }
            (Value::Object(patterns), Value::Object(values)) => {
                patterns.len() == values.len()
                    && patterns
                        .iter()
                        .all(|(key, pattern)| values.get(key).is_some_and(|value| self.matches(pattern, value)))
            }
            _ => pattern == value,
        }
    }

    /// Puts what `$name`s stand for into a text that is sent.
    pub(crate) fn fill_in(&self, text: &str) -> Result<String, String> {
        replace(text, |special| match self.0.get(special) {
            Some(value) => Ok(value.to_string()),
            None if special == "*" => Ok(special.to_owned()),
            None => Err(format!("  {special} stands for nothing yet")),
        })
    }
}

/// Replaces each `*` and `$name` outside of strings.
fn replace(text: &str, with: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let (mut out, mut rest, mut quoted) = (String::new(), text, false);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\\' if quoted => rest.chars().take(2).map(char::len_utf8).sum(),
            '*' if !quoted => 1,
            '$' if !quoted => {
                let name = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                name.map_or(rest.len(), |length| length + 1)
            }
            c => c.len_utf8(),
        };
        let (part, tail) = rest.split_at(length);
        if !quoted && (c == '*' || c == '$') {
            out.push_str(&with(part)?);
        } else {
            out.push_str(part);
        }
        quoted ^= c == '"';
        rest = tail;
    }
    Ok(out)
}

#[test]
fn a_pattern_takes_anything_for_a_star_and_the_same_for_a_name() {
    let mut captures = Captures::default();
    let mut check = |pattern: &str, json: &str, expected: bool| {
        let (pattern, value) = (
            read(pattern).expect("a pattern"),
            serde_json::from_str(json).expect("JSON"),
        );
        assert_eq!(captures.matches(&pattern, &value), expected, "{pattern} {json}");
    };
    check(r#"{"a":*,"b":["*","\"$x"]}"#, r#"{"a":[1],"b":["*","\"$x"]}"#, true);
    check(r#"{"a":*}"#, r#"{"a":1,"b":2}"#, false);
    check("[1]", r#"["1"]"#, false);
    check("[$x,$y]", r#"["one",2]"#, true);
    check("$x", r#""one""#, true);
    check("$y", "3", false);
    assert_eq!(captures.fill_in(r#"[$x,"$x",$y]"#), Ok(r#"["one","$x",2]"#.into()));
}
