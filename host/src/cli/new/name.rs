//! What a plugin may be called.

/// Names that cargo or the compiler use for something else.
const TAKEN: [&str; 13] = [
    "alloc",
    "bennu",
    "bennu-plugin",
    "core",
    "deps",
    "examples",
    "incremental",
    "proc-macro",
    "proc_macro",
    "serde",
    "serde_json",
    "std",
    "test",
];

/// Keywords, which cannot be names of crates.
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// The name of a new plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PluginName(String);

impl PluginName {
    /// Parses a name. An error says what is wrong, and suggests a name.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(plain) {
            let rule =
                "it is also the name of a folder and a crate: small letters, digits, `_` and `-`, a letter first";
            return Err(match tidied(text) {
                Some(tidy) => format!("{rule}; `{tidy}` would do"),
                None => rule.to_owned(),
            });
        }
        if KEYWORDS.contains(&text) || TAKEN.contains(&text) {
            return Err(format!(
                "cargo or the compiler uses this name for something else; `{text}-channel` would do"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Fills this name into a template.
    pub(super) fn fill(&self, template: &str) -> String {
        template
            .replace("LIBRARY", &self.0.replace('-', "_"))
            .replace("NAME", &self.0)
    }
}

/// The nearest valid name.
fn tidied(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect();
    let tidy = words.join("-");
    let tidy = tidy.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    if tidy.is_empty() {
        return None;
    }
    PluginName::parse(tidy).ok().map(|name| name.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_a_bad_name_a_good_one_is_suggested() {
        for (bad, good) in [
            ("Chat Room", "chat-room"),
            ("2fast", "fast"),
            ("a.b", "a-b"),
            ("test", "test-channel"),
            ("fn", "fn-channel"),
        ] {
            let refused = PluginName::parse(bad).expect_err(bad);
            assert!(refused.ends_with(&format!("`{good}` would do")), "{bad}: {refused}");
            PluginName::parse(good).expect(good);
        }
        assert!(!PluginName::parse("…").expect_err("no name").contains("would do"));
    }
}
