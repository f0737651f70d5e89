//! Takes out of params what must not stand in a log.

use serde_json::Value;

/// What no log shows, whatever the configuration says.
const ALWAYS: [&str; 2] = ["password", "token"];

/// What stands there instead.
const FILTERED: &str = "[FILTERED]";

/// The params, each value replaced whose name has `password`, `token` or one of `words` in it, in any case and at any depth.
pub(super) fn filtered(params: &str, words: &[String]) -> String {
    let Ok(mut params) = serde_json::from_str(params) else {
        return FILTERED.to_owned();
    };
    let words: Vec<String> = ALWAYS
        .into_iter()
        .map(str::to_owned)
        .chain(words.iter().map(|word| word.to_lowercase()))
        .collect();
    filter(&mut params, &words);
    params.to_string()
}

fn filter(value: &mut Value, words: &[String]) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = name.to_lowercase();
                if words.iter().any(|word| name.contains(word)) {
                    *value = FILTERED.into();
                } else {
                    filter(value, words);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| filter(value, words)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::endpoint::params::Params;

    #[track_caller]
    fn check(query: &str, words: &[&str], expected: &str) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(
            filtered(&Params::parse(query).unwrap().json, &words),
            expected,
            "{query}"
        );
    }

    #[test]
    fn secrets_are_filtered_by_a_part_of_their_name() {
        check("", &[], "{}");
        check("user=ada&vsn=2.0.0", &[], r#"{"user":"ada","vsn":"2.0.0"}"#);
        check("password=a", &[], r#"{"password":"[FILTERED]"}"#);
        check(
            "current_password=a&csrf_token=b",
            &[],
            r#"{"csrf_token":"[FILTERED]","current_password":"[FILTERED]"}"#,
        );
        check(
            "Token=a&authTOKEN=b&tokens[]=c",
            &[],
            r#"{"Token":"[FILTERED]","authTOKEN":"[FILTERED]","tokens":"[FILTERED]"}"#,
        );
    }

    #[test]
    fn secrets_are_filtered_at_any_depth() {
        check(
            "user[password]=a&user[name]=b",
            &[],
            r#"{"user":{"name":"b","password":"[FILTERED]"}}"#,
        );
        check("list[][token]=a", &[], r#"{"list":[{"token":"[FILTERED]"}]}"#);
        check("password[deep][er]=a", &[], r#"{"password":"[FILTERED]"}"#);
    }

    #[test]
    fn the_configuration_adds_to_what_is_filtered() {
        check(
            "api_key=a&token=b&n=1",
            &["KEY"],
            r#"{"api_key":"[FILTERED]","n":"1","token":"[FILTERED]"}"#,
        );
    }
}
