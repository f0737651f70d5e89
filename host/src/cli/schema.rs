//! `bennu schema`: prints the JSON schema of `bennu.toml`, or of a plugin's settings.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::args::named_or_found;
use super::check::Libraries;
use super::read_config;
use super::terminal::say;
use crate::config::{Mode, ProbeLimits, nearest, schema};
use crate::runtime::plugin::manifest::Manifest;
use crate::runtime::plugin::probe;
use crate::runtime::plugin::stage::{StagedFile, read_settled};

pub(super) const HELP: &str = "\
Examples:
  bennu schema > config/bennu.schema.json
  bennu schema --plugin room                        as it was built last
  bennu schema --plugin target/debug/libroom.so

Editors that support TOML schemas complete and explain the settings of a file
that begins with
  #:schema ./bennu.schema.json";

/// `bennu schema`
#[derive(Args, Debug)]
pub(crate) struct SchemaArgs {
    /// Prints the schema of a plugin's `settings` instead: a name in the configuration, or a library
    #[arg(long, value_name = "NAME|LIBRARY")]
    pub(crate) plugin: Option<String>,
    /// The configuration that names the plugin [default: config/bennu.toml, here or in a folder above]
    #[arg(long, value_name = "FILE", requires = "plugin")]
    pub(crate) config: Option<PathBuf>,
}

/// Prints the schema.
///
/// # Errors
///
/// If the library cannot be loaded, or declares no schema.
pub(crate) fn run(args: &SchemaArgs) -> anyhow::Result<()> {
    let schema = match &args.plugin {
        None => schema(),
        Some(plugin) if is_name(plugin) => of_plugin(&built(plugin, args.config.as_deref())?)?,
        Some(library) => of_plugin(Path::new(library))?,
    };
    say(&format!("{schema:#}"));
    Ok(())
}

fn is_name(plugin: &str) -> bool {
    !plugin.contains(['/', '.']) && !Path::new(plugin).exists()
}

/// The library of a plugin in the configuration: the one that `dev` has built, or else the one that `serve` would load.
fn built(plugin: &str, config: Option<&Path>) -> anyhow::Result<PathBuf> {
    let config = read_config(&named_or_found(config)?, Mode::Dev)?;
    if !config.plugins.contains_key(plugin) {
        let known: Vec<_> = config.plugins.keys().map(String::as_str).collect();
        let near = nearest(plugin, &known).map(|near| format!(": did you mean `{near}`?"));
        anyhow::bail!(
            "{} has no plugin `{plugin}`{}",
            config.file.display(),
            near.unwrap_or_default()
        );
    }
    let of = |libraries: Libraries| libraries.files.get(plugin).filter(|file| file.exists()).cloned();
    of(Libraries::of_workspace(&config))
        .or_else(|| of(Libraries::named(&config)))
        .with_context(|| format!("`{plugin}` is not built since its last change: `cargo build -p {plugin}` builds it"))
}

/// Has a child process load the library, and asks it for the schema.
fn of_plugin(library: &Path) -> anyhow::Result<serde_json::Value> {
    let contents = read_settled(library, || ())?;
    let manifest =
        Manifest::of_library(&contents.bytes).with_context(|| format!("{} is rejected", library.display()))?;
    let folder = tempfile::tempdir().context("cannot make a folder for a copy of the library")?;
    let staged = StagedFile::write(folder.path(), &manifest.name, 0, &contents)?;
    let json = probe::schema(Path::new("/proc/self/exe"), staged.path(), &ProbeLimits::default())
        .with_context(|| format!("{} is rejected", library.display()))?;
    let name = manifest.name;
    let json = json.with_context(|| {
        format!("{name} declares no schema: enable the feature `schema` of bennu-plugin, and derive `JsonSchema` for its settings")
    })?;
    serde_json::from_str(&json).with_context(|| format!("the schema of {name} is not JSON"))
}
