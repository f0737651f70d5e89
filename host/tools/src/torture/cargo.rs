//! Builds variants of the plugin with cargo.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cargo_metadata::diagnostic::DiagnosticLevel;
use cargo_metadata::{Error, Message, Metadata, MetadataCommand};

/// The folder of these builds in the target directory: apart from other builds, which may run at the same time.
const TARGET: &str = "bennu-torture";

/// Why there is no library.
#[derive(Debug, thiserror::Error)]
pub(super) enum CargoError {
    /// Cargo cannot be run.
    #[error("cannot run cargo{}", advice(.0))]
    Run(#[source] io::Error),
    /// There is no workspace, or cargo cannot read it. The text is from cargo.
    #[error("cannot read the cargo workspace: {0}")]
    Workspace(String),
    /// The workspace lacks the package.
    #[error("the workspace has no package `{0}`")]
    NoPackage(String),
    /// The build failed. The text is from the compiler and from cargo.
    #[error("{0}")]
    Build(String),
    /// The package is not a plugin.
    #[error("the package `{0}` does not build a library; set crate-type = [\"cdylib\"]")]
    NoLibrary(String),
}

/// A cargo workspace.
#[derive(Debug)]
pub(super) struct Workspace(Metadata);

impl Workspace {
    /// Finds the workspace that contains `folder`.
    pub(super) fn find(folder: &Path) -> Result<Self, CargoError> {
        let metadata = MetadataCommand::new().current_dir(folder).no_deps().exec();
        metadata.map(Self).map_err(|error| match error {
            Error::Io(error) => CargoError::Run(error),
            Error::CargoMetadata { stderr } => {
                CargoError::Workspace(stderr.trim().trim_start_matches("error: ").to_owned())
            }
            error => CargoError::Workspace(error.to_string()),
        })
    }

    /// The folder of the workspace's `Cargo.toml`.
    pub(super) fn root(&self) -> &Path {
        self.0.workspace_root.as_std_path()
    }

    /// The folder that cargo builds into.
    pub(super) fn target(&self) -> &Path {
        self.0.target_directory.as_std_path()
    }

    /// Builds a package with these features, in the profile of this program. Returns its library, which the next build
    /// of the package overwrites.
    pub(super) fn build(&self, package: &str, features: &str) -> Result<PathBuf, CargoError> {
        let packages = self.0.workspace_packages();
        let Some(wanted) = packages.iter().find(|found| *found.name == package) else {
            return Err(CargoError::NoPackage(package.to_owned()));
        };
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let output = Command::new(cargo())
            .args(["build", "--message-format", "json", "--color", "never"])
            .args(["--package", package, "--features", features, "--profile", profile])
            .arg("--target-dir")
            .arg(self.target().join(TARGET))
            .current_dir(self.root())
            .stdin(Stdio::null())
            .output()
            .map_err(CargoError::Run)?;
        if !output.status.success() {
            return Err(CargoError::Build(failure(&output)));
        }
        let library = messages(&output).find_map(|message| match message {
            Message::CompilerArtifact(artifact) if artifact.package_id == wanted.id && artifact.target.is_cdylib() => {
                let mut files = artifact.filenames.into_iter();
                files.find(|file| file.extension() == Some("so"))
            }
            _ => None,
        });
        library
            .map(Into::into)
            .ok_or_else(|| CargoError::NoLibrary(package.to_owned()))
    }
}

/// The program that cargo names to what it runs, or the one in `PATH`.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": install Rust, or add cargo to PATH",
        _ => "",
    }
}

fn messages(output: &Output) -> impl Iterator<Item = Message> {
    Message::parse_stream(&*output.stdout).map_while(Result::ok)
}

/// The errors of the compiler, then those of cargo.
fn failure(output: &Output) -> String {
    let compiler = messages(output).filter_map(|message| match message {
        Message::CompilerMessage(message) if message.message.level == DiagnosticLevel::Error => {
            message.message.rendered
        }
        _ => None,
    });
    let cargo = String::from_utf8_lossy(&output.stderr);
    let cargo = cargo.lines().skip_while(|line| !line.starts_with("error"));
    let text: Vec<String> = compiler.chain(cargo.map(str::to_owned)).collect();
    if text.is_empty() {
        return format!("cargo ended with {}", output.status);
    }
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A workspace with one package, `torture-sample`, and what its build gives.
    fn build(crate_type: &str, source: &str, features: &str) -> (TempDir, Result<PathBuf, CargoError>) {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = format!(
            "[package]\nname = \"torture-sample\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
             [lib]\ncrate-type = [\"{crate_type}\"]\n[features]\nother = []\n[workspace]\n"
        );
        fs::create_dir(folder.path().join("src")).expect("a folder");
        fs::write(folder.path().join("Cargo.toml"), manifest).expect("written");
        fs::write(folder.path().join("src/lib.rs"), source).expect("written");
        let workspace = Workspace::find(&folder.path().join("src")).expect("a workspace");
        assert_eq!(workspace.root(), folder.path().canonicalize().expect("it is there"));
        let built = workspace.build("torture-sample", features);
        (folder, built)
    }

    #[test]
    fn a_variant_is_built_with_its_features() {
        let source = "#[cfg(not(feature = \"other\"))]\ncompile_error!(\"the feature is missing\");\n";
        let (_folder, library) = build("cdylib", source, "other");
        let library = library.expect("a library");
        assert!(library.ends_with("libtorture_sample.so"), "{library:?}");
        assert!(fs::read(library).expect("readable").starts_with(b"\x7fELF"));
    }

    #[test]
    fn an_error_of_the_compiler_is_shown_with_its_place() {
        let (_folder, refused) = build("cdylib", "fn wrong() -> u8 { true }\n", "");
        let error = refused.expect_err("it does not compile").to_string();
        assert!(
            error.contains("src/lib.rs:1") && error.contains("could not compile"),
            "{error}"
        );
    }

    #[test]
    fn a_package_that_is_no_plugin_is_named() {
        let (_folder, refused) = build("rlib", "", "");
        let error = refused.expect_err("an rlib").to_string();
        assert!(
            error.contains("`torture-sample`") && error.contains("cdylib"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_outside_of_a_workspace_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Workspace::find(folder.path()).expect_err("no workspace");
        let shown = error.to_string();
        assert!(
            shown.starts_with("cannot read the cargo workspace: could not find `Cargo.toml`"),
            "{shown}"
        );
    }
}
