//! The JSON schema of a plugin's settings. Their type has one with the feature `schema` and `#[derive(JsonSchema)]`.
//!
//! The macro that exports a plugin calls `json` on [`Of`] its settings. The compiler picks one of the two traits below:
//! [`Described`] if the type implements it, because that needs one reference less.

use std::marker::PhantomData;

/// The schema of a plugin's settings.
pub trait Schema: 'static {
    /// The schema as JSON, in draft 7, or `None` if the settings have none.
    fn json() -> Option<String>;
}

/// No schema.
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
    /// The value to call `json` on.
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
        // Inlined, so that editors understand each part wherever the schema is put.
        let settings = schemars::generate::SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
        serde_json::to_string(&settings.into_generator().into_root_schema_for::<T>()).ok()
    }
}

/// Settings that have none.
pub trait Undescribed {
    /// `None`.
    fn json(&self) -> Option<String>;
}

impl<T> Undescribed for &Of<T> {
    fn json(&self) -> Option<String> {
        None
    }
}
