//! Translates a plugin's refusal of its settings into the words of a configuration.
//!
//! Most plugins read their settings with serde, whose messages are for programmers. Other messages, such as those of a
//! plugin's own check, stay as they are.

use super::amount;
use super::words::{listed, nearest, suggestion};

/// A plugin's refusal of its settings.
pub(crate) struct Complaint {
    /// The message without its subject.
    sentence: String,
    pub(crate) help: Option<String>,
    /// Whether the key is wrong, whatever its value.
    pub(super) of_key: bool,
}

impl Complaint {
    /// `path` names the setting in `settings` by keys joined by dots; `message` is the plugin's.
    pub(crate) fn new(path: &str, message: &str) -> Self {
        unknown_field(path, message)
            .or_else(|| missing_field(path, message))
            .or_else(|| wrong_value(path, message))
            .or_else(|| unknown_variant(path, message))
            .unwrap_or_else(|| Self::refusal(&at(path), message))
    }

    /// The whole sentence, without the help. `who` is its subject: "it", "the plugin `room`".
    pub(crate) fn by(&self, who: &str) -> String {
        format!("{who} {}", self.sentence)
    }

    fn refusal(at: &str, what: &str) -> Self {
        Self {
            sentence: format!("refuses its settings{at}: {what}"),
            help: None,
            of_key: false,
        }
    }
}

/// ``unknown field `histroy`, expected `history` ``; ``…, expected one of `a`, `b` ``; `…, there are no fields`
fn unknown_field(path: &str, message: &str) -> Option<Complaint> {
    let (name, rest) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let help = match known[..] {
        [] if path == name && rest.ends_with("there are no fields") => Some("it takes no settings".to_owned()),
        [] => None,
        _ => Some(suggestion(name, &known)),
    };
    Some(Complaint {
        sentence: format!("has no setting `{}`", whole_path(path, name)),
        help,
        of_key: true,
    })
}

/// ``missing field `history` ``
fn missing_field(path: &str, message: &str) -> Option<Complaint> {
    let name = message.strip_prefix("missing field `")?.strip_suffix('`')?;
    Some(Complaint {
        sentence: format!("needs the setting `{}`", whole_path(path, name)),
        help: Some(format!("add a line `{name} = …`, or give it a default in the plugin")),
        of_key: false,
    })
}

/// ``invalid type: string "ten", expected usize``; ``invalid value: integer `-3`, expected u8``
fn wrong_value(path: &str, message: &str) -> Option<Complaint> {
    let both = ["invalid type: ", "invalid value: "];
    let (found, wanted) = { both.iter() }
        .find_map(|start| message.strip_prefix(start))?
        .rsplit_once(", expected ")?;
    let (found, wanted) = (found_in_words(found)?, wanted_in_words(wanted)?);
    let what = if path.is_empty() {
        "they".to_owned()
    } else {
        format!("`{path}`")
    };
    let key = path.rsplit('.').next().unwrap_or(path);
    // The string may be a secret.
    let is_quoted = found == "a string" && wanted.starts_with("a whole number");
    Some(Complaint {
        help: if is_quoted { amount::help(key, None) } else { None },
        ..Complaint::refusal("", &format!("{what} must be {wanted}, not {found}"))
    })
}

/// ``unknown variant `lod`, expected `loud` or `low` ``
fn unknown_variant(path: &str, message: &str) -> Option<Complaint> {
    let (name, rest) = message.strip_prefix("unknown variant `")?.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let help = match nearest(name, &known) {
        Some(best) => format!("did you mean \"{best}\"?"),
        None => format!("known: {}", listed(&known)),
    };
    Some(Complaint {
        help: Some(help),
        ..Complaint::refusal("", &format!("`{path}` cannot be `{name}`"))
    })
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!(" at `{path}`")
    }
}

/// The path of the field `name`, which may be at the end of `path` already.
fn whole_path(path: &str, name: &str) -> String {
    match path.strip_suffix(name) {
        _ if path.is_empty() => name.to_owned(),
        Some(before) if before.is_empty() || before.ends_with('.') => path.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

/// The value in the file. Does not repeat a string, because it may be a secret.
fn found_in_words(found: &str) -> Option<String> {
    let (kind, value) = found.split_once([' ', '`']).unwrap_or((found, ""));
    let value = || Some(value.rsplit(['`', ' ']).find(|part| !part.is_empty())?.to_owned());
    match kind {
        "string" => Some("a string".to_owned()),
        "map" => Some("a table".to_owned()),
        "sequence" => Some("a list".to_owned()),
        "integer" | "floating" | "boolean" => value(),
        _ => None,
    }
}

/// The value that the plugin wants: a Rust type, or serde's name for one.
fn wanted_in_words(wanted: &str) -> Option<String> {
    let words = match wanted {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65_535",
        "u32" => "a whole number from 0 to 4_294_967_295",
        "u64" | "u128" | "usize" => "a whole number, 0 or more",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32_768 to 32_767",
        "i32" => "a whole number from -2_147_483_648 to 2_147_483_647",
        "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a string" | "a borrowed string" | "path string" => "a string",
        "a character" => "one character",
        "a sequence" => "a list",
        "a map" | "an object" => "a table",
        other if other.starts_with("a nonzero u") => "a whole number, 1 or more",
        other if other.starts_with("a nonzero i") => "a whole number other than 0",
        other if other.starts_with("struct ") => "a table",
        _ => return None,
    };
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, message: &str, sentence: &str, help: Option<&str>) {
        let complaint = Complaint::new(path, message);
        assert_eq!(
            (complaint.by("it").as_str(), complaint.help.as_deref()),
            (sentence, help)
        );
    }

    #[test]
    fn an_unknown_key_comes_with_the_nearest_known_one() {
        let near = Some("did you mean `history`?");
        check(
            "limits.histroy",
            "unknown field `histroy`, expected `history`",
            "it has no setting `limits.histroy`",
            near,
        );
        check(
            "histroy",
            "unknown field `histroy`, expected one of `name`, `history`, `mode`",
            "it has no setting `histroy`",
            near,
        );
        check(
            "x",
            "unknown field `x`, expected `a` or `b`",
            "it has no setting `x`",
            Some("known: `a` and `b`"),
        );
        check(
            "x",
            "unknown field `x`, there are no fields",
            "it has no setting `x`",
            Some("it takes no settings"),
        );
    }

    #[test]
    fn types_have_the_names_that_a_configuration_uses() {
        let refused = |path: &str, message: &str, what: &str| {
            check(path, message, &format!("it refuses its settings: {what}"), None);
        };
        refused(
            "max",
            "invalid value: integer `-3`, expected usize",
            "`max` must be a whole number, 0 or more, not -3",
        );
        refused(
            "max",
            "invalid type: string \"a, expected b\", expected u8",
            "`max` must be a whole number from 0 to 255, not a string",
        );
        refused(
            "on",
            "invalid type: floating point `1.5`, expected a boolean",
            "`on` must be `true` or `false`, not 1.5",
        );
        refused(
            "a",
            "invalid type: boolean `true`, expected an object",
            "`a` must be a table, not true",
        );
        refused(
            "a",
            "invalid value: integer `0`, expected a nonzero u32",
            "`a` must be a whole number, 1 or more, not 0",
        );
    }

    #[test]
    fn a_setting_whose_name_has_a_unit_comes_with_the_unit() {
        check(
            "talk.pause_ms",
            "invalid type: string \"10s\", expected u64",
            "it refuses its settings: `talk.pause_ms` must be a whole number, 0 or more, not a string",
            Some("write a number of milliseconds, without quotes, such as 10_000"),
        );
    }

    #[test]
    fn a_missing_setting_is_named_by_its_whole_path() {
        let help = Some("add a line `history = …`, or give it a default in the plugin");
        check(
            "limits",
            "missing field `history`",
            "it needs the setting `limits.history`",
            help,
        );
        check("", "missing field `history`", "it needs the setting `history`", help);
    }

    #[test]
    fn an_unknown_word_comes_with_the_nearest_known_one() {
        check(
            "mode",
            "unknown variant `lod`, expected `loud` or `quiet`",
            "it refuses its settings: `mode` cannot be `lod`",
            Some("did you mean \"loud\"?"),
        );
    }

    /// The settings of a plugin, as an author writes them.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Settings {
        limits: Limits,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        rooms: Vec<String>,
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Limits {
        history: usize,
        #[serde(default)]
        pause_ms: u64,
        #[serde(default)]
        level: i8,
        #[serde(default)]
        is_open: bool,
    }

    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Loud,
        Quiet,
    }

    /// What serde really says of such settings, read as the kit reads them.
    #[track_caller]
    fn check_real(settings: &str, sentence: &str, help: Option<&str>) {
        let mut json = serde_json::Deserializer::from_str(settings);
        let Err(error) = serde_path_to_error::deserialize::<_, Settings>(&mut json) else {
            panic!("serde takes {settings}")
        };
        let path = Some(error.path().to_string())
            .filter(|path| path != ".")
            .unwrap_or_default();
        let message = error.into_inner().to_string();
        // The kit leaves out where the JSON has it, which nobody wrote.
        let message = message
            .rsplit_once(" at line ")
            .map_or(&*message, |(message, _)| message);
        check(&path, message, sentence, help);
    }

    #[test]
    fn errors_of_serde_itself_are_translated() {
        let missing = Some("add a line `history = …`, or give it a default in the plugin");
        check_real(r#"{"limits": {}}"#, "it needs the setting `limits.history`", missing);
        let near = Some("did you mean `history`?");
        check_real(
            r#"{"limits": {"histroy": 1}}"#,
            "it has no setting `limits.histroy`",
            near,
        );
        let all = Some("known: `limits`, `mode` and `rooms`");
        check_real(r#"{"x": 1, "limits": {"history": 1}}"#, "it has no setting `x`", all);
        for (value, what) in [
            (
                r#"{"history": -1}"#,
                "`limits.history` must be a whole number, 0 or more, not -1",
            ),
            (
                r#"{"history": "ten"}"#,
                "`limits.history` must be a whole number, 0 or more, not a string",
            ),
            (
                r#"{"history": 1.5}"#,
                "`limits.history` must be a whole number, 0 or more, not 1.5",
            ),
            (
                r#"{"history": 1, "level": 300}"#,
                "`limits.level` must be a whole number from -128 to 127, not 300",
            ),
            (
                r#"{"history": 1, "is_open": "yes"}"#,
                "`limits.is_open` must be `true` or `false`, not a string",
            ),
            ("7", "`limits` must be a table, not 7"),
        ] {
            check_real(
                &format!(r#"{{"limits": {value}}}"#),
                &format!("it refuses its settings: {what}"),
                None,
            );
        }
        check_real(
            r#"{"limits": {"history": 1, "pause_ms": "10s"}}"#,
            "it refuses its settings: `limits.pause_ms` must be a whole number, 0 or more, not a string",
            Some("write a number of milliseconds, without quotes, such as 10_000"),
        );
        check_real(
            r#"{"limits": {"history": 1}, "mode": "lod"}"#,
            "it refuses its settings: `mode` cannot be `lod`",
            Some("did you mean \"loud\"?"),
        );
        check_real(
            r#"{"limits": {"history": 1}, "rooms": [1]}"#,
            "it refuses its settings: `rooms[0]` must be a string, not 1",
            None,
        );
        check_real(
            r#"{"limits": {"history": 1}, "rooms": {}}"#,
            "it refuses its settings: `rooms` must be a list, not a table",
            None,
        );
    }

    #[test]
    fn a_plugins_own_words_stay() {
        check("", "no hub today", "it refuses its settings: no hub today", None);
        check(
            "a",
            "must be even",
            "it refuses its settings at `a`: must be even",
            None,
        );
        let own = "invalid value: string \"x\", expected 3 to 4 characters";
        check("a", own, &format!("it refuses its settings at `a`: {own}"), None);
    }
}
