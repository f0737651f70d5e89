//! Shows what a library declares, and whether the server would load it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::cli::terminal::{BAD, GOOD, say, styled};
use crate::config::ProbeLimits;
use crate::config::{Complaint, Config, Mode};
use crate::runtime::metrics::milliseconds;
use crate::runtime::plugin::manifest::Manifest;
use crate::runtime::plugin::pipeline::{Approved, Pipeline, Wanted};
use crate::runtime::plugin::sample::Samples;
use crate::runtime::plugin::step::{Rejection, Step, Trail};
use crate::server;

/// Takes a library through all steps before it is loaded. Returns its manifest, and how long the probe took.
pub(super) fn tried(
    pipeline: &Pipeline,
    library: &Path,
    wanted: &Wanted<'_>,
) -> Result<(Manifest, Duration), Rejection> {
    let mut trail = Trail::of(wanted.plugin);
    let contents = pipeline.read(library, &mut trail)?;
    let no_state = |_: &Manifest| Ok(Samples::default());
    let Approved { manifest, .. } = pipeline.approve(wanted, &contents, no_state, &mut trail)?;
    Ok((manifest, trail.took(Step::Probe)))
}

/// The same for the plugin that the library itself names.
fn tried_alone(pipeline: &Pipeline, library: &Path, settings: &str) -> Found {
    let named = pipeline
        .read(library, &mut Trail::default())
        .map(|contents| Manifest::of_library(&contents.bytes).map(|manifest| manifest.name))?;
    let wanted = Wanted {
        // A library without a name is rejected for that.
        plugin: &named.unwrap_or_default(),
        attempt: 0,
        settings,
        allow: None,
        carries: true,
        limits: ProbeLimits::default(),
    };
    tried(pipeline, library, &wanted)
}

/// Checks one library and shows what it finds.
pub(super) fn run(library: &Path, settings: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    if !library.is_file() {
        anyhow::bail!(
            "there is no library {}: build it, or name another file",
            library.display()
        );
    }
    // An empty configuration says where it is staged, and what probes it.
    let config = Config::parse(Path::new("bennu.toml"), "", Mode::Dev)?;
    let (mut pipeline, _staging) = server::pipeline(&config)?;
    pipeline.reports = None;
    let found = tried_alone(&pipeline, library, settings);
    say(&if as_json {
        json(library, &found)
    } else {
        text(library, &found)
    });
    Ok(ExitCode::from(u8::from(found.is_err())))
}

type Found = Result<(Manifest, Duration), Rejection>;

fn text(library: &Path, found: &Found) -> String {
    let (manifest, probed) = match found {
        Ok(found) => found,
        Err(rejection) => {
            let complaint = { rejection.settings.as_ref() }.map(|error| Complaint::new(&error.path, &error.message));
            let help = complaint.and_then(|complaint| complaint.help);
            let help = help.map_or(String::new(), |help| format!("\n  = help: {help}"));
            let error = styled(BAD, "error");
            return format!(
                "{error}: {} is rejected (step `{}`): {}{help}",
                library.display(),
                rejection.step,
                rejection.message
            );
        }
    };
    let Manifest {
        name,
        version,
        kit,
        abi,
        target,
        state_version,
        reads,
        intercepts,
        ..
    } = manifest;
    let serves = match (manifest.has_channel, manifest.has_connect) {
        (true, true) => "channels, and decides who may connect",
        (true, false) => "channels",
        (false, _) => "no channels; decides who may connect",
    };
    let state = if reads.start() == reads.end() {
        format!("version {state_version}")
    } else {
        format!(
            "version {state_version}, and reads {} to {}",
            reads.start(),
            reads.end()
        )
    };
    let intercepts = if intercepts.is_empty() {
        "nothing".to_owned()
    } else {
        intercepts.join(", ")
    };
    let good = styled(GOOD, "good");
    format!(
        "plugin      {name} {version}\nbuilt with  bennu-plugin {kit} (ABI {}.{}) for {target}\nserves      {serves}\n\
         state       {state}\nintercepts  {intercepts}\nprobe       passed in {} ms\n\n{}: {good} as the library of [plugins.{name}]",
        abi.0,
        abi.1,
        probed.as_millis(),
        library.display(),
    )
}

fn json(library: &Path, found: &Found) -> String {
    let value = match found {
        Ok((manifest, probed)) => json!({
            "file": library, "good": true, "plugin": manifest.name, "version": manifest.version, "kit": manifest.kit,
            "abi": [manifest.abi.0, manifest.abi.1], "target": manifest.target, "state_version": manifest.state_version,
            "reads": [manifest.reads.start(), manifest.reads.end()], "intercepts": manifest.intercepts,
            "channel": manifest.has_channel, "connect": manifest.has_connect, "settings": manifest.takes_settings,
            "probe_ms": milliseconds(*probed),
        }),
        Err(rejection) => json!({
            "file": library, "good": false, "step": rejection.step, "code": rejection.code, "message": rejection.message,
            "settings_path": rejection.settings.as_ref().map(|error| &error.path),
        }),
    };
    value.to_string()
}
