//! From a file to a library that may be loaded: the steps before anything changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::manifest::Manifest;
use super::probe::{ProbeError, ProbeLimits, probe};
use super::stage::{Contents, StagedFile, read_settled};

/// Between two looks at a file that may still be written.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// What libraries are checked with.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// This program, for the probe.
    pub exe: PathBuf,
    /// Where libraries are staged.
    pub stage_dir: PathBuf,
}

/// A library that passed.
#[derive(Debug)]
pub struct Ready {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The copy to be loaded.
    pub staged: StagedFile,
    /// How long the probe took.
    pub probed: Duration,
}

/// Why a library did not come into service. What was in service stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which step said so: `read`, `manifest`, `stage`, `probe`, `load`.
    pub step: &'static str,
    /// A word for the reason, the same for ever.
    pub code: String,
    /// One line for people.
    pub message: String,
    /// If the settings were to blame: where in them.
    pub settings_path: Option<String>,
}

impl Refusal {
    /// A refusal by `step`.
    pub fn new(step: &'static str, code: &str, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self {
            step,
            code: code.to_owned(),
            message,
            settings_path: None,
        }
    }
}

impl Pipeline {
    /// Reads a library once it has settled.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it keeps changing.
    pub fn read(&self, path: &Path) -> Result<Contents, Refusal> {
        read_settled(path, || std::thread::sleep(SECOND_LOOK))
            .map_err(|error| Refusal::new("read", error.code(), &error))
    }

    /// Checks, stages and probes what was read.
    ///
    /// # Errors
    ///
    /// If it is not to be loaded.
    pub fn check(&self, plugin: &str, generation: u64, contents: &Contents, settings: &str) -> Result<Ready, Refusal> {
        let refused = |error: super::manifest::ManifestError| Refusal::new("manifest", error.code(), &error);
        let manifest = Manifest::of_library(&contents.bytes).map_err(refused)?;
        manifest.check_name(plugin).map_err(refused)?;
        let staged = StagedFile::write(&self.stage_dir, plugin, generation, contents)
            .map_err(|error| Refusal::new("stage", error.code(), &error))?;
        let report = probe(&self.exe, staged.path(), settings, &ProbeLimits::default()).map_err(|error| {
            let refusal = Refusal::new("probe", error.code(), &error);
            match error {
                ProbeError::Settings { path, message } => Refusal {
                    message,
                    settings_path: Some(path),
                    ..refusal
                },
                _ => refusal,
            }
        })?;
        Ok(Ready {
            manifest,
            staged,
            probed: report.took,
        })
    }
}
