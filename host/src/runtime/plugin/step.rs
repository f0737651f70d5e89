//! The steps of a library from the disk into service and out again, how far one came, and why it was rejected.

use std::fmt;
use std::time::{Duration, Instant};

use bennu_plugin::wire::SettingsError;
use serde::{Serialize, Serializer};

use super::quarantine::unix_seconds;
use crate::config::{self, Config};

/// One step, in the order in which a library takes them. The journal, the metrics, the log and the admin pages all use
/// [`Step::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// `bennu dev` builds the library.
    Build,
    /// The control thread hears that the library has changed.
    Notice,
    /// The file is read once it has stopped changing.
    Read,
    /// The file is a complete ELF library for this machine.
    Check,
    /// The library's manifest fits this host and this plugin.
    Manifest,
    /// Its contents are allowed and not in quarantine.
    Quarantine,
    /// The host writes a private copy.
    Stage,
    /// A child process loads the copy, checks the settings and reads a sample of the live state.
    Probe,
    /// The host maps the copy and starts its shards.
    Load,
    /// Topics move to the new generation.
    Swap,
    /// The new generation has caused no more faults than it may.
    Probation,
    /// The generation is on its own: it leaves service only for what it does there.
    Service,
    /// A generation without topics ends, and its library is unmapped.
    Retire,
}

impl Step {
    /// Its name. Stable: dashboards and scripts match on it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Notice => "notice",
            Self::Read => "read",
            Self::Check => "check",
            Self::Manifest => "manifest",
            Self::Quarantine => "quarantine",
            Self::Stage => "stage",
            Self::Probe => "probe",
            Self::Load => "load",
            Self::Swap => "swap",
            Self::Probation => "probation",
            Self::Service => "service",
            Self::Retire => "retire",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The steps that one library has passed, and how long each took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail {
    plugin: String,
    /// Step by step, in order.
    pub(crate) passed: Vec<(Step, Duration)>,
}

impl Trail {
    /// The trail of a library of `plugin` that has passed no step yet.
    #[must_use]
    pub(crate) fn of(plugin: &str) -> Self {
        Self {
            plugin: plugin.to_owned(),
            passed: Vec::new(),
        }
    }

    /// Takes a step, and notes it if the library passes.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub(crate) fn step<T>(&mut self, step: Step, work: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
        let start = Instant::now();
        let done = work()?;
        let took = start.elapsed();
        let plugin = &self.plugin;
        tracing::debug!(plugin, step = step.name(), took_us = took.as_micros(), "step passed");
        self.passed.push((step, took));
        Ok(done)
    }

    /// How long a step took; zero if the library has not passed it.
    #[must_use]
    pub(crate) fn took(&self, step: Step) -> Duration {
        let found = self.passed.iter().find(|(passed, _)| *passed == step);
        found.map_or(Duration::ZERO, |(_, took)| *took)
    }
}

/// Why a library did not come into service. What was in service stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// The step that rejected.
    pub(crate) step: Step,
    /// Stable, machine-readable code.
    pub(crate) code: String,
    /// One line for people.
    pub(crate) message: String,
    /// What the plugin says of its settings, if it rejected those.
    pub(crate) settings: Option<Box<SettingsError>>,
    /// The library does not read the state of live topics. Once they have ended, the same library may be taken.
    pub(crate) over_state: bool,
    /// The machine was to blame, not the library. The same library may be taken soon.
    pub(crate) may_pass: bool,
    /// When, in seconds since 1970.
    pub(crate) at_unix_s: u64,
}

impl Rejection {
    /// A rejection by `step`.
    #[must_use]
    pub(crate) fn new(step: Step, code: &str, message: impl Into<String>) -> Self {
        Self {
            step,
            code: code.to_owned(),
            message: message.into(),
            settings: None,
            over_state: false,
            may_pass: false,
            at_unix_s: unix_seconds(),
        }
    }

    /// A rejection by `step` for an error, with the error's causes in the same line.
    pub(crate) fn by(step: Step, code: &str, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::new(step, code, message)
    }

    /// As people read it: a mistake in the settings is shown at its line.
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

    /// The same rejection, blamed on the state of live topics, with what the author can do about it.
    #[must_use]
    pub(crate) fn over_state(mut self, plugin: &str) -> Self {
        let how = format!(
            "make the new version read the old state, or wait until these topics have ended: Bennu tries it again then, and on \
             the next save; `bennu plugins --reload {plugin}` tries it at once"
        );
        self.message = format!("{}; {how}", self.message);
        self.over_state = true;
        self
    }

    /// How often the same library is tried again; the probe, and all that runs code of it, only as often as `config` says.
    #[must_use]
    pub(crate) fn retries(&self, config: &config::Plugin) -> u32 {
        match self.step {
            _ if !self.may_pass => 0,
            Step::Probe | Step::Load => config.probe_retries,
            _ => u32::MAX,
        }
    }

    /// The same rejection, blamed on the machine.
    #[must_use]
    pub(crate) fn passing(mut self) -> Self {
        self.may_pass = true;
        self
    }
}
