//! `bennu schema`: prints the JSON schema of `bennu.toml`, or of a plugin's settings.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::terminal::say;
use crate::config::schema;
use crate::plugin::manifest::Manifest;
use crate::plugin::probe::{self, ProbeLimits};
use crate::plugin::stage::{StagedFile, read_settled};

pub(super) const HELP: &str = "\
Examples:
  bennu schema > config/bennu.schema.json
  bennu schema --plugin target/debug/libroom.so

An editor that knows TOML schemas then completes and explains the settings of a file that begins with
  #:schema ./bennu.schema.json";

/// `bennu schema`
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// The schema of what this plugin takes under `settings`, instead
    #[arg(long, value_name = "LIBRARY")]
    pub plugin: Option<PathBuf>,
}

/// Prints it.
///
/// # Errors
///
/// If the library cannot be loaded, or declares no schema.
pub fn run(args: &SchemaArgs) -> anyhow::Result<()> {
    let schema = match &args.plugin {
        None => schema(),
        Some(library) => of_plugin(library)?,
    };
    say(&format!("{schema:#}"));
    Ok(())
}

/// Has a child load the library, and asks it.
fn of_plugin(library: &Path) -> anyhow::Result<serde_json::Value> {
    let contents = read_settled(library, || ())?;
    let manifest =
        Manifest::of_library(&contents.bytes).with_context(|| format!("{} is refused", library.display()))?;
    let folder = tempfile::tempdir().context("no folder for a copy of the library")?;
    let staged = StagedFile::write(folder.path(), &manifest.name, 0, &contents)?;
    let json = probe::schema(Path::new("/proc/self/exe"), staged.path(), &ProbeLimits::default())
        .with_context(|| format!("{} is refused", library.display()))?;
    let name = manifest.name;
    let json = json.with_context(|| {
        format!("{name} declares no schema: that takes the feature `schema` of bennu-plugin, and a `JsonSchema` of its settings")
    })?;
    serde_json::from_str(&json).with_context(|| format!("what {name} gives as a schema is no JSON"))
}
