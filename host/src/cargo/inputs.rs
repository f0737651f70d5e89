//! The files that a plugin is built from, as cargo and the compiler have written them down.
//!
//! For each library cargo writes a list of its files, and so does rustc for each crate, even for one that does not compile.
//! A build script prints what it depends on, and cargo keeps that. Nothing here guesses: a file is an input if one of them
//! names it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Package, Workspace};

/// The names of cargo's settings, in the folder of a workspace and those above it.
const SETTINGS: [&str; 2] = [".cargo/config.toml", ".cargo/config"];
/// What else decides over all builds of a workspace.
const OF_WORKSPACE: [&str; 4] = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "rust-toolchain"];

impl Workspace {
    /// The files that decide over the builds of all plugins, whether they exist or not.
    #[must_use]
    pub(crate) fn settings(&self) -> BTreeSet<PathBuf> {
        let own = OF_WORKSPACE.map(|name| self.root().join(name));
        let above = self.root().ancestors();
        let configured = above.flat_map(|folder| SETTINGS.map(|name| folder.join(name)));
        let home = cargo_home().map(|home| ["config.toml", "config"].map(|name| home.join(name)));
        own.into_iter()
            .chain(configured)
            .chain(home.into_iter().flatten())
            .collect()
    }

    /// The files that `plugin` was built from last, and folders that a build script of it names. Not those that builds write, and
    /// none before the first build.
    #[must_use]
    pub(crate) fn inputs(&self, plugin: &str) -> BTreeSet<PathBuf> {
        let packages = self.local_packages(plugin);
        let mut found = BTreeSet::new();
        for profile in self.profile_folders() {
            for package in &packages {
                found.extend(self.named(&profile, package));
            }
        }
        let home = cargo_home();
        let is_written = |file: &Path| file.starts_with(&self.target) || file.starts_with(&self.build);
        let is_downloaded = |file: &Path| home.as_ref().is_some_and(|home| file.starts_with(home));
        found.retain(|file| !is_written(file) && !is_downloaded(file));
        found
    }

    /// Has cargo compile what `plugin` needs of this workspace, though all files may be older than what it has compiled: that of a file
    /// that was put back may be. Cargo compares times only.
    pub(crate) fn age(&self, plugin: &str) {
        let members = self
            .local_packages(plugin)
            .into_iter()
            .filter(|package| package.is_member);
        let names: Vec<&str> = members.map(|package| &*package.name).collect();
        let is_theirs = |folder: &PathBuf| names.iter().any(|name| is_hashed(&name_of(folder), name));
        for profile in self.profile_folders() {
            let folders = [".fingerprint", "build"].map(|folder| entries(&profile.join(folder)));
            let files = folders
                .into_iter()
                .flatten()
                .filter(is_theirs)
                .flat_map(|folder| entries(&folder));
            let is_time = |file: &PathBuf| name_of(file).starts_with("dep-") || name_of(file) == "output";
            for file in files.filter(is_time) {
                // If that fails, cargo does as it always does.
                let _ = File::options()
                    .write(true)
                    .open(file)
                    .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH));
            }
        }
    }

    /// `debug` of the target directory, and of each platform in it.
    fn profile_folders(&self) -> Vec<PathBuf> {
        let roots = BTreeSet::from([&self.target, &self.build]);
        let within = |root: &PathBuf| {
            let platforms = entries(root).into_iter().map(|folder| folder.join("debug"));
            std::iter::once(root.join("debug")).chain(platforms).collect::<Vec<_>>()
        };
        let folders = roots.into_iter().flat_map(within);
        folders.filter(|folder| folder.is_dir()).collect()
    }

    /// What the builds of one package in one folder name.
    fn named(&self, profile: &Path, package: &Package) -> Vec<PathBuf> {
        let folder = package.folder();
        let absolute = |file: PathBuf| {
            // The compiler runs in the folder of the workspace for its members, else in that of the package.
            let places = [self.root().join(&file), folder.join(&file)];
            places.into_iter().find(|place| place.exists())
        };
        let libraries = package.targets.iter().filter(|target| target.is_library());
        let crates: BTreeSet<String> = libraries.map(|target| target.name.replace('-', "_")).collect();
        let is_of_crate = |file: &Path| {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let of = |name: &String| stem == **name || is_hashed(&stem, name) || stem == format!("lib{name}");
            file.extension() == Some(OsStr::new("d")) && crates.iter().any(of)
        };
        let lists = entries(&profile.join("deps")).into_iter().chain(entries(profile));
        let mut lists: Vec<_> = lists.filter(|file| is_of_crate(file)).collect();
        let mut found = Vec::new();
        let scripts = entries(&profile.join("build")).into_iter();
        for script in scripts.filter(|script| is_hashed(&name_of(script), &package.name)) {
            lists.extend(
                entries(&script)
                    .into_iter()
                    .filter(|file| file.extension() == Some(OsStr::new("d"))),
            );
            let printed = fs::read_to_string(script.join("output")).unwrap_or_default();
            found.extend(rerun_if_changed(&printed).map(|file| folder.join(file)));
        }
        for list in lists {
            let text = fs::read_to_string(list).unwrap_or_default();
            found.extend(listed(&text).into_iter().filter_map(absolute));
        }
        found
    }
}

impl Package {
    /// The folder that its manifest is in.
    pub(super) fn folder(&self) -> PathBuf {
        self.manifest_path.parent().map(Path::to_owned).unwrap_or_default()
    }
}

/// The files in a dependency file: those behind the first colon of `MADE: FILE FILE …`, where a space in a name has a `\` before it.
#[must_use]
pub(crate) fn listed(text: &str) -> Vec<PathBuf> {
    const SPACE: &str = "\0";
    let text = text.replace("\\ ", SPACE);
    let files = text
        .lines()
        .filter_map(|line| line.split_once(": ").map(|(_, files)| files));
    let files = files.flat_map(str::split_whitespace);
    files.map(|file| PathBuf::from(file.replace(SPACE, " "))).collect()
}

/// What a build script says that it depends on.
pub(super) fn rerun_if_changed(printed: &str) -> impl Iterator<Item = &str> {
    printed.lines().filter_map(|line| {
        let said = line.strip_prefix("cargo::").or_else(|| line.strip_prefix("cargo:"))?;
        said.strip_prefix("rerun-if-changed=").map(str::trim)
    })
}

/// Whether a name is `NAME-0123456789abcdef`.
fn is_hashed(name: &str, of: &str) -> bool {
    let hash = name.strip_prefix(of).and_then(|rest| rest.strip_prefix('-'));
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a folder; nothing, if there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn cargo_home() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stand_behind_the_library_with_or_without_spaces() {
        let text = "/t/lib\\ a.so: /w/a.rs /w\\ x/b.rs\n\n/w/a.rs:\n\n# env-dep:X=1\n";
        assert_eq!(listed(text), ["/w/a.rs", "/w x/b.rs"].map(PathBuf::from));
    }

    #[test]
    fn a_build_script_names_its_inputs_in_either_form() {
        let printed =
            "cargo:rerun-if-changed=a.txt\ncargo::rerun-if-changed=b c\ncargo:rustc-cfg=x\nrerun-if-changed=no\n";
        assert_eq!(rerun_if_changed(printed).collect::<Vec<_>>(), ["a.txt", "b c"]);
    }
}
