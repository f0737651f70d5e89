//! The libraries that a configuration is checked with.
//!
//! Never here: a build. What `bennu dev` would build first is looked at if it was built since its source was saved last.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::cargo::{CargoError, Workspace};
use crate::config::{Config, Diagnostic, nearest};

/// What there is to check, and what is to be said where there is nothing.
#[derive(Default)]
pub(in crate::cli) struct Libraries {
    /// By plugin.
    pub(in crate::cli) files: BTreeMap<String, PathBuf>,
    pub(super) mistakes: Vec<Diagnostic>,
    /// The plugins that are checked when they are built, not now.
    pub(super) unbuilt: Vec<String>,
}

impl Libraries {
    /// Those that the configuration names: what `bennu serve` loads.
    pub(in crate::cli) fn named(config: &Config) -> Self {
        let named = |(name, plugin): (&String, &crate::config::Plugin)| Some((name.clone(), plugin.library.clone()?));
        Self {
            files: config.plugins.iter().filter_map(named).collect(),
            ..Self::default()
        }
    }

    /// Those that `bennu dev` has built from the workspace, or would load in place of what it cannot build.
    pub(in crate::cli) fn of_workspace(config: &Config) -> Self {
        let file = config.file.canonicalize().unwrap_or_else(|_| config.file.clone());
        let workspace = match Workspace::find(file.parent().unwrap_or(Path::new("/"))) {
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
            match (&plugin.library, workspace.library_places(name)) {
                (Some(library), _) if !workspace.has(name) && library.exists() => {
                    found.files.insert(name.clone(), library.clone());
                }
                (_, places) if places.is_empty() => found.mistakes.push(missing(config, &workspace, name)),
                (_, places) => match places.into_iter().find(|library| is_up_to_date(library)) {
                    Some(library) => drop(found.files.insert(name.clone(), library)),
                    None => found.unbuilt.push(name.clone()),
                },
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
        true => mistake.help("`bennu new NAME` makes one, in a folder that is in none"),
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

/// Whether none of the files that a library was built from has been saved since. Cargo lists them beside it.
fn is_up_to_date(library: &Path) -> bool {
    let saved = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).ok();
    let (Some(built), Ok(list)) = (saved(library), fs::read_to_string(library.with_extension("d"))) else {
        return false;
    };
    sources(&list).all(|source| saved(&source).is_some_and(|saved: SystemTime| saved <= built))
}

/// The files behind the first colon of `LIBRARY: FILE FILE …`; a space in a name has a `\` before it.
fn sources(list: &str) -> impl Iterator<Item = PathBuf> {
    const SPACE: &str = "\0";
    let line = list.lines().next().unwrap_or_default().replace("\\ ", SPACE);
    let files = line.split_once(": ").map(|(_, files)| files.to_owned());
    let files = files.unwrap_or_default();
    files
        .split_whitespace()
        .map(|file| PathBuf::from(file.replace(SPACE, " ")))
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stand_behind_the_library_with_or_without_spaces() {
        let files: Vec<_> = sources("/t/lib\\ a.so: /w/a.rs /w\\ x/b.rs\n\nother: c\n").collect();
        assert_eq!(files, ["/w/a.rs", "/w x/b.rs"].map(PathBuf::from));
    }
}
