//! What the reader has asked for: the keys of each table, and the values that each key takes.
//!
//! The JSON schema and the list of known keys both come from here, so neither can differ from what the reader takes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Map, Value, json};

/// Descriptions of settings by path: `mounts.longpoll.window_ms`, `plugins.*.shards`.
pub(super) type Comments = BTreeMap<String, String>;

/// The values that a key takes.
#[derive(Debug)]
pub(super) enum Shape {
    /// Any value: the reader asked for the key and did not say as what.
    Any,
    /// The values that this schema takes.
    Value(Value),
    /// A table.
    Table(Fields),
    /// A list of tables.
    Tables(Fields),
    /// A table of tables with any names.
    Named(Fields),
    /// A table, or a value that one of these schemas takes.
    Either(Vec<Value>, Fields),
}

/// The keys of a table. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Rc<RefCell<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    shapes: BTreeMap<&'static str, Shape>,
    required: BTreeSet<&'static str>,
}

impl Fields {
    /// Notes that the reader asked for a key.
    pub(super) fn ask(&self, key: &'static str) {
        self.0.borrow_mut().shapes.entry(key).or_insert(Shape::Any);
    }

    /// Notes the values that a key takes.
    pub(super) fn note(&self, key: &'static str, shape: Shape) {
        self.0.borrow_mut().shapes.insert(key, shape);
    }

    /// Notes that a key is required.
    pub(super) fn require(&self, key: &'static str) {
        self.0.borrow_mut().required.insert(key);
    }

    /// All keys that the reader asked for.
    pub(super) fn keys(&self) -> Vec<&'static str> {
        self.0.borrow().shapes.keys().copied().collect()
    }

    /// The JSON schema of a table with these keys. `path` is empty for the whole file.
    pub(super) fn schema(&self, path: &str, comments: &Comments) -> Value {
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
