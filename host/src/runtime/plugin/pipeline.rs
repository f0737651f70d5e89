//! From a file to a library that may be loaded: the steps that run no code of it in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bennu_plugin::wire::SettingsError;

use super::elf::Elf;
use super::generation::Generation;
use super::kept::Kept;
use super::manifest::{Manifest, ManifestError};
use super::probe::{self, ProbeError, probe};
use super::quarantine::{Quarantine, Quarantined, private_dir, write_whole};
use super::sample::{Sample, Samples, Untried};
use super::slot::PluginSlot;
use super::stage::{Contents, StagedFile, is_noexec, read_settled};
use super::step::{Rejection, Step, Trail};
use crate::config::{self, Complaint, ContentHash, ProbeLimits};

/// The pause between two looks at a file that may still be written.
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
    /// The configuration, as messages name it to commands.
    pub(crate) config: PathBuf,
    /// Where to write long reports, one for each plugin. `None`: nowhere, and the probe puts nothing in quarantine.
    pub(crate) reports: Option<PathBuf>,
}

/// What a library is checked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The plugin that it has to be.
    pub(crate) plugin: &'a str,
    /// A number that no other staged copy of this process has.
    pub(crate) attempt: u64,
    /// The settings that it would get, as JSON.
    pub(crate) settings: &'a str,
    /// The contents that may be loaded; `None`: any.
    pub(crate) allow: Option<&'a [ContentHash]>,
    /// Whether its topics are to survive a reload.
    pub(crate) carries: bool,
    /// The limits of its probe.
    pub(crate) limits: ProbeLimits,
}

/// A library that may be loaded.
#[derive(Debug)]
pub(crate) struct Approved {
    /// What it says of itself.
    pub(crate) manifest: Manifest,
    /// Its private copy.
    pub(crate) staged: StagedFile,
    /// Generations whose state it was not tried on.
    pub(super) untried: Untried,
}

impl Pipeline {
    /// [`Step::Read`]: reads a library once it has stopped changing.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it keeps changing.
    pub(crate) fn read(&self, path: &Path, trail: &mut Trail) -> Result<Contents, Rejection> {
        trail.step(Step::Read, || {
            read_settled(path, || std::thread::sleep(SECOND_LOOK)).map_err(|error| {
                let rejection = Rejection::by(Step::Read, error.code(), &error);
                if error.may_pass() {
                    rejection.passing()
                } else {
                    rejection
                }
            })
        })
    }

    /// [`Step::Check`] to [`Step::Probe`]. `sample` takes the live state that the library is tried on, once its manifest is
    /// known.
    ///
    /// # Errors
    ///
    /// If a step rejects it.
    pub(crate) fn approve(
        &self,
        wanted: &Wanted<'_>,
        contents: &Contents,
        sample: impl FnOnce(&Manifest) -> Result<Samples, Rejection>,
        trail: &mut Trail,
    ) -> Result<Approved, Rejection> {
        trail.step(Step::Check, || {
            Elf::check(&contents.bytes)
                .map(drop)
                .map_err(|error| Rejection::by(Step::Check, error.code(), &error))
        })?;
        let manifest = trail.step(Step::Manifest, || {
            read_manifest(wanted.plugin, contents).map_err(|error| Rejection::by(Step::Manifest, error.code(), &error))
        })?;
        trail.step(Step::Quarantine, || self.may_run(wanted, contents.hash))?;
        let Samples { mut taken, untried } = sample(&manifest)?;
        if wanted.carries && manifest.has_channel && manifest.checks_state() {
            taken.insert(0, Sample::first(&manifest));
        }
        let staged = trail.step(Step::Stage, || {
            StagedFile::write(&self.stage_dir, wanted.plugin, wanted.attempt, contents)
                .map_err(|error| Rejection::by(Step::Stage, error.code(), &error).passing())
        })?;
        trail.step(Step::Probe, || {
            probe(&self.exe, staged.path(), wanted.settings, taken, &wanted.limits)
                .map_err(|error| self.explained(self.not_probed(wanted.plugin, contents.hash, error)))
        })?;
        Ok(Approved {
            manifest,
            staged,
            untried,
        })
    }

    /// Has code that is loaded already read samples of state, in a child. It need not be able to read them.
    ///
    /// # Errors
    ///
    /// If the child crashes or hangs over them, or cannot be run.
    pub(super) fn try_on(
        &self,
        code: &Generation,
        samples: Vec<Sample>,
        limits: &ProbeLimits,
    ) -> Result<(), ProbeError> {
        if samples.is_empty() {
            return Ok(());
        }
        let samples = samples.into_iter().map(Sample::optional).collect();
        probe(&self.exe, code.library(), &code.settings, samples, limits).map(drop)
    }

    /// Has code in service read samples of its own state, in a child.
    ///
    /// # Errors
    ///
    /// If it cannot, or crashes or hangs over them, or if the child cannot be run.
    pub(super) fn try_own(
        &self,
        code: &Generation,
        samples: Vec<Sample>,
        limits: &ProbeLimits,
    ) -> Result<(), ProbeError> {
        let samples = samples.into_iter().map(Sample::required).collect();
        probe(&self.exe, code.library(), &code.settings, samples, limits).map(drop)
    }

    /// The contents in service, or else the newest good ones that may be loaded, but not `except`.
    pub(super) fn last_good(
        &self,
        slot: &PluginSlot,
        config: &config::Plugin,
        except: Option<ContentHash>,
    ) -> Option<Contents> {
        let current = slot.current().map(|current| current.hash);
        let allowed = |hash| config.allow.as_ref().is_none_or(|allowed| allowed.contains(&hash));
        let good = |hash| Some(hash) != except && allowed(hash) && self.quarantine.find(hash).is_none();
        self.kept
            .newest(&slot.name, |hash| Some(hash) == current && good(hash))
            .or_else(|| self.kept.newest(&slot.name, good))
    }

    /// Keeps a copy of a good library, to go back to.
    pub(super) fn keep(&self, slot: &PluginSlot, generation: &Generation) {
        if let Err(error) = self.kept.keep(&slot.name, generation.hash, generation.library()) {
            tracing::warn!(plugin = slot.name, %error, "cannot store a copy of a good library");
        }
    }

    /// The same rejection; says so if the stage folder is to blame.
    #[must_use]
    pub(super) fn explained(&self, mut rejection: Rejection) -> Rejection {
        let is_denied = |message: &str| {
            let whys = ["Operation not permitted", "Permission denied"];
            message.contains("failed to map segment") && whys.iter().any(|why| message.contains(why))
        };
        if is_denied(&rejection.message) {
            let why = if is_noexec(&self.stage_dir) {
                "is on a file system that is mounted noexec"
            } else {
                "is a place from which the system runs no code"
            };
            let folder = self.stage_dir.display();
            rejection.message = format!(
                "{}; the stage folder {folder} {why}: set `[server] stage_dir` to a folder on another file system",
                rejection.message
            );
        }
        rejection
    }

    /// Whether these contents may run at all.
    fn may_run(&self, wanted: &Wanted<'_>, hash: ContentHash) -> Result<(), Rejection> {
        if wanted.allow.is_some_and(|allowed| !allowed.contains(&hash)) {
            let message = format!(
                "its contents are not on the list of [plugins.{}] allow: {hash:#}",
                wanted.plugin
            );
            return Err(Rejection::new(Step::Quarantine, "not_allowed", message));
        }
        match self.quarantine.find(hash) {
            None => Ok(()),
            Some(why) => {
                let file = self.quarantine.file(hash);
                let message = format!(
                    "its contents are in quarantine: {}; lift it with `bennu plugins --config {} --lift {hash:#}`, or remove {}",
                    why.reason,
                    self.config.display(),
                    file.display()
                );
                Err(Rejection::new(Step::Quarantine, "quarantined", message))
            }
        }
    }

    /// The rejection for a failed probe. Contents that crash go into quarantine.
    fn not_probed(&self, plugin: &str, hash: ContentHash, error: ProbeError) -> Rejection {
        let mut rejection = Rejection::by(Step::Probe, error.code(), &error);
        if error.may_pass() {
            return rejection.passing();
        }
        let report = match error {
            ProbeError::Settings { path, message } => {
                return Rejection {
                    message: Complaint::new(&path, &message).by("it"),
                    settings: Some(Box::new(SettingsError { path, message })),
                    ..rejection
                };
            }
            ProbeError::Crashed { signal, stderr, .. } => {
                // It has reached a limit of the probe, which an operator may raise.
                if !probe::is_fault(signal) {
                    return rejection;
                }
                if self.reports.is_none() {
                    return rejection;
                }
                let why = Quarantined::now(plugin, &rejection.code, &format!("in the probe {}", rejection.message));
                self.quarantine.add(hash, &why);
                stderr
            }
            ProbeError::Restore { .. }
            | ProbeError::TimedOut {
                step: probe::Step::Restore,
                ..
            } => return rejection.over_state(plugin),
            ProbeError::Layout(error) => error.report,
            ProbeError::Exited { stderr, .. } => stderr,
            _ => String::new(),
        };
        if let Some(file) = self.report(plugin, &report) {
            rejection.message = format!("{}; more in {}", rejection.message, file.display());
        }
        rejection
    }

    /// Writes a report that is too long for a log line. Returns its file.
    fn report(&self, plugin: &str, text: &str) -> Option<PathBuf> {
        let dir = self.reports.as_ref().filter(|_| !text.is_empty())?;
        let file = dir.join(format!("{}.txt", plugin.replace('/', "_")));
        let written = private_dir(dir).and_then(|()| write_whole(&file, text.as_bytes()));
        written
            .inspect_err(|error| tracing::warn!(%error, file = %file.display(), "cannot write a report"))
            .ok()?;
        Some(file)
    }
}

fn read_manifest(plugin: &str, contents: &Contents) -> Result<Manifest, ManifestError> {
    let manifest = Manifest::of_library(&contents.bytes)?;
    manifest.check_name(plugin)?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plugin::testing::Folder;

    #[test]
    fn a_stage_folder_from_which_no_code_runs_is_named_with_its_setting() {
        let dir = Folder::new();
        let pipeline = Pipeline {
            config: "bennu.toml".into(),
            exe: PathBuf::new(),
            stage_dir: dir.to_path_buf(),
            quarantine: Arc::new(Quarantine::new(&dir, 1)),
            kept: Kept::new(&dir, 1),
            reports: None,
        };
        let explained = |message: &str| pipeline.explained(Rejection::new(Step::Probe, "open", message)).message;
        let denied = explained("room.so: failed to map segment from shared object: Operation not permitted");
        let named = format!("the stage folder {} ", dir.display());
        assert!(
            denied.contains(&named) && denied.contains("`[server] stage_dir`"),
            "{denied}"
        );
        let short = "room.so: failed to map segment from shared object: Cannot allocate memory";
        assert_eq!(explained(short), short);
    }
}
