//! What a section needs to know beyond its own text.

use std::path::{Component, Path, PathBuf};

use toml::Spanned;

use super::model::Mode;

/// What a section needs to know beyond its own text.
pub(super) struct Surroundings<'a> {
    pub(super) mode: Mode,
    /// The folder of the configuration, where relative paths start. Absolute.
    pub(super) folder: &'a Path,
}

impl Surroundings<'_> {
    /// The file or folder that a setting names.
    pub(super) fn path(&self, text: Option<Spanned<String>>) -> Option<PathBuf> {
        text.map(|text| resolve(self.folder, Path::new(text.get_ref())))
    }
}

/// `path` as seen from `folder`. `folder` has no symbolic link in it, so `..` can be removed by name.
pub(super) fn resolve(folder: &Path, path: &Path) -> PathBuf {
    let mut resolved = folder.to_owned();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
            other => resolved.push(other),
        }
    }
    resolved
}
