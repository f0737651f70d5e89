//! The libraries to check a configuration with.
//!
//! Never here: a build. A library that `bennu dev` would build first is checked if it is newer than its sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::cargo::{CargoError, Processes, Workspace, folder_of, listed};
use crate::config::{Config, Diagnostic, nearest};

/// The libraries to check, and what is wrong where there is none.
#[derive(Default)]
pub(in crate::cli) struct Libraries {
    /// By plugin.
    pub(in crate::cli) files: BTreeMap<String, PathBuf>,
    pub(super) mistakes: Vec<Diagnostic>,
    /// Plugins that are not built since their last change.
    pub(super) unbuilt: Vec<String>,
}

impl Libraries {
    /// The libraries that the configuration names, which `bennu serve` loads.
    pub(in crate::cli) fn named(config: &Config) -> Self {
        let named = |(name, plugin): (&String, &crate::config::Plugin)| Some((name.clone(), plugin.library.clone()?));
        Self {
            files: config.plugins.iter().filter_map(named).collect(),
            ..Self::default()
        }
    }

    /// The libraries that `bennu dev` has built from the workspace, or would load for plugins that it cannot build.
    pub(in crate::cli) fn of_workspace(config: &Config) -> Self {
        let folder = folder_of(&config.file).unwrap_or_else(|_| PathBuf::from("/"));
        let workspace = match Workspace::find(&folder, &Processes::default(), |_| ()) {
            Ok(workspace) => workspace,
            Err(error) => {
                return Self {
                    mistakes: vec![unreadable(config, &error)],
                    ..Self::default()
                };
            }
        };
        let mut found = Self::default();
        for (name, plugin) in &config.plugins {
            match (&plugin.library, workspace.library_place(name)) {
                (Some(library), _) if !workspace.has(name) && library.exists() => {
                    found.files.insert(name.clone(), library.clone());
                }
                (_, None) => found.mistakes.push(missing(config, &workspace, name)),
                (_, Some(library)) if is_up_to_date(&library) => drop(found.files.insert(name.clone(), library)),
                _ => found.unbuilt.push(name.clone()),
            }
        }
        found
    }
}

fn unreadable(config: &Config, error: &CargoError) -> Diagnostic {
    let why = error.to_string();
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    let mistake = config.error(&format!("`bennu dev` has no workspace to build: {why}"));
    match error.is_no_workspace() {
        true => mistake.help("make one with `bennu new NAME`, in a folder outside of any workspace"),
        false => mistake,
    }
}

fn missing(config: &Config, workspace: &Workspace, plugin: &str) -> Diagnostic {
    if workspace.has(plugin) {
        return config.plugin_error(plugin, &CargoError::NoLibrary(plugin.to_owned()).to_string());
    }
    let near = nearest(plugin, &workspace.plugins()).map(|near| format!("did you mean `{near}`? If not, "));
    config
        .plugin_error(plugin, &format!("no package of this workspace is called `{plugin}`"))
        .help(format!("{}`bennu new {plugin}` makes it", near.unwrap_or_default()))
}

/// Whether a library is newer than all files it was built from. Cargo lists them in a file beside it.
fn is_up_to_date(library: &Path) -> bool {
    let saved = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).ok();
    let (Some(built), Ok(list)) = (saved(library), fs::read_to_string(library.with_extension("d"))) else {
        return false;
    };
    listed(&list)
        .into_iter()
        .all(|source| saved(&source).is_some_and(|saved: SystemTime| saved <= built))
}
