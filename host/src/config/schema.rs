//! The JSON schema of `bennu.toml`, for editors.
//!
//! Nobody writes it by hand: the reader runs over a configuration that has every section and notes what it asks for. The
//! descriptions are the comments of `config/bennu.toml`.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use toml::de::DeTable;

use super::around::Surroundings;
use super::diagnostic::Source;
use super::mistakes::Mistakes;
use super::model::Mode;
use super::reader::Section;
use super::shape::Comments;
use super::whole::read_whole;

/// A configuration with every section, so that the reader reads all of them.
const EVERYTHING: &str = r#"
[[mounts]]
path = "/socket"
dialect = "0.11"
check_origin = { plugin = "p" }
longpoll = {}
auth = { jwt = {}, phoenix_token = {} }

[plugins.p]
library = "libp.so"

[[routes]]
topic = "*"
plugin = "p"

[[listeners]]
listen = "127.0.0.1:1"

[[tls.certificates]]
cert_file = "a"
key_file = "b"

[[api.keys]]
name = "a"
allow = ["read"]
topics = ["a"]
"#;

/// The source of the descriptions.
const COMMENTED: &str = include_str!("../../../config/bennu.toml");

/// The schema, in draft 7, which most editors support.
#[must_use]
pub(crate) fn schema() -> Value {
    let source = Arc::new(Source::new(Path::new("bennu.toml"), EVERYTHING));
    let (root, _) = DeTable::parse_recoverable(EVERYTHING);
    let mistakes = Mistakes::new(&source);
    let top = Section::new("the configuration", source.start(), Some(root.get_ref()), &mistakes);
    let fields = top.fields.clone();
    let around = Surroundings {
        mode: Mode::Serve,
        folder: Path::new("/"),
    };
    read_whole(Path::new("bennu.toml"), &around, top, &source, &mistakes);
    let mut schema = fields.schema("", &comments(COMMENTED));
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
        schema.insert("title".to_owned(), "bennu.toml".into());
    }
    schema
}

/// Takes the comment above each setting and each table. A setting that is commented out counts, too. Settings on adjacent lines
/// share the comment above the first.
fn comments(text: &str) -> Comments {
    let mut found = Comments::new();
    let (mut table, mut comment, mut is_used) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        let uncommented = line.strip_prefix("# ").unwrap_or(line);
        // A table that is commented out counts, too.
        if let Some(name) = header(line).or_else(|| header(uncommented)) {
            table = if name.starts_with("plugins.") {
                "plugins.*".to_owned()
            } else {
                name.to_owned()
            };
            describe(&mut found, table.clone(), &comment);
            comment.clear();
        } else if let Some(key) = key(uncommented) {
            describe(&mut found, format!("{table}.{key}"), &comment);
            is_used = true;
        } else if line.starts_with('#') && !line.starts_with("# ──") {
            if std::mem::take(&mut is_used) {
                comment.clear();
            }
            comment.push(uncommented);
        } else {
            comment.clear();
        }
    }
    found
}

/// The name in a line such as `[name]` or `[[name]]`.
fn header(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let name = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        .then_some(name)
}

fn describe(found: &mut Comments, path: String, comment: &[&str]) {
    if !comment.is_empty() {
        found.entry(path).or_insert_with(|| comment.join("\n"));
    }
}

/// The key of a line such as `key = value`.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_belongs_to_what_stands_below_it() {
        let text = "# of the file\n\n# ── Part ──\n\n# a table\n[a]\n# one\n# and more\nx = 1\ny = 2\n# two\n# z = 3\n\nw = 4\n";
        let found: Vec<_> = comments(text).into_iter().collect();
        let expected = [
            ("a", "a table"),
            ("a.x", "one\nand more"),
            ("a.y", "one\nand more"),
            ("a.z", "two"),
        ];
        assert_eq!(
            found,
            expected.map(|(path, comment)| (path.to_owned(), comment.to_owned()))
        );
    }
}
