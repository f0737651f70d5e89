//! What the surroundings have to offer for a start: secrets, addresses, open files, and each plugin's `init`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Config, Diagnostic, Mode, nearest};
use crate::runtime::plugin::step::Rejection;
use crate::server::preflight::Unavailable;
use crate::server::{StartError, descriptors, preflight};

/// What is wrong with the secrets.
pub(super) fn secrets(config: &Config, mode: Mode) -> Vec<Diagnostic> {
    let errors = preflight::secrets(config, mode);
    errors.iter().map(|error| placed(config, error)).collect()
}

/// Which addresses are not free. One that is only taken is a warning: the server that is to be replaced may still run.
pub(super) fn addresses(config: &Config) -> anyhow::Result<Vec<Diagnostic>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let unavailable = runtime.block_on(async { preflight::addresses(config, Mode::Serve) });
    let diagnostic = |Unavailable { error, may_pass }: &Unavailable| {
        if !may_pass {
            return placed(config, error);
        }
        if let StartError::Listener { index, at, .. } = error {
            return config.listed_warning("listeners", *index, &with_causes(error)).help(
                match at.starts_with("systemd:") {
                    true => "only systemd passes it on, when it starts the service",
                    false => "`bennu serve` starts once the address is free",
                },
            );
        }
        let (section, key) = place(error);
        config
            .key_warning(section, key, &with_causes(error))
            .help("`bennu serve` starts once the address is free")
    };
    Ok(unavailable.iter().map(diagnostic).collect())
}

/// Whether topics can be stored. A folder that another server has is a warning: that may be the one that is to be replaced.
pub(super) fn store(config: &Config) -> Option<Diagnostic> {
    let Unavailable { error, may_pass } = preflight::store(config)?;
    if !may_pass {
        return Some(placed(config, &error));
    }
    let (section, key) = place(&error);
    let warning = config.key_warning(section, key, &with_causes(&error));
    Some(warning.help("`bennu serve` starts once that server has ended"))
}

/// How many files the system lets the server have open.
pub(super) fn open_files() -> u64 {
    descriptors::most()
}

/// A warning if those are too few for the connections.
pub(super) fn too_few_files(config: &Config) -> Option<Diagnostic> {
    descriptors::shortage(config, descriptors::most())
}

/// Which plugins do not start.
pub(super) fn plugins(config: &Config, libraries: &BTreeMap<String, PathBuf>) -> anyhow::Result<Vec<Diagnostic>> {
    Ok(match preflight::plugins(config, libraries) {
        Ok(rejected) => {
            let rejected = rejected.iter();
            rejected
                .map(|(name, rejection)| rejected_library(config, name, rejection, &libraries[name]))
                .collect()
        }
        Err(error) => vec![placed(config, &error)],
    })
}

/// The rejection of a plugin's library, at the setting that is to blame.
pub(super) fn rejected_library(config: &Config, name: &str, rejection: &Rejection, library: &Path) -> Diagnostic {
    let diagnostic = match &rejection.settings {
        Some(said) => config.settings_error(name, &said.path, &said.message),
        None => config.library_error(name, &format!("{} (step `{}`)", rejection.message, rejection.step)),
    };
    match library.exists() {
        true => diagnostic,
        false => diagnostic.help(how_to_build(name, library)),
    }
}

/// What `bennu serve` would say, at the setting that is to blame.
pub(super) fn placed(config: &Config, error: &StartError) -> Diagnostic {
    if let StartError::Keys(bad) = error {
        return config.auth_error(&bad.mount, &bad.to_string());
    }
    let message = with_causes(error);
    match error {
        StartError::Listener { index, .. } => return config.listed_error("listeners", *index, &message),
        StartError::Certificate(bad) => return config.listed_error("tls.certificates", bad.index, &message),
        _ => {}
    }
    let (section, key) = place(error);
    config.key_error(section, key, &message)
}

/// The setting that an error is about.
fn place(error: &StartError) -> (&'static str, &'static str) {
    match error {
        StartError::Listen { setting, .. } if setting.contains("[admin]") => ("admin", "listen"),
        StartError::Listen { setting, .. } if setting.contains("[api]") => ("api", "listen"),
        StartError::Listen { .. } => ("server", "listen"),
        StartError::ApiSecret(_) => ("api", "keys"),
        StartError::Admin(_) => ("admin", "listen"),
        StartError::Secret(_) => ("server", "secret_key_base_file"),
        StartError::Untrusted(untrusted) => ("server", untrusted.key()),
        StartError::Stage { .. } | StartError::NoExec { .. } => ("server", "stage_dir"),
        StartError::Listener { .. } => ("listeners", ""),
        StartError::Certificate(_) => ("tls", ""),
        StartError::Cluster(_) => ("cluster", ""),
        StartError::Telemetry(_) => ("telemetry", "headers_file"),
        StartError::Store(_) => ("server", "state_dir"),
        StartError::System(_) | StartError::Plugin { .. } | StartError::Keys(_) => ("server", ""),
    }
}

/// An error and its causes in one line, as the command line shows them.
fn with_causes(error: &StartError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What makes a library that is missing.
fn how_to_build(plugin: &str, library: &Path) -> String {
    let folder = library.parent().and_then(Path::file_name).unwrap_or_default();
    let make = match folder.to_str() {
        Some("debug") => format!("build it with `cargo build -p {plugin}`"),
        Some("release") => format!("build it with `cargo build --release -p {plugin}`"),
        _ => "put it there".to_owned(),
    };
    let near = neighbour(library).map(|near| format!("did you mean `{near}`? If not, "));
    format!(
        "{}{make}, or check with --dev, which needs no library",
        near.unwrap_or_default()
    )
}

/// The library in the same folder whose name is nearly that of one that is not there.
fn neighbour(library: &Path) -> Option<String> {
    let files = std::fs::read_dir(library.parent()?)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name());
    let names: Vec<String> = files.filter_map(|name| name.into_string().ok()).collect();
    let libraries: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with(".so"))
        .collect();
    nearest(library.file_name()?.to_str()?, &libraries).map(str::to_owned)
}
