//! Reads values of the right type out of a TOML table, and collects every mistake on the way.
//!
//! A getter never fails: it notes the mistake and continues with the default, so that one run finds all mistakes.
//! [`Section::finish`] reports each key that no getter asked for as unknown.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::amount::{self, grouped};
use super::diagnostic::Span;
use super::json as values;
use super::mistakes::Mistakes;
use super::sensitive::letters;
use super::shape::{Fields, Shape};
use super::words::suggestion;

/// A table that is being read.
pub(super) struct Section<'t> {
    /// `[server]`, for messages.
    pub(super) name: String,
    /// Its header, or the place to report if it is missing.
    pub(super) at: Span,
    pub(super) mistakes: &'t Mistakes,
    /// `None`: the table is missing, and everything has its default.
    table: Option<&'t DeTable<'t>>,
    /// The keys that were asked for, and the values that they take.
    pub(super) fields: Fields,
}

impl<'t> Section<'t> {
    pub(super) fn new(
        name: impl Into<String>,
        at: Span,
        table: Option<&'t DeTable<'t>>,
        mistakes: &'t Mistakes,
    ) -> Self {
        Self {
            name: name.into(),
            at,
            mistakes,
            table,
            fields: Fields::default(),
        }
    }

    /// Whether the configuration has this table.
    pub(super) fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// The value as written. Every other getter calls this one first.
    pub(super) fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.fields.ask(key);
        self.table?.get(key)
    }

    /// Notes the JSON schema of a key.
    pub(super) fn note(&self, key: &'static str, schema: Value) {
        self.fields.note(key, Shape::Value(schema));
    }

    pub(super) fn text(&self, key: &'static str) -> Option<Spanned<String>> {
        self.note(key, json!({ "type": "string" }));
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.mistype(key, value, "a string");
        }
        text.map(|text| Spanned::new(value.span(), text.to_owned()))
    }

    /// A required string.
    pub(super) fn required_text(&self, key: &'static str, example: &str) -> Option<Spanned<String>> {
        self.fields.require(key);
        if self.table.is_some_and(|table| !table.contains_key(key)) {
            let missing = self
                .mistakes
                .error(self.at.clone(), format!("{} has no `{key}`", self.name));
            self.mistakes
                .add(missing.help(format!("add a line such as `{key} = {example}`")));
        }
        self.text(key)
    }

    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        self.note(key, json!({ "type": "boolean", "default": default }));
        let Some(value) = self.value(key) else {
            return default;
        };
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.mistype(key, value, "`true` or `false`");
        }
        flag.unwrap_or(default)
    }

    pub(super) fn number(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.note(
            key,
            json!({ "type": "integer", "minimum": range.start(), "maximum": range.end(), "default": default }),
        );
        let Some(value) = self.value(key) else {
            return default;
        };
        let DeValue::Integer(_) = value.get_ref() else {
            self.mistype(key, value, "a whole number");
            return default;
        };
        let number = values::integer(value.get_ref()).and_then(|number| u64::try_from(number).ok());
        number.filter(|number| range.contains(number)).unwrap_or_else(|| {
            let message = format!(
                "`{key}` must be from {} to {}",
                grouped(*range.start()),
                grouped(*range.end())
            );
            self.mistakes.add(
                self.mistakes
                    .error(value.span(), message)
                    .help(format!("the default is {}", grouped(default))),
            );
            default
        })
    }

    pub(super) fn count(&self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let number = self.number(key, default as u64, *range.start() as u64..=*range.end() as u64);
        usize::try_from(number).unwrap_or(default)
    }

    /// A number of milliseconds. The key ends in `_ms`.
    pub(super) fn millis(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(key, default, range))
    }

    /// A number of threads, or `"auto"`.
    pub(super) fn threads(&self, key: &'static str, auto: NonZeroUsize, most: usize) -> NonZeroUsize {
        let threads = match self.value(key).map(|value| (value, value.get_ref())) {
            Some((_, DeValue::String(text))) if text == "auto" => auto,
            Some((value, DeValue::String(_))) => {
                self.mistype(key, value, "a whole number or \"auto\"");
                auto
            }
            _ => NonZeroUsize::new(self.count(key, auto.get().min(most), 1..=most)).unwrap_or(auto),
        };
        let number = json!({ "type": "integer", "minimum": 1, "maximum": most });
        self.note(
            key,
            json!({ "anyOf": [{ "const": "auto" }, number], "default": "auto" }),
        );
        threads
    }

    /// One of several words.
    pub(super) fn choice<T: Copy + PartialEq>(&self, key: &'static str, choices: &[(&str, T)], default: T) -> T {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let default_word = { choices.iter() }
            .find(|(_, choice)| *choice == default)
            .map(|(word, _)| *word);
        let text = self.text(key);
        self.note(
            key,
            match default_word {
                Some(word) => json!({ "enum": words, "default": word }),
                None => json!({ "enum": words }),
            },
        );
        let Some(text) = text else {
            return default;
        };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| word == text.get_ref()) {
            return *choice;
        }
        let message = format!("`{key}` cannot be `{}`", text.get_ref());
        self.mistakes.add(
            self.mistakes
                .error(text.span(), message)
                .help(suggestion(text.get_ref(), &words)),
        );
        default
    }

    /// An address and a port, such as `127.0.0.1:4000`.
    pub(super) fn address(&self, key: &'static str) -> Option<SocketAddr> {
        let text = self.text(key)?;
        let address = text.get_ref().parse().ok();
        if address.is_none() {
            let message = format!("`{}` is not an address with a port", text.get_ref());
            let help = "write an IP address and a port, such as \"127.0.0.1:4000\", \"0.0.0.0:4000\" or \"[::1]:4000\"";
            self.mistakes.add(self.mistakes.error(text.span(), message).help(help));
        }
        address
    }

    /// A list of strings; `None` if it is missing.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Spanned<String>>> {
        self.note(key, json!({ "type": "array", "items": { "type": "string" } }));
        let value = self.value(key)?;
        let Some(list) = value.get_ref().as_array() else {
            self.mistype(key, value, "a list of strings");
            return None;
        };
        Some(self.texts_of(key, list))
    }

    /// The strings of a list. Notes each item that is not a string.
    pub(super) fn texts_of(&self, key: &str, list: &DeArray<'_>) -> Vec<Spanned<String>> {
        let text = |item: &Spanned<DeValue<'_>>| {
            if item.get_ref().as_str().is_none() {
                self.mistype_in(format!("every item of `{key}`"), item, "a string");
            }
            item.get_ref()
                .as_str()
                .map(|text| Spanned::new(item.span(), text.to_owned()))
        };
        list.iter().filter_map(text).collect()
    }

    /// A table, as JSON text.
    pub(super) fn json(&self, key: &'static str) -> Option<Arc<str>> {
        self.note(key, json!({ "type": "object" }));
        let value = self.value(key)?;
        if !value.get_ref().is_table() {
            self.mistype(key, value, "a table");
            return None;
        }
        Some(values::object(value, self.mistakes).to_string().into())
    }

    /// A table inside this one.
    pub(super) fn section(&self, key: &'static str) -> Section<'t> {
        let value = self.value(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            self.mistype(key, value, "a table");
        }
        let section = Section::new(
            format!("`[{key}]`"),
            value.map_or(self.at.clone(), Spanned::span),
            table,
            self.mistakes,
        );
        self.fields.note(key, Shape::Table(section.fields.clone()));
        section
    }

    /// The tables `[[key]]`, in file order.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'t>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(list) = value.get_ref().as_array() else {
            self.mistype(key, value, &format!("a list of tables: `[[{key}]]`"));
            return Vec::new();
        };
        let section = |item: &'t Spanned<DeValue<'t>>| {
            if !item.get_ref().is_table() {
                self.mistype_in(format!("every item of `{key}`"), item, "a table");
            }
            item.get_ref()
                .as_table()
                .map(|table| Section::new(format!("`[[{key}]]`"), item.span(), Some(table), self.mistakes))
        };
        let sections: Vec<Section<'t>> = list.iter().filter_map(section).collect();
        if let Some(any) = sections.first() {
            self.fields.note(key, Shape::Tables(any.fields.clone()));
        }
        sections
    }

    /// The tables `[key.NAME]` with their names.
    pub(super) fn named_sections(&self, key: &'static str) -> Vec<(Spanned<String>, Section<'t>)> {
        let parent = self.section(key);
        let entries = parent.table.into_iter().flat_map(DeTable::iter);
        let section = |(name, value): (&Spanned<std::borrow::Cow<'t, str>>, &'t Spanned<DeValue<'t>>)| {
            let title = format!("`[{key}.{name}]`");
            if !value.get_ref().is_table() {
                self.mistype_in(title.clone(), value, "a table");
            }
            let table = value.get_ref().as_table()?;
            Some((
                Spanned::new(name.span(), name.get_ref().to_string()),
                Section::new(title, value.span(), Some(table), self.mistakes),
            ))
        };
        let sections: Vec<(_, Section<'t>)> = entries.filter_map(section).collect();
        if let Some((_, any)) = sections.first() {
            self.fields.note(key, Shape::Named(any.fields.clone()));
        }
        sections
    }

    /// Notes every key that no getter asked for.
    pub(super) fn finish(self) {
        let asked = self.fields.keys();
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            // `find_secrets` reports a misplaced secret with a better explanation.
            if !asked.contains(&name) && !is_secret_key_base(name) {
                let unknown = self
                    .mistakes
                    .error(key.span(), format!("{} has no setting `{name}`", self.name));
                self.mistakes.add(unknown.help(suggestion(name, &asked)));
            }
        }
    }

    fn mistype(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let written = { value.get_ref().as_str() }.filter(|_| expected.starts_with("a whole number"));
        let help = written.and_then(|written| amount::help(key, Some(written)));
        self.add_mistype(format!("`{key}`"), value, expected, help);
    }

    fn mistype_in(&self, what: String, value: &Spanned<DeValue<'_>>, expected: &str) {
        self.add_mistype(what, value, expected, None);
    }

    fn add_mistype(&self, what: String, value: &Spanned<DeValue<'_>>, expected: &str, help: Option<String>) {
        let message = format!("{what} must be {expected}, not {}", described(value.get_ref()));
        self.mistakes
            .add(self.mistakes.error(value.span(), message).maybe_help(help));
    }
}

/// Whether a key is `secret_key_base` or a misspelling of it.
pub(super) fn is_secret_key_base(key: &str) -> bool {
    strsim::damerau_levenshtein(&letters(key), "secretkeybase") <= 2
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
