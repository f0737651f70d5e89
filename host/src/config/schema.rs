//! The JSON schema of `bennu.toml`, for editors.
//!
//! It is not written but noted: the reader is run over a configuration that has every section, and what it asks for is
//! what there is. The descriptions are the comments of `config/bennu.toml`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use toml::de::DeTable;

use super::diagnostic::Source;
use super::reader::{Mistakes, Section};
use super::{Mode, read_whole};

/// A configuration with every section that there is, so that all of them are read.
const EVERYTHING: &str = r#"
[[mounts]]
path = "/socket"
dialect = "0.11"
check_origin = { plugin = "p" }
longpoll = {}

[plugins.p]
library = "libp.so"

[[routes]]
topic = "*"
plugin = "p"
"#;

/// Where the descriptions come from.
const COMMENTED: &str = include_str!("../../../config/bennu.toml");

/// What may stand under a key.
#[derive(Debug)]
pub(super) enum Shape {
    /// Somebody has asked for it, and not said as what.
    Any,
    /// What this schema says.
    Value(Value),
    /// A table.
    Table(Fields),
    /// A list of tables.
    Tables(Fields),
    /// A table of tables, by any names.
    Named(Fields),
    /// What one of these schemas says, or a table.
    Either(Vec<Value>, Fields),
}

/// What a table may hold. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Rc<RefCell<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    shapes: BTreeMap<&'static str, Shape>,
    required: BTreeSet<&'static str>,
}

impl Fields {
    /// Notes that a key has been asked for.
    pub(super) fn ask(&self, key: &'static str) {
        self.0.borrow_mut().shapes.entry(key).or_insert(Shape::Any);
    }

    /// Notes what may stand under a key.
    pub(super) fn note(&self, key: &'static str, shape: Shape) {
        self.0.borrow_mut().shapes.insert(key, shape);
    }

    /// Notes that a key must be there.
    pub(super) fn require(&self, key: &'static str) {
        self.0.borrow_mut().required.insert(key);
    }

    /// All keys that were asked for.
    pub(super) fn keys(&self) -> Vec<&'static str> {
        self.0.borrow().shapes.keys().copied().collect()
    }

    fn schema(&self, path: &str, comments: &Comments) -> Value {
        let Noted { shapes, required } = &*self.0.borrow();
        let property = |(key, shape): (&&'static str, &Shape)| {
            let path = if path.is_empty() {
                (*key).to_owned()
            } else {
                format!("{path}.{key}")
            };
            let mut schema = shape.schema(&path, comments);
            if let (Some(comment), Some(schema)) = (comments.get(&path), schema.as_object_mut()) {
                schema.insert("description".to_owned(), comment.clone().into());
            }
            ((*key).to_owned(), schema)
        };
        let properties: Map<_, _> = shapes.iter().map(property).collect();
        json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
    }
}

impl Shape {
    fn schema(&self, path: &str, comments: &Comments) -> Value {
        match self {
            Self::Any => json!({}),
            Self::Value(schema) => schema.clone(),
            Self::Table(fields) => fields.schema(path, comments),
            Self::Tables(fields) => json!({ "type": "array", "items": fields.schema(path, comments) }),
            Self::Named(fields) => {
                let table = fields.schema(&format!("{path}.*"), comments);
                json!({ "type": "object", "propertyNames": { "pattern": "^[a-z][a-z0-9_-]*$" }, "additionalProperties": table })
            }
            Self::Either(schemas, fields) => {
                let mut all = schemas.clone();
                all.push(fields.schema(path, comments));
                json!({ "anyOf": all })
            }
        }
    }
}

/// The schema, in draft 7, which editors know best.
#[must_use]
pub(crate) fn schema() -> Value {
    let source = Arc::new(Source::new(Path::new("bennu.toml"), EVERYTHING));
    let (root, _) = DeTable::parse_recoverable(EVERYTHING);
    let mistakes = Mistakes::new(&source);
    let top = Section::new("the configuration", source.start(), Some(root.get_ref()), &mistakes);
    let fields = top.fields.clone();
    read_whole(Path::new("bennu.toml"), Mode::Serve, top, &source, &mistakes);
    let mut schema = fields.schema("", &comments(COMMENTED));
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
        schema.insert("title".to_owned(), "bennu.toml".into());
    }
    schema
}

/// What is said of each setting, by its path: `mounts.longpoll.window_ms`; `plugins.*.shards`.
type Comments = BTreeMap<String, String>;

/// Takes the comment above each setting and each table. A setting that is commented out has one too; of settings that
/// stand together, all have the one above the first.
fn comments(text: &str) -> Comments {
    let mut found = Comments::new();
    let (mut table, mut comment, mut is_used) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        let uncommented = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_matches(|c| c == '[' || c == ']');
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
