//! From a file to a library that may be loaded: the steps before anything changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_plugin::wire::SettingsError;

use super::elf::Elf;
use super::kept::Kept;
use super::manifest::{Manifest, ManifestError};
use super::probe::{self, ProbeError, Step, probe};
use super::quarantine::{Quarantine, Quarantined, private_dir, unix_seconds, write_whole};
use super::sample::Sample;
use super::stage::{Contents, StagedFile, read_settled};
use crate::config::ContentHash;
use crate::config::ProbeLimits;
use crate::config::{Complaint, Config};

/// Between two looks at a file that may still be written.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// What libraries are checked with.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    /// This program, for the probe.
    pub(crate) exe: PathBuf,
    /// Where libraries are staged.
    pub(crate) stage_dir: PathBuf,
    /// Contents that are not loaded again.
    pub(crate) quarantine: Arc<Quarantine>,
    /// Contents to go back to.
    pub(crate) kept: Kept,
    /// Where long reports are written, one for each plugin; `None`: nowhere, and nothing is put in quarantine either.
    pub(crate) reports: Option<PathBuf>,
}

/// What a library is checked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The plugin that it is to be.
    pub(crate) plugin: &'a str,
    /// Tells the staged copy from all others of this process.
    pub(crate) attempt: u64,
    /// The settings that it would get, as JSON.
    pub(crate) settings: &'a str,
    /// The contents that may be loaded; `None`: any.
    pub(crate) allow: Option<&'a [ContentHash]>,
    /// What its probe may use.
    pub(crate) limits: ProbeLimits,
}

/// The steps that a library has passed so far, and how long each took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail {
    /// Step by step, in order.
    pub(crate) passed: Vec<(&'static str, Duration)>,
}

impl Trail {
    /// Does a step, and notes it if it is passed.
    ///
    /// # Errors
    ///
    /// As the step does.
    pub(crate) fn step<T>(
        &mut self,
        plugin: &str,
        step: &'static str,
        work: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let start = Instant::now();
        let done = work()?;
        let took = start.elapsed();
        tracing::debug!(plugin, step, took_us = took.as_micros(), "step passed");
        self.passed.push((step, took));
        Ok(done)
    }

    /// How long a step took, zero if it was not passed.
    #[must_use]
    pub(crate) fn took(&self, step: &str) -> Duration {
        let found = self.passed.iter().find(|(passed, _)| *passed == step);
        found.map_or(Duration::ZERO, |(_, took)| *took)
    }
}

/// Why a library did not come into service. What was in service stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Which step said so: `build`, in `dev`, `read`, `check`, `manifest`, `quarantine`, `stage`, `probe`, `load`.
    pub(crate) step: &'static str,
    /// A word for the reason, the same for ever.
    pub(crate) code: String,
    /// One line for people.
    pub(crate) message: String,
    /// If the settings were to blame: what the plugin says of them.
    pub(crate) settings: Option<Box<SettingsError>>,
    /// The state of live topics was to blame: the same library may be taken once that is gone.
    pub(crate) over_state: bool,
    /// When, in seconds since 1970.
    pub(crate) at_unix_s: u64,
}

impl Refusal {
    /// A refusal by `step`.
    #[must_use]
    pub(crate) fn new(step: &'static str, code: &str, message: impl Into<String>) -> Self {
        Self {
            step,
            code: code.to_owned(),
            message: message.into(),
            settings: None,
            over_state: false,
            at_unix_s: unix_seconds(),
        }
    }

    /// As people read it: settings are shown at their line.
    #[must_use]
    pub(crate) fn shown(&self, config: &Config, plugin: &str) -> String {
        match &self.settings {
            Some(said) => format!(
                "its settings\n{}\n",
                config.settings_error(plugin, &said.path, &said.message)
            ),
            None => self.message.clone(),
        }
    }

    /// A refusal by `step`, with an error and what led to it in one line.
    pub(crate) fn by(step: &'static str, code: &str, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::new(step, code, message)
    }
}

impl Refusal {
    /// The same, with the state of live topics to blame, and with what is to be done about that.
    #[must_use]
    pub(crate) fn over_state(mut self, plugin: &str) -> Self {
        let how = format!(
            "have it read that state, or let the topics end: it is tried again then, and when it is saved once more; \
             `bennu plugins --reload {plugin}` tries it at once"
        );
        self.message = format!("{}; {how}", self.message);
        self.over_state = true;
        self
    }

    /// Whether the machine was to blame, not the library: the same may be taken soon.
    #[must_use]
    pub(crate) fn may_pass(&self) -> bool {
        matches!((self.step, &*self.code), ("stage", _) | ("probe", "probe"))
    }
}

impl Pipeline {
    /// Reads a library once it has settled.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it keeps changing.
    pub(crate) fn read(&self, path: &Path) -> Result<Contents, Refusal> {
        read_settled(path, || std::thread::sleep(SECOND_LOOK))
            .map_err(|error| Refusal::by("read", error.code(), &error))
    }

    /// Checks what was read, before any of it runs. Notes what was passed in `trail`.
    ///
    /// # Errors
    ///
    /// If it is not to be loaded.
    pub(crate) fn check(
        &self,
        wanted: &Wanted<'_>,
        contents: &Contents,
        trail: &mut Trail,
    ) -> Result<Manifest, Refusal> {
        let Wanted { plugin, .. } = *wanted;
        trail.step(plugin, "check", || {
            Elf::check(&contents.bytes)
                .map(drop)
                .map_err(|error| Refusal::by("check", error.code(), &error))
        })?;
        let manifest = trail.step(plugin, "manifest", || {
            read_manifest(plugin, contents).map_err(|error| Refusal::by("manifest", error.code(), &error))
        })?;
        trail.step(plugin, "quarantine", || self.may_run(wanted, contents.hash))?;
        Ok(manifest)
    }

    /// Stages what was checked and tries it in a child, on `samples` of live state, too.
    ///
    /// # Errors
    ///
    /// If it is not to be loaded.
    pub(crate) fn try_out(
        &self,
        wanted: &Wanted<'_>,
        contents: &Contents,
        samples: Vec<Sample>,
        trail: &mut Trail,
    ) -> Result<StagedFile, Refusal> {
        let Wanted { plugin, .. } = *wanted;
        let staged = trail.step(plugin, "stage", || {
            StagedFile::write(&self.stage_dir, plugin, wanted.attempt, contents)
                .map_err(|error| Refusal::by("stage", error.code(), &error))
        })?;
        trail.step(plugin, "probe", || {
            probe(&self.exe, staged.path(), wanted.settings, samples, &wanted.limits)
                .map_err(|error| self.not_probed(plugin, contents.hash, error))
        })?;
        Ok(staged)
    }

    /// Whether these contents may run at all.
    fn may_run(&self, wanted: &Wanted<'_>, hash: ContentHash) -> Result<(), Refusal> {
        if wanted.allow.is_some_and(|allowed| !allowed.contains(&hash)) {
            let message = format!(
                "its contents are not on the list of [plugins.{}] allow: {hash:#}",
                wanted.plugin
            );
            return Err(Refusal::new("quarantine", "not_allowed", message));
        }
        match self.quarantine.find(hash) {
            None => Ok(()),
            Some(why) => {
                let file = self.quarantine.file(hash);
                let message = format!(
                    "its contents are in quarantine: {}; lift it with `bennu plugins --lift {hash:#}`, or remove {}",
                    why.reason,
                    file.display()
                );
                Err(Refusal::new("quarantine", "quarantined", message))
            }
        }
    }

    /// What a failed probe means: contents that crash are not tried again.
    fn not_probed(&self, plugin: &str, hash: ContentHash, error: ProbeError) -> Refusal {
        let mut refusal = Refusal::by("probe", error.code(), &error);
        let report = match error {
            ProbeError::Settings { path, message } => {
                return Refusal {
                    message: Complaint::new(&path, &message).by("it"),
                    settings: Some(Box::new(SettingsError { path, message })),
                    ..refusal
                };
            }
            ProbeError::Crashed { signal, stderr, .. } => {
                // Killed for want of time or memory: that may have been the machine's fault.
                if !probe::is_fault(signal) {
                    return refusal;
                }
                if self.reports.is_none() {
                    return refusal;
                }
                let why = Quarantined::now(plugin, &refusal.code, &format!("in the probe {}", refusal.message));
                self.quarantine.add(hash, &why);
                stderr
            }
            ProbeError::Restore { .. }
            | ProbeError::TimedOut {
                step: Step::Restore, ..
            } => return refusal.over_state(plugin),
            ProbeError::Layout(error) => error.report,
            ProbeError::Exited { stderr, .. } => stderr,
            _ => String::new(),
        };
        if let Some(file) = self.report(plugin, &report) {
            refusal.message = format!("{}; more in {}", refusal.message, file.display());
        }
        refusal
    }

    /// Writes what is too long for a line. Returns where it is.
    fn report(&self, plugin: &str, text: &str) -> Option<PathBuf> {
        let dir = self.reports.as_ref().filter(|_| !text.is_empty())?;
        let file = dir.join(format!("{}.txt", plugin.replace('/', "_")));
        let written = private_dir(dir).and_then(|()| write_whole(&file, text.as_bytes()));
        written
            .inspect_err(|error| tracing::warn!(%error, file = %file.display(), "a report cannot be written"))
            .ok()?;
        Some(file)
    }
}

fn read_manifest(plugin: &str, contents: &Contents) -> Result<Manifest, ManifestError> {
    let manifest = Manifest::of_library(&contents.bytes)?;
    manifest.check_name(plugin)?;
    Ok(manifest)
}
