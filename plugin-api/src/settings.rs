//! The JSON schema of a plugin's settings, where their type has one: with the feature `schema`, by `#[derive(JsonSchema)]`.
//!
//! The macro that exports a plugin asks [`Of`] its settings. Which of the two traits below answers is decided by the compiler:
//! [`Described`] where it can, as that takes a reference less.

use std::marker::PhantomData;

/// What knows the schema of a plugin's settings.
pub trait Schema: 'static {
    /// The schema as JSON, in draft 7; `None` if there is none.
    fn json() -> Option<String>;
}

/// Knows none.
#[derive(Debug)]
pub struct NoSchema;

impl Schema for NoSchema {
    fn json() -> Option<String> {
        None
    }
}

/// Stands for settings of type `T`.
#[derive(Debug)]
pub struct Of<T>(PhantomData<fn() -> T>);

impl<T> Of<T> {
    /// It.
    pub const IT: Self = Self(PhantomData);
}

/// Settings that have a schema.
pub trait Described {
    /// The schema as JSON.
    fn json(&self) -> Option<String>;
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> Described for Of<T> {
    fn json(&self) -> Option<String> {
        // What is used several times is written several times: editors then find it wherever the schema is put.
        let settings = schemars::generate::SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
        serde_json::to_string(&settings.into_generator().into_root_schema_for::<T>()).ok()
    }
}

/// Settings that have none.
pub trait Undescribed {
    /// None.
    fn json(&self) -> Option<String>;
}

impl<T> Undescribed for &Of<T> {
    fn json(&self) -> Option<String> {
        None
    }
}
