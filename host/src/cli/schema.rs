//! `bennu schema`: prints the JSON schema of `bennu.toml`.

use super::terminal::say;
use crate::config::schema;

pub(super) const HELP: &str = "\
Examples:
  bennu schema > config/bennu.schema.json

An editor that knows TOML schemas then completes and explains the settings of a file that begins with
  #:schema ./bennu.schema.json";

/// Prints it.
pub fn run() {
    say(&format!("{:#}", schema()));
}
